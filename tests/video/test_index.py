"""The packet index: counts, times, key frames, and the reasons not to trust packets."""

import os
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.video.break_video import claim_frames
from tests.video.make_video import FRAME, Variant
from vivit_lab.errors import DecodeError, InputError, NotAVideoError, StorageError
from vivit_lab.video import FrameIndex, load_index, read_clip, read_frames
from vivit_lab.video.index import _Cache, _increasing
from vivit_lab.video.keyframes import is_clean_start


def index_of(pts, keys=(0,), base=Fraction(1, 1000), last=40):
    return FrameIndex(np.array(pts, np.int64), np.array(keys, np.int64), base, last)


@pytest.mark.parametrize(
    ("name", "obstacle"),
    [
        ("h264_b_frames.mp4", None),
        ("h264_vfr.ts", None),
        ("h264_no_times.avi", "AVI keeps no presentation times"),
        ("mpeg4_b_frames.avi", "AVI keeps no presentation times"),
        ("mjpeg.avi", None),
        ("h264_raw.h264", "presentation times are missing or repeat"),
        ("gif.gif", "gif frames cannot be found by their time"),
        ("vp8_alt_ref.webm", "vp8 frames cannot be found by their time"),
    ],
)
def test_obstacles(video, name, obstacle):
    index = load_index(video(name))
    assert index.obstacle == obstacle
    assert len(index) == 30
    assert index.seekable == (obstacle is None)


def test_stripewise_refresh_is_no_key_frame(video):
    assert len(load_index(video("h264_intra_refresh_long.mp4")).keyframes) == 1
    assert len(load_index(video("h264_open_gop.mkv")).keyframes) == 4
    assert len(load_index(video("h264.ts")).keyframes) == 4


def test_clean_start_by_the_bytes():
    lengths = b"\x01\x64\x00\x0a\xff"  # a header that says: four bytes of length before each unit

    def units(*parts, start_codes=False):
        return b"".join((b"\0\0\1" if start_codes else len(part).to_bytes(4, "big")) + part for part in parts)

    text = b"\x06\x05\xff\x01" + b"x" * 256 + b"\x80"  # a message of kind 5 and 256 bytes
    at_once, later = b"\x06\x06\x01\xc4\x80", b"\x06\x06\x01\x24\x80"
    both = text[:-1] + at_once[1:]
    idr, picture, other = b"\x65\x88", b"\x41\x9a", b"\x09\xf0"
    for codes in (False, True):
        header = None if codes else lengths

        def clean(*parts, codes=codes, header=header):
            return is_clean_start("h264", units(*parts, start_codes=codes), header)

        assert clean(other, idr)
        assert clean(at_once, picture)
        assert clean(both, picture)
        assert not clean(later, picture)
        assert not clean(text, picture)
        assert not clean(picture, at_once)
        assert not clean(other)
        assert not clean(b"\x06\x06\xff", picture)  # messages that break off
        assert not clean(b"\x06\xff\xff\xff", picture)
        assert not clean(b"\x06\x06\x01", picture)
        assert not clean(b"", picture)
    assert is_clean_start("ffv1", b"anything", None)


def test_stream_that_begins_in_the_middle_is_numbered_by_decoding(tmp_path):
    path = Variant("middle.ts", "libx264", count=30).make(tmp_path)
    whole = read_clip(path)
    packets = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 188).astype(int)
    units = np.flatnonzero((packets[:, 1] & 0x40).astype(bool) & (((packets[:, 1] & 31) * 256 + packets[:, 2]) == 256))
    tables = packets[: units[0]]
    path.write_bytes(np.concatenate([tables, packets[units[3] :]]).astype(np.uint8).tobytes())
    index = load_index(path)
    assert index.obstacle == "the stream does not begin with a key frame"
    clip = read_clip(path)
    assert len(clip) == len(index) < 30
    assert np.array_equal(clip.frames[-20:], whole.frames[-20:])


def test_times_and_ends():
    index = index_of([500, 540, 700], last=60)
    assert index.seconds.tolist() == [0, 0.04, 0.2]
    assert (index.end, index.end_of(0), index.end_of(2)) == (pytest.approx(0.26), 0.04, pytest.approx(0.26))
    assert index.fps == pytest.approx(3 / 0.26)
    assert index.vfr
    assert [index.frame_at(time) for time in (0, 0.0399, 0.04, 0.1, 0.2, 99)] == [0, 1, 1, 1, 2, 2]
    assert index_of([7], last=0).fps == 25


def test_a_segment_is_a_span_of_frames():
    ntsc = FrameIndex(np.arange(30, dtype=np.int64) * 1001, np.zeros(1, np.int64), Fraction(1, 30000), 1001)
    # 0.033367 s is 1001/30000, rounded: the frame that begins there is not in a segment that ends there
    assert ntsc.span(0.033367, None) == ntsc.span(0.033366, 99.0) == (1, 30)
    assert ntsc.span(None, 0.033367) == ntsc.span(0.0, 0.033366) == (0, 1)
    assert ntsc.span(0.5, 0.5001) == (14, 15)
    for start in (-0.1, 1.002):
        with pytest.raises(InputError, match=r"the segment begins at .* s, outside a\.mp4, which lasts 1\.001 s"):
            ntsc.span(start, None, "a.mp4")


