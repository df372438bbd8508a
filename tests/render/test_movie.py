"""A movie holds the drawn frames, at their own times."""

from pathlib import Path

import av
import numpy as np
import pytest

from tests.render.scenes import GRID, make_clip, make_map, one_hot
from vivit_lab.errors import InputError
from vivit_lab.render import render_movie, to_frames
from vivit_lab.video import Clip, Geometry

CROPPED = Geometry.identity(90, 160).resize(36, 64).crop(2, 16, 32, 32)
VARIABLE = [1.0, 1.5, 1.6, 1.7, 2.7, 2.8]


def smooth_clip(geometry: Geometry = CROPPED, seconds: list[float] | None = None) -> Clip:
    """Return a clip without noise, which the encoder keeps well."""
    clip = make_clip(geometry, seconds=seconds)
    height, width = geometry.source_size
    ramp = np.add.outer(np.linspace(40, 120, height), np.linspace(0, 80, width))
    clip.frames[:] = ramp[None, :, :, None].astype(np.uint8)
    return clip


def decode(path: Path) -> tuple[np.ndarray, list[float], float, str]:
    """Return (frames, seconds, duration, pixel format) of a movie."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        assert stream.duration is not None
        decoded = list(container.decode(stream))
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in decoded])
        times = [float(frame.pts * stream.time_base) for frame in decoded if frame.pts is not None]
        return frames, times, float(stream.duration * stream.time_base), str(stream.codec_context.pix_fmt)


@pytest.mark.parametrize("layout", ["overlay", "side_by_side", "heat"])
def test_movie_is_the_drawn_frames_at_their_times(tmp_path: Path, layout: str) -> None:
    clip, map = smooth_clip(seconds=VARIABLE), make_map()
    path = render_movie(clip, map, tmp_path / "out.mp4", layout=layout, crf=1)
    assert path == tmp_path / "out.mp4"
    frames, times, duration, pixel_format = decode(path)
    expected = to_frames(clip, map, layout=layout, colorbar=True, strip=True)
    height, width = expected.shape[1:3]
    assert pixel_format == "yuv420p"
    assert frames.shape == (6, height + height % 2, width + width % 2, 3)
    np.testing.assert_allclose(times, np.array(VARIABLE) - 1, atol=1e-4)
    assert duration == pytest.approx(1.84, abs=1e-3)
    difference = np.abs(frames[:, :height, :width].astype(int) - expected)
    assert difference.mean() < 4  # colours are kept at half resolution


def test_movie_to_a_percentile(tmp_path: Path) -> None:
    clip, map = smooth_clip(), make_map()
    path = render_movie(clip, map, tmp_path / "out.mp4", percentile=50, crf=1)
    expected = to_frames(clip, map, percentile=50, colorbar=True, strip=True)
    frames = decode(path)[0][:, : expected.shape[1]].astype(int)
    assert np.abs(frames - expected).mean() < 4
    other = to_frames(clip, map, colorbar=True, strip=True)
    assert np.abs(frames - expected).mean() < 0.5 * np.abs(frames - other).mean()


def test_source_size_without_a_legend(tmp_path: Path) -> None:
    clip = smooth_clip()
    path = render_movie(clip, one_hot((1, 2, 1)), tmp_path / "out.mp4", colorbar=False, strip=False, crf=1)
    frames = decode(path)[0]
    assert frames.shape == (6, 90, 160, 3)
    expected = to_frames(clip, one_hot((1, 2, 1)))
    hot = (expected[2] != to_frames(clip, one_hot((0, 0, 0)))[2]).any(axis=-1)
    # the planted tubelet is orange to yellow in its own frames only
    warmth = frames[..., 0].astype(int) - frames[..., 2]
    assert np.median(warmth[2:4, hot]) > 60
    assert np.abs(np.median(warmth[[0, 1, 4, 5]][:, hot])) < 10


def test_repeated_times_are_written_once(tmp_path: Path) -> None:
    clip = smooth_clip(seconds=[0, 0.1, 0.2, 0.2, 0.2, 0.2])
    frames, times, _, _ = decode(render_movie(clip, make_map(), tmp_path / "out.mp4", crf=1))
    assert times == pytest.approx([0, 0.1, 0.2], abs=1e-4)
    expected = to_frames(clip, make_map(), colorbar=True, strip=True)[:3]
    assert np.abs(frames[:, : expected.shape[1]].astype(int) - expected).mean() < 4


def test_a_single_image_at_the_end_of_time(tmp_path: Path) -> None:
    clip = smooth_clip(seconds=[2.0] * 6)
    _, times, duration, _ = decode(render_movie(clip, make_map(), tmp_path / "out.mp4"))
    assert times == [0.0]
    assert duration == pytest.approx(0.04, abs=1e-3)


def test_zoom_enlarges_by_whole_pixels(tmp_path: Path) -> None:
    clip, map = smooth_clip(Geometry.identity(32, 32)), make_map()
    path = render_movie(clip, map, tmp_path / "out.mp4", zoom=3, colorbar=False, strip=False, crf=1)
    expected = np.kron(to_frames(clip, map), np.ones((1, 3, 3, 1), dtype=np.uint8))
    frames = decode(path)[0]
    assert frames.shape == expected.shape
    assert np.abs(frames.astype(int) - expected).mean() < 4


def test_progress_is_shown_only_if_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    render_movie(smooth_clip(), make_map(), tmp_path / "quiet.mp4")
    assert capsys.readouterr().err == ""
    render_movie(smooth_clip(), make_map(), tmp_path / "loud.mp4", progress=True)
    assert "6/6" in capsys.readouterr().err


@pytest.mark.parametrize("zoom", [0, -1, 1.5, True])
def test_wrong_zoom(tmp_path: Path, zoom: float) -> None:
    with pytest.raises(InputError, match="zoom must be an integer in 1 … 64, got"):
        render_movie(smooth_clip(), make_map(), tmp_path / "out.mp4", zoom=zoom)  # type: ignore[arg-type]


def test_pixels_alone_have_no_frames_to_draw_on(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a Tensor has no frames to draw on: wanted a Clip"):
        render_movie(make_map().relevance, make_map(), tmp_path / "out.mp4")  # type: ignore[arg-type]


def test_a_refused_movie_leaves_no_file(tmp_path: Path) -> None:
    batch = make_map(relevance=np.zeros(GRID.shape))
    with pytest.raises(InputError, match="layout must be one of"):
        render_movie(smooth_clip(), batch, tmp_path / "out.mp4", layout="beside")
    assert list(tmp_path.iterdir()) == []
