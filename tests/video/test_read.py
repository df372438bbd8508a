"""What read_clip, read_frames and read_video_pyav promise about windows, times and wrong arguments."""

import io
import warnings
from types import SimpleNamespace

import av
import numpy as np
import pytest

from tests.video.break_video import cut, growing, sound_only
from tests.video.make_video import MS, STILLS, Variant, picture, read_number, write_still
from vivit_lab.errors import (
    DecodeError,
    InputError,
    NotAVideoError,
    OutOfMemoryBudgetError,
    ShortClipWarning,
    VideoNotFoundError,
)
from vivit_lab.video import read_clip, read_frames, read_video_pyav


def numbers(clip):
    return [read_number(frame) for frame in clip.frames]


def test_window_by_index_from_either_end(video):
    path = video("h264_b_frames.mp4")
    assert numbers(read_clip(path, 4, stride=5, start=7)) == [7, 12, 17, 22]
    assert numbers(read_clip(path, 3, start=-3)) == [27, 28, 29]
    assert numbers(read_clip(path, stride=7, start=1)) == [1, 8, 15, 22, 29]
    assert numbers(read_clip(path, np.int64(2), start=np.int64(5))) == [5, 6]


def test_window_by_time_begins_with_the_frame_shown_then(video):
    path = video("h264_vfr_offset.mp4")
    seconds = read_clip(path).seconds
    for frame in (0, 1, 13, 29):
        assert read_clip(path, 1, start=float(seconds[frame])).indices.tolist() == [frame]
    between = float(seconds[13] + seconds[14]) / 2
    assert read_clip(path, 2, start=between).indices.tolist() == [13, 14]
    assert read_clip(video("h264.mp4"), 1, start=3 * 0.04).indices.tolist() == [3]


def test_clip_knows_path_rate_and_end(video):
    path = video("h264.mp4")
    clip = read_clip(path, 3, stride=2, start=20)
    assert (clip.path, clip.fps) == (str(path), pytest.approx(25))
    assert clip.end == pytest.approx(25 * 0.04)  # frame 24 gives way to frame 25
    assert read_clip(path, 2, start=28).end == pytest.approx(1.2)


def test_short_video_repeats_its_last_frame_and_says_so(video):
    with pytest.warns(
        ShortClipWarning, match=r"has 30 frames .* the 8 frames with stride 10 .* last 5 repeat frame 20"
    ):
        clip = read_clip(video("h264.mp4"), 8, stride=10)
    assert clip.indices.tolist() == [0, 10, 20, 20, 20, 20, 20, 20]
    assert numbers(clip) == [0, 10, 20, 20, 20, 20, 20, 20]
    assert clip.seconds[-1] == clip.seconds[2]
    assert clip.end == pytest.approx(0.84)


def test_window_that_just_fits_does_not_warn(video):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_clip(video("h264.mp4"), 10, stride=3, start=2)) == 10


def test_processor_prepares_the_clip(video):
    class Halves:
        def prepare(self, clip):
            return "prepared", len(clip)

    assert read_clip(video("h264.mp4"), 4, processor=Halves()) == ("prepared", 4)


def test_read_frames_repeats_but_does_not_reorder(video):
    path = video("h264_b_frames.mp4")
    assert numbers(read_frames(path, [2, 2, 9, 9, 9])) == [2, 2, 9, 9, 9]
    with pytest.raises(InputError, match="indices must not decrease"):
        read_frames(path, [3, 2])


@pytest.mark.parametrize("indices", [[], [1.5], [[1, 2]], ["a"], 3])
def test_indices_that_are_none(video, indices):
    with pytest.raises(InputError, match=r"indices(\[0\])? must be (a sequence of at least one|an) integer"):
        read_frames(video("h264.mp4"), indices)


@pytest.mark.parametrize(("indices", "named"), [([0, 30], 30), ([-1, 5], -1)])
def test_indices_outside_the_video(video, indices, named):
    with pytest.raises(InputError, match=rf"frame {named} is outside .*h264.mp4, which has 30 frames, 0 … 29"):
        read_frames(video("h264.mp4"), indices)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 0}, "num_frames must be a positive integer, got 0"),
        ({"num_frames": 2.0}, "num_frames must be a positive integer, got 2.0"),
        ({"num_frames": True}, "num_frames must be a positive integer, got True"),
        ({"stride": 0}, "stride must be a positive integer, got 0"),
        ({"start": 30}, "start=30 is outside .* which has 30 frames"),
        ({"start": -31}, "start=-31 is outside .* which has 30 frames"),
        ({"start": 1.2}, r"start=1.2 is outside .* seconds \(float\) from 0 to before 1.200"),
        ({"start": -0.1}, "start=-0.1 is outside"),
        ({"start": float("nan")}, "start must be a finite number, got nan"),
        ({"start": "5"}, "start must be a finite number, got '5'"),
        ({"start": True}, "start must be a finite number, got True"),
        ({"threads": 0}, "threads must be a positive integer or 'auto', got 0"),
        ({"threads": "many"}, "threads must be a positive integer or 'auto', got 'many'"),
        ({"stream": 1}, r"has 1 video stream\(s\), numbered from 0; got stream=1"),
    ],
)
def test_wrong_arguments(video, arguments, message):
    with pytest.raises(InputError, match=message):
        read_clip(video("h264.mp4"), **arguments)