def test_even_times_within_rounding_are_not_variable():
    assert not index_of(np.round(np.arange(30) * 1000 / 29.97)).vfr
    assert not index_of([0]).vfr
    assert index_of([0, 33, 66, 102]).vfr


@given(st.lists(st.integers(1, 500), min_size=1, max_size=40), st.integers(-1000, 1000), st.data())
def test_keyframe_before_is_the_last_one_not_after(gaps, origin, data):
    pts = origin + np.cumsum(gaps)
    chosen = data.draw(st.sets(st.sampled_from(pts.tolist())))
    index = index_of(pts, sorted({int(pts[0])} | chosen))
    for frame in range(len(pts)):
        key = index.keyframe_before(frame)
        assert index.keyframes[key] <= pts[frame]
        assert key == len(index.keyframes) - 1 or index.keyframes[key + 1] > pts[frame]
        assert index.frame_at(float(index.seconds[frame])) == frame


def test_increasing_times_of_joined_and_reordered_frames():
    assert _increasing([5, 9, 13, 2, 6], reorder=False).tolist() == [5, 9, 13, 17, 21]
    assert _increasing([1, 3, 2, 5, 4], reorder=True).tolist() == [1, 2, 3, 4, 5]
    assert _increasing([1, 3, 3], reorder=True) is None
    assert _increasing([4, 4, 4], reorder=False) is None
    assert _increasing([4, None], reorder=False) is None
    assert _increasing([7], reorder=False).tolist() == [7]


@given(st.lists(st.one_of(st.none(), st.integers(-(2**40), 2**40)), max_size=30), st.booleans())
def test_decoded_times_are_made_increasing_or_given_up(times, reorder):
    result = _increasing(times, reorder=reorder)
    if result is None:
        repeats = len(set(times)) < len(times)
        falls = all(one >= two for one, two in pairwise(times)) if None not in times else False
        assert not times or None in times or (repeats if reorder else falls)
        return
    assert len(result) == len(times)
    assert np.all(np.diff(result) > 0)
    if sorted(times) == times:
        if len(set(times)) == len(times):
            assert result.tolist() == times


def test_claimed_counts_change_nothing(tmp_path):
    path = Variant("liar.avi", "mpeg4", time_base=FRAME, b_frames=2).make(tmp_path)
    for claim in (1, 12, 999):
        index = load_index(claim_frames(path, claim))
        assert len(index) == 30
        assert np.allclose(np.diff(index.seconds), 0.04)


def test_no_frame_at_all(tmp_path):
    path = Variant("table.mp4", "mpeg4", time_base=FRAME, container_options={"movflags": "faststart"}).make(tmp_path)
    contents = path.read_bytes()
    path.write_bytes(contents[: contents.index(b"mdat") + 4])
    with pytest.raises(DecodeError, match="no frame of its video stream 0"):
        load_index(path)


def old(path):
    """Let a file have changed long ago: the index of one that is just being written is not kept."""
    os.utime(path, (1_000_000_000, 1_000_000_000))
    return path


def test_the_index_of_a_file_is_kept_until_the_file_changes(tmp_path):
    path = old(Variant("kept.mp4", "mpeg4", time_base=FRAME, count=12).make(tmp_path))
    index = load_index(path)
    assert load_index(str(path)) is index
    Variant("kept.mp4", "mpeg4", time_base=FRAME, count=20).make(tmp_path)
    assert (len(index), len(load_index(path))) == (12, 20)
    old(path)
    assert len(load_index(path)) == 20
    same_size = path.read_bytes()
    path.write_bytes(same_size[::-1])
    with pytest.raises(NotAVideoError, match=r"kept\.mp4"):
        load_index(path)


def test_an_index_is_not_kept_of_a_file_that_is_just_written(tmp_path):
    path = Variant("new.mp4", "mpeg4", time_base=FRAME, count=3).make(tmp_path)
    os.utime(path)
    first = load_index(path)
    os.utime(path)
    assert load_index(path) is not first


def test_kept_indices_are_bounded_and_safe_for_threads(tmp_path):
    path = Variant("one.mp4", "mpeg4", time_base=FRAME, count=3).make(tmp_path)
    copies = [path.with_name(f"{number}.mp4") for number in range(24)]
    for copy in copies:
        copy.write_bytes(path.read_bytes())
        old(copy)
    with ThreadPoolExecutor(4) as pool:
        indices = list(pool.map(load_index, copies * 4))
    assert {len(index) for index in indices} == {3}
    with pytest.raises(ValueError, match="read-only"):
        indices[0].pts[0] = 7


