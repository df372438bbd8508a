"""Each result shows itself in a notebook without a kernel: numbers as they are, pictures inside, nothing fetched."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.model.tiny import TINY
from vivit_lab.attribution import AttentionRollout
from vivit_lab.colormap import choose_colormap
from vivit_lab.explain import Explanation
from vivit_lab.families import VivitForVideoClassification, model_cost
from vivit_lab.model import VivitConfig
from vivit_lab.planted import PlantedConfig, planted_clip
from vivit_lab.records import record_attention
from vivit_lab.video import Clip


def pictures(html):
    assert "http" not in html
    data = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in data]


def noise(count=10, height=40, width=60):
    return np.random.default_rng(0).integers(0, 255, (count, height, width, 3), dtype=np.uint8)


def test_a_clip_shows_its_first_and_last_frame_and_when_they_are():
    clip = replace(Clip.from_frames(noise(), fps=5.0), path="a<b>.mp4", decode_warnings=3)
    html = clip._repr_html_()
    shown = pictures(html)
    assert len(shown) == 6
    assert np.array_equal(shown[0], clip.frames[0])
    assert np.array_equal(shown[-1], clip.frames[-1])
    for part in ("a&lt;b&gt;.mp4", "10 frames of 40×60", "1.80 s", "3 warnings"):
        assert part in html


def test_a_large_clip_is_shown_small():
    (one,) = pictures(Clip.from_frames(noise(1, 200, 400))._repr_html_())
    assert max(one.shape) <= 168


def test_a_planted_clip_says_what_was_planted():
    clip = planted_clip(PlantedConfig(split="test"), 4)
    html = clip._repr_html_()
    assert repr(clip.label_name)[1:-1] in html
    assert np.array_equal(pictures(html)[0], clip.frames[0])


@pytest.mark.parametrize("variant", ["spacetime", "factorized_encoder", "factorized_dot_product_attention"])
def test_a_record_shows_where_a_token_looks(variant):
    config = VivitConfig(**{**TINY, "variant": variant, "num_labels": 3})
    torch.manual_seed(0)
    model = VivitForVideoClassification(config).eval()
    record = record_attention(model, torch.randn(2, config.num_frames, 3, config.image_size, config.image_size))
    html = record._repr_html_()
    assert repr(record) in html
    assert len(repr(record)) < 120  # in one line, also of the variants
    grid, layer = record.grid, record.layers[-1]
    assert f"in layer {layer}, mean over heads" in html
    bar, *shown = pictures(html)
    assert bar.shape == (1, 256, 3)
    assert [one.shape for one in shown] == [(grid.h, grid.w, 3)] * grid.t
    token = 0 if grid.cls else grid.token(grid.t // 2, grid.h // 2, grid.w // 2)
    row = record.rows(layer, token)[0].mean(dim=0)[0, int(grid.cls) :]
    table = choose_colormap(None, signed=False).table
    if float(row.max() - row.min()) > 1e-4 * float(row.max()):
        assert np.array_equal(np.concatenate(shown).reshape(-1, 3)[int(row.argmax())], table[-1])


def test_a_cost_has_its_parts():
    cost = model_cost(VivitConfig(num_labels=400))
    html = cost._repr_html_()
    assert "451.5 G MACs" in html
    assert f"{cost.parts['mlp'] / 1e9:.2f}" in html


def test_an_explanation_shows_its_clip_its_map_and_its_files(tmp_path):
    config = VivitConfig(**{**TINY, "num_labels": 3})
    model = VivitForVideoClassification(config).eval()
    map = AttentionRollout()(model, torch.randn(1, config.num_frames, 3, config.image_size, config.image_size))
    html = Explanation(Clip.from_frames(noise(4)), map, None, {"movie": tmp_path / "a.mp4"})._repr_html_()
    assert "AttentionRollout" in html
    assert str(tmp_path / "a.mp4") in html
    assert len(pictures(html)) == 4 + 1 + map.grid.t