def test_files_that_are_no_video(tmp_path):
    empty, garbage, text = tmp_path / "empty.mp4", tmp_path / "garbage.mp4", tmp_path / "notes.txt"
    empty.touch()
    garbage.write_bytes(np.random.default_rng(0).bytes(5000))
    text.write_text("no video\n" * 50)
    cases = {
        tmp_path: "has no number in its name; wanted the path of one video file",
        empty: r"empty.mp4 is empty \(0 bytes\)",
        garbage: "garbage.mp4 cannot be opened as a video .* it is not media, or",
        text: "notes.txt is a text file, not a video",
        sound_only(tmp_path): r"sound.m4a has no video stream \(.*, 1 audio stream\)",
        sound_only(tmp_path, cover=True): "cover.mp3 has a cover picture, but no video",
    }
    for suffix, codec in STILLS.items():
        still = write_still(tmp_path / f"still.{suffix}", picture(3), *codec)
        cases[still] = rf"still.{suffix} is a still image \(.*\); wanted a video"
    for path, message in cases.items():
        with pytest.raises(NotAVideoError, match=message):
            read_clip(path)


def test_missing_file(tmp_path):
    with pytest.raises(VideoNotFoundError, match=r"there is no file .*nowhere.mp4"):
        read_clip(tmp_path / "nowhere.mp4")


def test_frames_that_change_size_are_refused(tmp_path):
    path = growing(tmp_path)
    assert read_clip(path, 8).size == (48, 64)
    assert read_clip(path, 4, start=10).size == (96, 128)
    with pytest.raises(DecodeError, match=r"frame 8 at 0.320 s is 96×128, frames before it are 48×64"):
        read_clip(path)


def test_more_than_the_free_memory_is_refused(video, monkeypatch):
    monkeypatch.setattr("vivit_lab.memory.free_bytes", lambda device: 100_000)
    assert len(read_clip(video("h264.mp4"), 10)) == 10
    with pytest.raises(OutOfMemoryBudgetError, match=r"11 RGB frames of .*h264.mp4 needs 101 kB.*read fewer frames"):
        read_clip(video("h264.mp4"), 11)


def test_documentation_helper_keeps_order_and_repetition(video):
    with av.open(str(video("h264_b_frames.mp4"))) as container:
        frames = read_video_pyav(container, [20, 3, 3, 11])
        assert [read_number(frame) for frame in frames] == [20, 3, 3, 11]
        assert len(list(container.decode(video=0))) < 30  # the container may stand anywhere afterwards
        assert read_number(read_video_pyav(container, [0])[0]) == 0
        with pytest.raises(InputError, match="frame 30 is outside"):
            read_video_pyav(container, [30])


def test_documentation_helper_does_not_turn_frames(video):
    with av.open(str(video("h264_rotated_90.mp4"))) as container:
        stored = read_video_pyav(container, [4])[0]
    assert stored.shape == (64, 48, 3)
    assert np.array_equal(np.rot90(stored), read_frames(video("h264_rotated_90.mp4"), [4]).frames[0])


def test_documentation_helper_reads_file_objects_and_says_what_it_cannot(video, tmp_path):
    with open(video("h264.mp4"), "rb") as file, av.open(file) as container:
        assert read_number(read_video_pyav(container, [21])[0]) == 21
    forward_only = SimpleNamespace(read=io.BytesIO(video("h264_raw.h264").read_bytes()).read)
    with av.open(forward_only) as container:
        with pytest.raises(DecodeError, match=r"cannot be read from its beginning: .* open it anew from a file"):
            read_video_pyav(container, [3])
    with av.open(str(sound_only(tmp_path))) as container, pytest.raises(NotAVideoError, match="no video stream"):
        read_video_pyav(container, [0])


def test_documentation_helper_says_which_frame_is_lost(tmp_path):
    kind = Variant("cut.mp4", "libx264", size=(240, 320), container_options={"movflags": "faststart"})
    path = cut(kind.make(tmp_path))
    with av.open(str(path)) as container:
        assert read_number(read_video_pyav(container, [3])[0]) == 3
        with pytest.raises(DecodeError, match=r"is cut off: its table lists 30 frames"):
            read_video_pyav(container, [25])


def test_single_frame_without_duration_still_has_a_rate(tmp_path):
    path = Variant("one.mkv", "ffv1", count=1, time_base=MS).make(tmp_path)
    clip = read_clip(path)
    assert len(clip) == 1
    assert clip.fps > 0
    assert clip.end >= clip.seconds[0] == 0
