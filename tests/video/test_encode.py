"""Writing movies: what is decoded again has the frames and the times that were written."""

import os

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.video.make_video import irregular, picture, read_number
from vivit_lab.errors import BackendError, InputError, VideoNotFoundError
from vivit_lab.video import MovieWriter, probe, read_clip
from vivit_lab.video.encode import TIME_BASE

EXACT = {"exact.mp4": {"codec": "libx264rgb", "crf": 0}, "exact.mkv": {"codec": "ffv1"}}


def write(path, frames, seconds, end, **options):
    with MovieWriter(path, *frames[0].shape[:2], end=end, **options) as movie:
        for frame, time in zip(frames, seconds, strict=True):
            movie.write(frame, time)
    return read_clip(path)


def noise(count, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("size", [(48, 64), (47, 61), (1, 1)])
def test_exact_codecs_give_the_very_frames(tmp_path, name, size):
    frames = noise(7, *size)
    clip = write(tmp_path / name, frames, irregular(7), 2.0, preset="ultrafast", **EXACT[name])
    assert np.array_equal(clip.frames, frames)


@settings(max_examples=15)
@given(st.lists(st.integers(1, 200_000), min_size=1, max_size=12), st.floats(0, 1000), st.integers(1, 300_000))
def test_times_and_end_are_kept_to_the_tick(tmp_path_factory, gaps, origin, last):
    ticks = np.cumsum(gaps) - gaps[0]
    seconds = origin + ticks / 90000
    end = seconds[-1] + last / 90000
    path = tmp_path_factory.mktemp("times") / "times.mp4"
    clip = write(path, noise(len(gaps), 16, 16), seconds, end, preset="ultrafast")
    assert np.array_equal(np.round(clip.seconds * 90000), ticks)
    # mp4 keeps the length of the whole in milliseconds as well, and a player may show either
    assert clip.end - clip.seconds[-1] == pytest.approx(last / 90000, abs=1e-3)


def test_matroska_keeps_whole_milliseconds(tmp_path):
    seconds = [0.0, 0.0104, 0.5006]
    clip = write(tmp_path / "m.mkv", noise(3, 16, 16), seconds, 1.0, codec="ffv1")
    assert clip.seconds.tolist() == [0, 0.010, 0.501]


def test_default_is_what_browsers_play(tmp_path):
    path = tmp_path / "movie.mp4"
    frames = [picture(number) for number in range(40)]
    clip = write(path, frames, irregular(40), irregular(40)[-1] + 0.5)
    assert [read_number(frame) for frame in clip.frames] == list(range(40))
    error = clip.frames.astype(float) - np.stack(frames)
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 30
    contents = path.read_bytes()
    assert contents.index(b"moov") < contents.index(b"mdat")
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.color_primaries, context.color_trc, context.colorspace, context.color_range) == (1, 1, 1, 1)
        packets = [packet for packet in container.demux(video=0) if packet.size]
        assert all(packet.pts == packet.dts for packet in packets)
        assert sum(packet.is_keyframe for packet in packets) >= 2
    info = probe(path)
    assert (info.vfr, info.time_base) == (True, TIME_BASE)


def test_colours_survive(tmp_path):
    for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (128, 64, 200)):
        frame = np.full((32, 32, 3), colour, np.uint8)
        clip = write(tmp_path / "plain.mp4", [frame], [0.0], 1.0)
        assert np.abs(clip.frames[0].astype(int) - frame).max() <= 4, colour


@pytest.mark.parametrize(
    ("pixel_format", "size", "padded"),
    [("yuv420p", (47, 61), (48, 62)), ("yuv422p", (47, 61), (47, 62)), ("yuv444p", (47, 61), (47, 61))],
)
def test_odd_sizes_repeat_the_last_row_and_column(tmp_path, pixel_format, size, padded):
    frame = picture(9, *size)
    path = tmp_path / "odd.mp4"
    clip = write(path, [frame], [0.0], 1.0, crf=1, pixel_format=pixel_format)
    assert clip.size == padded
    rows, columns = padded[0] - size[0], padded[1] - size[1]
    expected = np.pad(frame, ((0, rows), (0, columns), (0, 0)), mode="edge").astype(int)
    luma = [0.2126, 0.7152, 0.0722]
    assert np.abs((clip.frames[0] - expected) @ luma).mean() < 2
    assert read_number(clip.frames[0]) == 9


@pytest.mark.parametrize("name", ["m.mp4", "m.m4v", "m.mov", "m.mkv", "M.MP4"])
def test_containers(tmp_path, name):
    assert len(write(tmp_path / name, noise(2, 16, 16), [0, 0.5], 1.0)) == 2


def test_h265_is_quiet(tmp_path, capfd):
    clip = write(tmp_path / "m.mp4", [picture(3), picture(4)], [0, 0.5], 1.0, codec="libx265")
    assert [read_number(frame) for frame in clip.frames] == [3, 4]
    assert "x265 [info]" not in capfd.readouterr().err


