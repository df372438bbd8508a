"""Files of what is shown: the renderer's own pictures, with the explorer's settings."""

import io
import json

import av
import numpy as np
import pytest
from PIL import Image

from vivit_lab.attribution import AttributionMap
from vivit_lab.errors import InputError, VideoNotFoundError
from vivit_lab.render import to_frames
from vivit_lab.widgets import ClipExplorer
from vivit_lab.widgets.clip_explorer import painter_of


@pytest.fixture
def explorer(classifier, clip):
    return ClipExplorer(classifier, clip, threaded=False, query=5, frame=2)


@pytest.mark.parametrize(
    ("traits", "options"),
    [
        ({}, {"percentile": 99}),
        ({"normalize": "clip", "alpha": 0.4}, {"alpha": 0.4}),
        ({"normalize": "frame", "colormap": "cividis"}, {"normalize": "frame", "colormap": "cividis"}),
        ({"colormap": "coolwarm"}, {"percentile": 99}),  # does not suit what has no sign
        ({"view": "heat", "alpha": 0.4, "normalize": "clip"}, {"layout": "heat"}),
        ({"method": "input_x_gradient", "colormap": "viridis"}, {"percentile": 99}),
    ],
)
def test_the_painter_has_the_settings_of_the_explorer(explorer, traits, options):
    explorer.set_state(traits)
    drawn = np.stack(list(painter_of(explorer, explorer.map).paint()))
    assert np.array_equal(drawn, to_frames(explorer.clip, explorer.map, **options))


@pytest.mark.parametrize("method", ["attention", "input_x_gradient"])
def test_below_the_threshold_the_frame_is_untouched(explorer, method):
    explorer.set_state({"method": method, "alpha": 0.5, "normalize": "clip", "threshold": 0.5})
    map = explorer.map
    drawn = np.stack(list(painter_of(explorer, map).paint()))
    whole = to_frames(explorer.clip, map, alpha=0.5)
    bare = to_frames(explorer.clip, map, alpha=0.0)
    low, high = map.limits
    reach = max(abs(low), abs(high))
    share = map.relevance[0].abs() / reach if map.signed else (map.relevance[0] - low) / (high - low)
    one = AttributionMap((share >= 0.5).float()[None], map.grid, "mask")
    hot = to_frames(explorer.clip, one, layout="heat", limits=(0, 1), colormap="viridis")
    table = hot == to_frames(
        explorer.clip,
        AttributionMap(one.relevance * 0 + 1, map.grid, "ones"),
        layout="heat",
        limits=(0, 1),
        colormap="viridis",
    )
    kept = table.all(axis=-1, keepdims=True)
    assert np.array_equal(drawn, np.where(kept, whole, bare))
    assert 0 < kept.mean() < 1


def test_the_picture_is_the_frame_that_is_shown_with_a_legend(explorer, tmp_path):
    picture = explorer.picture()
    (frame,) = painter_of(explorer, explorer.map).paint([2])
    zoom = picture.width // 56
    assert picture.width >= 360
    top = np.asarray(picture)[: 40 * zoom : zoom, : 56 * zoom : zoom]
    left = (picture.width - 56 * zoom) // 2
    assert np.array_equal(np.asarray(picture)[: 40 * zoom : zoom, left : left + 56 * zoom : zoom], frame), top.shape
    assert picture.height > 40 * zoom + 60
    path = explorer.save_png(tmp_path / "a.png")
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(picture))


def test_the_movie_has_the_frames_at_their_times(explorer, tmp_path):
    path = explorer.save_movie(tmp_path / "a.mp4")
    with av.open(str(path)) as movie:
        times = [float(frame.time) for frame in movie.decode(video=0)]
    assert times == pytest.approx([0.0, 0.1, 0.4, 0.5], abs=1e-4)
    with pytest.raises(InputError, match="cannot tell the container"):
        explorer.save_movie(tmp_path / "a.txt")
    with pytest.raises(VideoNotFoundError, match="no directory"):
        explorer.save_movie(tmp_path / "nowhere" / "a.mp4")


def test_the_numbers_are_those_that_are_shown_and_say_what_they_are(explorer, tmp_path):
    with np.load(explorer.save_npz(tmp_path / "a.npz")) as file:
        assert np.array_equal(file["relevance"], explorer.map.relevance[0].numpy())
        assert file["seconds"].tolist() == [0.0, 0.1, 0.4, 0.5]
        assert file["frame_indices"].tolist() == [0, 3, 12, 15]
        about = json.loads(str(file["metadata"]))
    assert about["target"] == "token (t=1, y=0, x=0)"
    assert about["parameters"] == {"layer": 2, "head": "mean", "direction": "attends_to"}


@pytest.mark.parametrize("kind", ["png", "mp4", "npz", "html"])
def test_a_button_hands_a_file_to_the_browser(classifier, clip, kind):
    explorer, sent = ClipExplorer(classifier, clip, threaded=False), []
    explorer.send = lambda content, buffers=None: sent.append((content, buffers))
    explorer._handle_custom_msg({"type": "export", "what": kind}, [])
    assert explorer.error == ""
    ((content, (data,)),) = sent
    assert content["type"] == "file"
    assert content["name"] == f"clip_attention.{kind}"
    openings = {"png": b"\x89PNG", "mp4": b"\x00\x00\x00", "npz": b"PK", "html": b"<!doctype html>"}
    assert data.startswith(openings[kind])
    assert explorer.status.startswith(f"Saved clip_attention.{kind}")


def test_an_unknown_kind_of_file_is_shown_as_an_error(explorer):
    explorer._handle_custom_msg({"type": "export", "what": "gif"}, [])
    assert explorer.error == "cannot save as 'gif'; wanted one of png, mp4, npz, html"


def test_a_notebook_without_a_kernel_shows_a_picture(explorer):
    import base64
    import re

    data = re.search(r"base64,([^\"]+)", explorer._repr_html_())[1]
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == explorer.picture().size
    bundle = explorer._repr_mimebundle_()
    assert "<img" in bundle[0]["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in bundle[0]


def test_an_offline_page_starts_from_what_is_shown_and_stays_small(explorer):
    explorer.preview = 3
    state = explorer.offline_state()
    assert (state["query"], state["preview"], state["live"]) == (5, -1, False)
    assert state["heat"] == explorer.heat
    assert len(state["_table_info"]["layers"]) == 3
    explorer.set_state({"method": "rollout"})
    assert explorer.offline_state()["_table"] == b""
