"""A folder of numbered pictures reads as a video does."""

import json
import warnings
from fractions import Fraction

import numpy as np
import pytest

from tests.video.make_video import STILLS, picture, read_number, write_still
from vivit_lab.errors import (
    DecodeError,
    DecodeWarning,
    FrameTimesWarning,
    InputError,
    NotAVideoError,
    OutOfMemoryBudgetError,
)
from vivit_lab.video import probe, read_clip, read_frames, read_views


def write_folder(folder, numbers, name="frame_{:d}.png", size=(48, 64)):
    folder.mkdir(exist_ok=True)
    for number in numbers:
        file = folder / name.format(number)
        kind = "jpg" if file.suffix.lower() == ".jpeg" else file.suffix[1:].lower()
        write_still(file, picture(number % 64, *size), *STILLS[kind])
    return folder


def numbers(clip):
    return [read_number(frame) for frame in clip.frames]


@pytest.mark.parametrize("name", ["{:d}.png", "frame_{:04d}.jpg", "dog-2-cut-{:d}.JPEG", "{:d}.bmp", "{:03d}.webp"])
def test_pictures_are_read_in_the_order_of_their_numbers(tmp_path, name):
    folder = write_folder(tmp_path / "frames", range(1, 13), name)
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes(b"")
    clip = read_clip(folder, fps=12.5)
    assert numbers(clip) == list(range(1, 13))
    assert clip.seconds.tolist() == pytest.approx(np.arange(12) / 12.5)
    assert (clip.end, clip.fps, clip.path) == (pytest.approx(12 / 12.5), pytest.approx(12.5), str(folder))
    assert numbers(read_clip(str(folder), 3, stride=2, start=4, fps=10)) == [5, 7, 9]
    assert numbers(read_clip(folder, 2, start=0.45, fps=10)) == [5, 6]
    assert numbers(read_frames(folder, [0, 0, 11], fps=10)) == [1, 1, 12]
    assert [numbers(view) for view in read_views(folder, 2, stride=1, views=2, fps=10)] == [[1, 2], [11, 12]]


def test_lossless_pictures_are_exact(tmp_path):
    clip = read_clip(write_folder(tmp_path / "frames", range(5)), fps=25)
    assert np.array_equal(clip.frames, np.stack([picture(number) for number in range(5)]))


def test_facts_of_a_folder(tmp_path):
    folder = write_folder(tmp_path / "frames", range(10, 20))
    info = probe(folder, fps=24)
    assert (info.container, info.codec, info.frames, info.fps) == ("folder", "png", 10, pytest.approx(24))
    assert (info.height, info.width, info.display_size, info.vfr) == (48, 64, (48, 64), False)
    assert (info.time_base, info.start, info.seekable, info.path) == (Fraction(1, 24000), 0, True, str(folder))
    assert json.loads(json.dumps(info.to_dict()))["duration"] == pytest.approx(10 / 24)


def test_a_frame_rate_that_is_assumed_is_said(tmp_path):
    folder = write_folder(tmp_path / "frames", range(4))
    readers = (read_clip, probe, lambda path: read_frames(path, [0]), lambda path: read_views(path, 2, 1, 1)[0])
    for read in readers:
        with pytest.warns(
            FrameTimesWarning, match=r"not known: 25 frames a second are assumed; give fps= to"
        ) as caught:
            assert read(folder).fps == pytest.approx(25)
        assert len(caught) == 1


def test_numbers_that_are_missing_are_said(tmp_path):
    folder = write_folder(tmp_path / "frames", [1, 2, 3, 5, 6])
    with pytest.warns(FrameTimesWarning, match=r"not numbered evenly \(see after frame_3.png\)"):
        assert numbers(read_clip(folder, fps=25)) == [1, 2, 3, 5, 6]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert numbers(read_clip(write_folder(tmp_path / "fifth", [0, 5, 10, 15]), fps=5)) == [0, 5, 10, 15]
        assert len(read_clip(write_folder(tmp_path / "one", [7]), fps=5)) == 1


def test_mixed_sizes_are_refused(tmp_path):
    folder = write_folder(write_folder(tmp_path / "frames", range(3)), range(3, 6), size=(96, 128))
    assert read_clip(folder, 3, fps=5).size == (48, 64)
    with pytest.raises(DecodeError, match=r"frame_3.png is 96×128, pictures before it are 48×64: a clip has one size"):
        read_clip(folder, fps=5)


def test_damaged_pictures(tmp_path):
    folder = write_folder(tmp_path / "frames", range(4))
    (folder / "frame_2.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    assert len(read_clip(folder, 2, fps=5)) == 2
    with pytest.raises((DecodeError, NotAVideoError), match=r"frame_2\.png"):
        read_clip(folder, fps=5)
    folder = write_folder(tmp_path / "cut", range(4), "{}.jpg", size=(240, 320))
    whole = (folder / "3.jpg").read_bytes()
    (folder / "3.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.warns(DecodeWarning, match=r"the decoder reported damage 1 time\(s\)"):
        assert read_clip(folder, fps=5).decode_warnings == 1


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "is a directory without pictures; wanted the path of one video file, or of a folder of numbered pictures"),
        (["clip.mp4"], "is a directory without pictures"),
        (["1.png", "cover.png"], r"cover.png has no number in its name"),
        (["left_1.png", "right_1.png"], "have the number 1, left_1.png and right_1.png: put each series of pictures"),
        (["1.png", "01.png"], "two pictures of .* have the number 1, 01.png and 1.png"),
    ],
)
def test_folders_that_are_no_video(tmp_path, files, message):
    for file in files:
        (tmp_path / file).write_bytes(b"x")
    for read in (read_clip, probe):
        with pytest.raises(NotAVideoError, match=message):
            read(tmp_path)


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), True])
def test_wrong_rates_and_streams(tmp_path, fps, video):
    folder = write_folder(tmp_path / "frames", range(3))
    with pytest.raises(InputError, match=r"fps must be (positive|a finite number), got"):
        read_clip(folder, fps=fps)
    with pytest.raises(InputError, match="numbered 0; got stream=1"):
        read_clip(folder, fps=5, stream=1)
    with pytest.raises(InputError, match="fps=5 is for a folder of pictures; a video has times of its own"):
        read_clip(video("h264.mp4"), fps=5)


def test_more_than_the_free_memory_is_refused(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "frames", range(12))
    monkeypatch.setattr("vivit_lab.memory.free_bytes", lambda device: 100_000)
    with pytest.raises(OutOfMemoryBudgetError, match=r"12 RGB frames of .*frames needs 111 kB"):
        read_clip(folder, fps=5)