def test_nothing_is_left_after_an_exception(tmp_path):
    path = tmp_path / "movie.mp4"
    path.write_bytes(b"what was there before")

    def interrupted():
        with MovieWriter(path, 16, 16, end=1.0) as movie:
            for number, frame in enumerate(noise(90, 16, 16)):  # more than the encoder holds back
                movie.write(frame, number / 100)
            assert len(os.listdir(tmp_path)) == 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"what was there before"
    assert os.listdir(tmp_path) == ["movie.mp4"]


def test_movie_replaces_what_was_there_only_when_complete(tmp_path):
    path = tmp_path / "movie.mp4"
    path.write_bytes(b"old")
    movie = MovieWriter(path, 16, 16, end=1.0)
    movie.write(noise(1, 16, 16)[0], 0.0)
    assert path.read_bytes() == b"old"
    movie.close()
    movie.close()
    movie.abort()
    assert probe(path).frames == 1
    assert os.listdir(tmp_path) == ["movie.mp4"]
    with pytest.raises(InputError, match="is closed: no frame can be added"):
        movie.write(noise(1, 16, 16)[0], 0.5)


def test_movie_without_frames(tmp_path):
    with (
        pytest.raises(InputError, match=r"no frame was written to .*movie\.mp4"),
        MovieWriter(tmp_path / "movie.mp4", 16, 16, end=1.0),
    ):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0.0, 0.0], r"times must increase: 0.0 s is not after the last frame at 0.0 s \(one tick is 1/90000 s\)"),
        ([3.0, 3.5, 3.2], "times must increase: 3.2 s is not after the last frame at 3.5 s"),
        ([0.0, float("nan")], "seconds must be a finite number, got nan"),
        ([0.0, 5.0], "a frame at 5.0 s does not fit before the movie's end at 5.0 s"),
    ],
)
def test_wrong_times(tmp_path, times, message):
    movie = MovieWriter(tmp_path / "movie.mp4", 16, 16, end=5.0)
    for time in times[:-1]:
        movie.write(noise(1, 16, 16)[0], time)
    with pytest.raises(InputError, match=message):
        movie.write(noise(1, 16, 16)[0], times[-1])
    movie.abort()


@pytest.mark.parametrize(
    "frame", [np.zeros((16, 17, 3), np.uint8), np.zeros((16, 16, 3)), np.zeros((16, 16), np.uint8)]
)
def test_wrong_frames(tmp_path, frame):
    with (
        pytest.raises(InputError, match=r"wanted a \(16, 16, 3\) uint8 RGB frame, got"),
        MovieWriter(tmp_path / "movie.mp4", 16, 16, end=1.0) as movie,
    ):
        movie.write(frame, 0.0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"path": "movie.avi"},
            InputError,
            r"cannot tell the container of 'movie.avi': wanted a name that ends in .mp4",
        ),
        ({"path": "nowhere/movie.mp4"}, FileNotFoundError, "there is no directory"),
        ({"path": "nowhere/movie.mp4"}, VideoNotFoundError, r"cannot write .*movie.mp4: there is no directory"),
        ({"height": 0}, InputError, "height must be a positive integer, got 0"),
        ({"end": float("inf")}, InputError, "end must be a finite number, got inf"),
        ({"crf": 52}, InputError, "crf must lie in 0 … 51, got 52"),
        ({"codec": "libx999"}, BackendError, "this build of FFmpeg .* has no encoder 'libx999'"),
        ({"codec": "aac"}, BackendError, "'aac' encodes audio, not video"),
        ({"preset": "swift"}, BackendError, "the encoder libx264 refuses yuv420p at 16×16, crf 18, preset 'swift'"),
        ({"pixel_format": "rgb24"}, BackendError, "the encoder libx264 refuses rgb24"),
        ({"pixel_format": "rgb99"}, InputError, "FFmpeg has no pixel format 'rgb99'"),
    ],
)
def test_wrong_settings(tmp_path, arguments, error, message):
    settings = {"path": "movie.mp4", "height": 16, "width": 16, "end": 1.0} | arguments
    with pytest.raises(error, match=message):
        MovieWriter(tmp_path / settings.pop("path"), **settings)
    assert os.listdir(tmp_path) == []


def test_failure_of_the_encoder_is_named(tmp_path, monkeypatch):
    class Broken:
        def encode(self, picture):
            raise av.error.ExternalError(1, "no more")

    movie = MovieWriter(tmp_path / "movie.mp4", 16, 16, end=1.0)
    movie.write(noise(1, 16, 16)[0], 0.0)
    monkeypatch.setattr(movie, "_stream", Broken())
    with pytest.raises(BackendError, match=r"the encoder libx264 failed on .*movie.mp4: .*no more"):
        movie.close()
    assert os.listdir(tmp_path) == []
