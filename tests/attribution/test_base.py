"""Laws of AttributionMap."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch._subclasses.fake_tensor import FakeTensorMode

from vivit_lab.attribution import AttributionMap
from vivit_lab.colormap import get_colormap
from vivit_lab.errors import GridError, InputError
from vivit_lab.grid import TokenGrid

GRID = TokenGrid(3, 2, 4, tubelet=(2, 8, 8))
FULL: dict[str, Any] = {
    "parameters": {"head_fusion": "max", "discard_ratio": 0.25, "layers": [1, 2], "start": None},
    "scale": "share of the CLS row, sums to 1",
    "target": "class 7: 'dog' & <cat>",
    "model_id": "somebody/model",
    "frame_indices": [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]],
    "provenance": {"dtype": "bfloat16", "versions": {"torch": "2"}},
}


def full_map(**changes: Any) -> AttributionMap:
    return AttributionMap(torch.rand(2, *GRID.shape), GRID, "AttentionRollout", **{**FULL, **changes})


# --- making -----------------------------------------------------------------------------------------------------------


def test_relevance_is_detached_float32() -> None:
    map = AttributionMap(torch.rand(1, *GRID.shape, dtype=torch.float64, requires_grad=True), GRID, "raw")
    assert map.relevance.dtype == torch.float32
    assert not map.relevance.requires_grad


@pytest.mark.parametrize("shape", [(3, 2, 4), (1, 3, 4, 2), (1, 24)])
def test_relevance_must_have_the_grids_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(GridError, match=re.escape(f"relevance must be (batch, 3, 2, 4), got {shape}")):
        AttributionMap(torch.zeros(shape), GRID, "raw")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_relevance_must_be_finite(bad: float) -> None:
    relevance = torch.zeros(1, *GRID.shape)
    relevance[0, 1, 1, 1] = bad
    with pytest.raises(InputError, match="raw gave a relevance that is not finite"):
        AttributionMap(relevance, GRID, "raw", signed=True)


def test_negative_relevance_must_be_marked_as_signed() -> None:
    relevance = -torch.ones(1, *GRID.shape)
    with pytest.raises(InputError, match="raw gave negative relevance but is not marked as signed"):
        AttributionMap(relevance, GRID, "raw")
    assert AttributionMap(relevance, GRID, "raw", signed=True).limits == (-1.0, -1.0)


def test_frame_indices_are_one_list_a_clip() -> None:
    with pytest.raises(InputError, match="frame_indices has 1 clips, the relevance 2"):
        full_map(frame_indices=[[0, 1, 2, 3, 4, 5]])


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 1, -1, -2])
def test_indexing_gives_a_batch_of_one(index: int) -> None:
    map = full_map()
    one = map[index]
    assert len(one) == 1
    assert torch.equal(one.relevance, map.relevance[index][None])
    assert map.frame_indices is not None
    assert one.frame_indices == [map.frame_indices[index]]
    kept = {name: value for name, value in map.metadata().items() if name != "frame_indices"}
    assert {name: value for name, value in one.metadata().items() if name != "frame_indices"} == kept


def test_each_clip_has_its_own_target() -> None:
    map = full_map(targets=["class 1 (a), predicted", "class 2 (b), predicted"])
    assert map.target == "clip by clip: class 1 (a), predicted; class 2 (b), predicted"
    assert [one.target for one in map] == ["class 1 (a), predicted", "class 2 (b), predicted"]
    assert map[1].targets == ["class 2 (b), predicted"]
    assert full_map(targets=["class 1"] * 2).target == "class 1"
    assert full_map()[1].target == FULL["target"]
    with pytest.raises(InputError, match="targets has 1 clips, the relevance 2"):
        full_map(targets=["class 1"])


def test_iterating_gives_every_clip() -> None:
    map = full_map(frame_indices=None)
    assert len(map) == 2
    assert torch.equal(torch.cat([one.relevance for one in map]), map.relevance)
    assert [one.frame_indices for one in map] == [None, None]


@pytest.mark.parametrize("index", [2, -3])
def test_indexing_past_the_batch(index: int) -> None:
    with pytest.raises(IndexError, match="out of range"):
        full_map()[index]


def test_limits_and_mass_over_time() -> None:
    relevance = torch.arange(48.0).reshape(2, *GRID.shape)
    map = AttributionMap(relevance, GRID, "raw")
    assert map.limits == (0.0, 47.0)
    expected = [[sum(range(8 * row, 8 * row + 8)) for row in rows] for rows in ((0, 1, 2), (3, 4, 5))]
    assert map.over_time.tolist() == expected


def test_to_keeps_everything_else() -> None:
    map = full_map()
    moved = map.to("meta")
    assert moved.relevance.is_meta
    assert moved.metadata() == map.metadata()


def test_repr_is_one_line_of_what_it_is() -> None:
    text = repr(full_map())
    assert text.startswith("AttributionMap(AttentionRollout(head_fusion='max', discard_ratio=0.25,")
    assert "2 × 3×2×4" in text
    assert text.endswith("scale: share of the CLS row, sums to 1)")
    assert "\n" not in text


# --- saving -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signed", [False, True])
def test_load_undoes_save(tmp_path: Path, signed: bool) -> None:
    map = full_map(signed=signed)
    map.save(tmp_path / "map.safetensors")
    loaded = AttributionMap.load(tmp_path / "map.safetensors")
    assert torch.equal(loaded.relevance, map.relevance)
    assert loaded.metadata() == map.metadata()
    assert loaded.grid == map.grid


def test_a_file_from_before_targets_were_kept_for_each_clip_loads(tmp_path: Path) -> None:
    map = full_map()
    fields = map.metadata()
    del fields["targets"]
    metadata = {"format": "vivit_lab.AttributionMap/1", "map": json.dumps(fields)}
    save_file({"relevance": map.relevance}, tmp_path / "old.safetensors", metadata=metadata)
    loaded = AttributionMap.load(tmp_path / "old.safetensors")
    assert (loaded.target, loaded.targets) == (FULL["target"], None)


def test_targets_of_a_mixed_batch_are_saved(tmp_path: Path) -> None:
    map = full_map(targets=["class 1", "class 2"])
    map.save(tmp_path / "map.safetensors")
    assert AttributionMap.load(tmp_path / "map.safetensors")[1].target == "class 2"


def test_a_slice_of_a_batch_can_be_saved(tmp_path: Path) -> None:
    map = full_map()
    map[1].save(str(tmp_path / "one.safetensors"))
    assert torch.equal(AttributionMap.load(tmp_path / "one.safetensors").relevance[0], map.relevance[1])


def test_loading_something_else(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match=r"weights.safetensors is a safetensors file, but not an attribution map"):
        AttributionMap.load(tmp_path / "weights.safetensors")
    (tmp_path / "text.safetensors").write_text("not a map")
    with pytest.raises(InputError, match=r"text.safetensors is not an attribution map .*: "):
        AttributionMap.load(tmp_path / "text.safetensors")
    with pytest.raises(FileNotFoundError, match=r"nothing.safetensors"):
        AttributionMap.load(tmp_path / "nothing.safetensors")


# --- showing ----------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Collects the tags, texts and pictures of a piece of HTML, and checks that tags close."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text, self.images = "", []
        self.tags: set[str] = set()
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        else:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"

    def pixels(self, index: int) -> np.ndarray:
        source = self.images[index]["src"]
        assert source is not None
        prefix, _, data = source.partition(",")
        assert prefix == "data:image/png;base64"
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def test_html_says_what_it_is_and_escapes_it() -> None:
    html = full_map()._repr_html_()
    page = Page(html)
    for words in (
        "AttentionRollout(head_fusion='max', discard_ratio=0.25, layers=[1, 2], start=None)",
        "class 7: 'dog' & <cat>",
        "somebody/model",
        "3×2×4 tubelets of 2×8×8",
        "share of the CLS row, sums to 1",
        "frames 2–3",
        "clip 1",
    ):
        assert words in page.text
    assert "cat" not in page.tags
    assert "after a CLS token" in page.text


def test_html_needs_nothing_from_outside() -> None:
    html = full_map()._repr_html_()
    assert Page(html).tags <= {"div", "table", "tr", "th", "td", "img", "figure", "figcaption", "span"}
    assert not re.search(r"https?:|url\(|@import", html)
    assert len(html) < 30_000
    assert all(image["alt"] for image in Page(html).images)


def test_html_tiles_are_the_relevance_in_colour() -> None:
    relevance = torch.rand(1, *GRID.shape)
    relevance[0, 0, 0, 0], relevance[0, 2, 1, 3] = 0.0, 1.0
    page = Page(AttributionMap(relevance, GRID, "raw")._repr_html_())
    assert len(page.images) == 1 + 3
    np.testing.assert_array_equal(page.pixels(0), get_colormap("inferno").table[None])
    for row in range(3):
        expected = get_colormap("inferno").apply(relevance[0, row].numpy())
        np.testing.assert_array_equal(page.pixels(1 + row), expected)
    assert "0\n1\n" in page.text  # the ends of the scale


def test_html_of_signed_relevance_is_centred() -> None:
    relevance = torch.zeros(1, *GRID.shape)
    relevance[0, 0, 0, 0], relevance[0, 0, 0, 1] = -2.0, 1.0
    page = Page(AttributionMap(relevance, GRID, "gradient", signed=True)._repr_html_())
    table = get_colormap("coolwarm").table
    assert page.pixels(1)[0].tolist() == table[[0, 192, 128, 128]].tolist()
    assert "-2\n0\n2\n" in page.text


def test_html_shows_a_part_of_what_is_large_and_says_so() -> None:
    grid = TokenGrid(70, 1, 1, tubelet=(1, 4, 4), cls=False)
    page = Page(AttributionMap(torch.rand(6, *grid.shape), grid, "raw")._repr_html_())
    assert len(page.images) == 1 + 4 * 64
    assert "2 more clips are not shown." in page.text
    assert "6 more tubelet rows are not shown." in page.text
    assert "frame 63\n" in page.text
    assert "after a CLS token" not in page.text


def test_html_of_a_map_without_target_or_model() -> None:
    page = Page(AttributionMap(torch.rand(1, *GRID.shape), GRID, "raw")._repr_html_())
    assert "target" not in page.text
    assert "raw()" in page.text
    assert "None" not in page.text


def test_a_tensor_without_values_shows_its_shape_only() -> None:
    with FakeTensorMode():
        fake = AttributionMap(torch.empty(1, *GRID.shape), GRID, "raw")
    for map in (fake, full_map().to("meta")):
        page = Page(map._repr_html_())
        assert page.images == []
        assert "3×2×4 tubelets" in page.text
