"""The law of reading: a frame found by seeking is the frame that decoding from the start gives, bit for bit."""

import gc
import os
import warnings
from fractions import Fraction

import av
import numpy as np
import pytest

from tests.video.break_video import joined, remux, trim_by_edit_list, turned
from tests.video.make_video import TWO_STREAMS, VARIANTS, Variant, picture, read_number
from vivit_lab.errors import InputError
from vivit_lab.video import load_index, probe, read_clip, read_frames, read_video_pyav
from vivit_lab.video.decode import Decoding

EACH = pytest.mark.parametrize("kind", VARIANTS, ids=lambda kind: kind.name)


def decode_all(path, stream=0):
    """The naive reference: every frame as stored, from the start, with one thread and no options."""
    with av.open(str(path)) as container:
        chosen = container.streams.video[stream]
        chosen.thread_type = "NONE"
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(chosen)]


def shown(kind, frames):
    return [np.rot90(frame, kind.rotation // 90) for frame in frames]


@EACH
def test_every_frame_alone_is_the_frame_decoded_from_the_start(kind, video_of):
    path = video_of(kind)
    reference = shown(kind, decode_all(path))
    assert len(reference) == kind.count
    for number, pixels in enumerate(reference):
        clip = read_frames(path, [number])
        assert np.array_equal(clip.frames[0], pixels), f"frame {number}"
        assert clip.indices.tolist() == [number]
        assert clip.decode_warnings == 0


@EACH
def test_frames_are_the_numbered_ones_upright_and_at_their_times(kind, video_of):
    clip = read_clip(video_of(kind))
    assert [read_number(frame) for frame in clip.frames] == list(range(kind.count))
    assert clip.size == kind.size
    times = np.array(kind.seconds) - kind.seconds[0]
    np.testing.assert_allclose(clip.seconds, times, atol=1e-9)


@EACH
def test_threads_and_windows_do_not_change_a_frame(kind, video_of):
    path = video_of(kind)
    whole = read_clip(path, threads=1)
    part = read_clip(path, 5, stride=3, start=11, threads=2)
    assert part.indices.tolist() == [11, 14, 17, 20, 23]
    assert np.array_equal(part.frames, whole.frames[part.indices])
    assert np.array_equal(part.seconds, whole.seconds[part.indices])
    assert part.end == whole.seconds[24]
    # one decoder that jumps twice: what it decoded before must not show
    apart = read_frames(path, [1, 1, kind.count // 2, kind.count - 2])
    assert np.array_equal(apart.frames, whole.frames[apart.indices])


@EACH
def test_documentation_helper_gives_what_the_documentation_code_gives(kind, video_of):
    path = video_of(kind)
    reference = decode_all(path)
    with av.open(str(path)) as container:
        for wanted in ([25, 26, 29], [3, 4, 20], [0], np.arange(kind.count)):
            assert np.array_equal(read_video_pyav(container, wanted), np.stack([reference[k] for k in wanted]))


def test_far_apart_frames_skip_what_lies_between(video, monkeypatch):
    path = video("h264_b_frames.mp4")
    decoded = 0
    original = Decoding._decoded

    def count(self, container, stream):
        nonlocal decoded
        for frame in original(self, container, stream):
            decoded += 1
            yield frame

    monkeypatch.setattr("vivit_lab.video.decode.Decoding._decoded", count)
    clip = read_frames(path, [1, 25])
    assert [read_number(frame) for frame in clip.frames] == [1, 25]
    assert decoded == 4  # 0, 1, and 24, 25 from the key frame at 24


def test_two_streams_are_told_apart(video_of):
    path = video_of(TWO_STREAMS)
    assert [read_number(frame) for frame in read_clip(path, 4, start=20).frames] == [9, 8, 7, 6]
    assert [read_number(frame) for frame in read_clip(path, 4, start=20, stream=1).frames] == [20, 21, 22, 23]
    assert np.array_equal(read_clip(path, stream=1).frames, np.stack(decode_all(path, 1)))
    with pytest.raises(InputError, match=r"has 2 video stream\(s\), numbered from 0; got stream=2"):
        read_clip(path, stream=2)


def test_edit_list_hides_frames_and_moves_the_clock(tmp_path):
    path = trim_by_edit_list(Variant("trimmed.mp4", "libx264", b_frames=2).make(tmp_path), first=5, count=20)
    info = probe(path)
    assert (info.frames, info.header_frames, info.duration) == (20, 30, pytest.approx(0.8))
    clip = read_clip(path)
    assert [read_number(frame) for frame in clip.frames] == list(range(5, 25))
    assert clip.seconds[:3] == pytest.approx([0, 0.04, 0.08])
    assert read_number(read_frames(path, [17]).frames[0]) == 22


def test_joined_recordings_keep_their_order_and_times_go_on(tmp_path):
    path = joined(tmp_path)
    index = load_index(path)
    assert index.obstacle == "presentation times jump back"
    assert not index.seekable
    clip = read_clip(path)
    assert [read_number(frame) for frame in clip.frames] == [*range(20), *range(20)]
    np.testing.assert_allclose(np.diff(clip.seconds), 0.04, atol=1e-9)
    assert [read_number(frame) for frame in read_frames(path, [3, 30, 39]).frames] == [3, 10, 19]


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirror", [False, True])
def test_display_matrix_is_applied_exactly(tmp_path, degrees, mirror):
    path = turned(tmp_path, degrees, mirror=mirror)
    clip = read_clip(path)
    assert clip.size == (48, 64)
    assert read_number(clip.frames[0]) == 37
    assert clip.frames[0].flags.c_contiguous
    info = probe(path)
    assert (info.rotation, info.mirrored, info.height, info.width) == (degrees, mirror, 48, 64)
    assert info.coded_size == ((48, 64) if degrees % 180 == 0 else (64, 48))
    with av.open(str(path)) as container:
        assert read_video_pyav(container, [0]).shape[1:3] == info.coded_size


def test_real_clips_read_the_same_by_seeking(shared_file):
    path = shared_file("clips/friday.mp4")
    reference = decode_all(path)
    wanted = [0, 59, 60, 61, 150, 184]
    assert np.array_equal(read_frames(path, wanted).frames, np.stack([reference[k] for k in wanted]))
    gap = np.diff(read_clip(shared_file("clips/samoyed_1080p_vfr.mp4"), 41).seconds).max()
    assert gap == pytest.approx(0.185, abs=0.001)


@pytest.mark.parametrize("name", ["palette.avi", "palette.mov", "palette.nut"])
def test_palette_is_there_wherever_reading_begins(name, tmp_path):
    path = palette_video(tmp_path / name)
    reference = decode_all(path)
    assert len(reference) == 30
    assert np.mean(reference[20]) > 50
    whole = read_clip(path)
    assert np.array_equal(whole.frames, np.stack(reference))
    for start in (0, 9, 20, 27):
        assert np.array_equal(read_clip(path, 3, start=start).frames, whole.frames[start : start + 3]), start
        assert np.array_equal(read_frames(path, [start], threads=1).frames[0], reference[start])
    assert not load_index(path).seekable
    with av.open(str(path)) as container:
        for wanted in ([20, 21], [3], [29]):
            assert np.array_equal(read_video_pyav(container, wanted), np.stack([reference[k] for k in wanted]))


def palette_video(path):
    """Uncompressed pictures of 256 colours, which the file lists once."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "pal8"
        stream.codec_context.time_base = Fraction(1, 25)
        for number in range(30):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24").reformat(format="rgb8")
            indices = frame.to_ndarray()
            shades = np.zeros((256, 4), np.uint8)
            shades[:, 0], shades[:, 1], shades[:, 2], shades[:, 3] = 255, np.arange(256), 255 - np.arange(256), 90
            coloured = av.VideoFrame.from_ndarray((indices, shades), format="pal8")
            coloured.pts, coloured.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(coloured))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("place", "ticks"), [(10, 3), (13, 3), (13, -2)])
@pytest.mark.parametrize("name", ["late.mp4", "late.mkv"])
def test_a_wrong_time_costs_no_frame(name, place, ticks, tmp_path):
    def late(packets):
        packets[place].pts += round(ticks * Fraction(1, 25) / packets[place].time_base)
        return packets

    good = Variant("good.mp4", "libx264", b_frames=2, gop=12).make(tmp_path)
    path = remux(good, tmp_path / name, late)
    reference = decode_all(path)
    assert len(reference) == 30
    for number in range(30):  # each with an index that was not corrected by the frames read before
        os.utime(path, (1_000_000_000, 1_000_000_000 + number))
        assert np.array_equal(read_frames(path, [number]).frames[0], reference[number]), number
    clip = read_clip(path)
    assert [read_number(frame) for frame in clip.frames] == list(range(30))
    np.testing.assert_allclose(np.diff(clip.seconds), 0.04, atol=0.0011)
    with av.open(str(path)) as container:
        assert np.array_equal(read_video_pyav(container, np.arange(30)), np.stack(reference))


def test_a_late_time_in_a_real_file(shared_file):
    path = shared_file("odd/one_late_timestamp.mp4")
    reference = decode_all(path)
    clip = read_clip(path)
    assert len(clip) == len(reference) == 100
    assert np.array_equal(clip.frames, np.stack(reference))
    np.testing.assert_allclose(np.diff(clip.seconds), 0.04, atol=1e-9)
    assert clip.decode_warnings == 0
    for number in (30, 32, 35, 36, 60):
        assert np.array_equal(read_frames(path, [number]).frames[0], reference[number])


@pytest.mark.parametrize("name", ["odd/flipped_bits_mjpeg.avi", "odd/repeated_timestamps_hevc.mp4"])
def test_damage_in_a_real_file_is_told_or_changes_nothing(name, shared_file):
    path = shared_file(name)
    reference = decode_all(path)
    told = []
    for number, pixels in enumerate(reference):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            frame = read_frames(path, [number]).frames[0]
        told += [number] if caught else []
        assert caught or np.array_equal(frame, pixels), number
        assert all(f"frames {number} … {number};" in str(one.message) for one in caught)
    assert len(told) < len(reference)


def test_frames_do_not_pile_up(video):
    """A decoded frame is given back at once, not at the next collection: what the decoder fills in depends on it."""
    gc.disable()
    try:
        gc.collect()
        before = sum(type(one) is av.VideoFrame for one in gc.get_objects())
        read_clip(video("h264.mp4"), 30)
        assert sum(type(one) is av.VideoFrame for one in gc.get_objects()) <= before + 1
    finally:
        gc.enable()