def test_indices_are_kept_in_a_folder_on_request(tmp_path, monkeypatch):
    path, folder = old(Variant("kept.mkv", "libx264", b_frames=2).make(tmp_path)), tmp_path / "indices"
    index = load_index(path, folder=folder)
    stored = list(folder.iterdir())
    assert len(stored) == 1
    monkeypatch.setattr("vivit_lab.video.index._CACHE", _Cache(10_000))  # another process
    monkeypatch.setattr("vivit_lab.video.index.open_video", None)  # the file is not opened
    again = load_index(path, folder=folder)
    for name in ("pts", "keyframes", "seconds"):
        assert np.array_equal(getattr(again, name), getattr(index, name))
    for name in "time_base last_duration rate obstacle missing header_seconds from_start end fps".split():
        assert getattr(again, name) == getattr(index, name)


@pytest.mark.parametrize("damage", [b"", b"{}", b"[" * 100_000, b'{"version": 1}\n', b"\x00" * 64])
def test_a_stored_index_that_is_damaged_or_of_another_file_is_made_again(damage, tmp_path, monkeypatch):
    path, folder = old(Variant("kept.mp4", "mpeg4", time_base=FRAME, count=12).make(tmp_path)), tmp_path / "indices"
    load_index(path, folder=folder)
    (stored,) = folder.iterdir()
    stored.write_bytes(damage)
    monkeypatch.setattr("vivit_lab.video.index._CACHE", _Cache(10_000))
    assert len(load_index(path, folder=folder)) == 12
    assert stored.read_bytes() != damage
    old(Variant("kept.mp4", "mpeg4", time_base=FRAME, count=20).make(tmp_path))
    os.utime(path, (1_000_000_001, 1_000_000_001))
    assert len(load_index(path, folder=folder)) == 20


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    path = old(Variant("kept.mp4", "mpeg4", time_base=FRAME, count=3).make(tmp_path))
    with pytest.raises(StorageError, match=r"cannot be kept in .* choose another folder="):
        load_index(path, folder=path / "below_a_file")


def test_an_index_can_be_passed_on(video, monkeypatch):
    path = video("h264_b_frames.mp4")
    index = load_index(path)
    monkeypatch.setattr("vivit_lab.video.folder.load_index", None)  # it is not made again
    assert read_clip(path, 3, start=0.8, index=index).indices.tolist() == [20, 21, 22]
    assert read_frames(path, [4, 9], index=index).indices.tolist() == [4, 9]


def test_a_late_or_early_time_is_put_between_its_neighbours():
    assert _increasing([0, 10, 20, 55, 40, 50, 60], reorder=False).tolist() == [0, 10, 20, 30, 40, 50, 60]
    assert _increasing([0, 10, 20, 5, 40, 50, 60], reorder=False).tolist() == [0, 10, 20, 30, 40, 50, 60]
    assert _increasing([0, 10, 20, 30, 0, 10, 20, 30, 40, 50], reorder=False).tolist() == list(range(0, 100, 10))


def test_clean_pictures_of_mjpeg(video):
    with av.open(str(video("mjpeg.avi"))) as container:
        good = next(bytes(packet) for packet in container.demux(video=0))
    assert is_clean_start("mjpeg", good, None)
    scan = good.index(b"\xff\xda")
    for place, change in (
        (0, 0x01),  # no picture begins
        (scan + 1, 0x80),  # no pixels
        (good.index(b"\xff\xdb") + 1, 0x01),  # no quantisation table
        (good.index(b"\xff\xdb") + 4, 0x01),  # another one than is named
        (good.index(b"\xff\xc0") + 1, 0x30),  # no size
        (scan + 7, 0x01),  # a colour twice
        (scan + 8, 0x04),  # a Huffman table that is not there
    ):
        broken = bytearray(good)
        broken[place] ^= change
        assert not is_clean_start("mjpeg", bytes(broken), None), place
    assert is_clean_start("mjpeg", good[: scan - 1].ljust(8192, b"\xff"), None)  # longer headers than were looked at
    assert not is_clean_start("mjpeg", b"", None)


def test_clean_starts_of_other_codecs(video):
    kinds = {"h265.mp4": 0x40, "mpeg4_vfr.mp4": 0x40, "mpeg2.ts": 0x18, "vp9.webm": 0x04}
    for name, change in kinds.items():
        with av.open(str(video(name))) as container:
            stream = container.streams.video[0]
            codec, extradata = stream.codec_context.name, stream.codec_context.extradata
            packets = [packet for packet in container.demux(stream) if packet.size]
        key = bytes(packets[0])
        assert is_clean_start(codec, key, extradata), name
        assert not is_clean_start(codec, bytes(packets[1]), extradata), name
        if name == "vp9.webm":
            assert not is_clean_start(codec, bytes([key[0] ^ change]) + key[1:], extradata)
        assert not is_clean_start(codec, b"", extradata), name
