"""Opening files, and containers that break while they are read (played by stand-ins)."""

from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest

from tests.video.break_video import blank
from tests.video.make_video import MS, Variant
from vivit_lab.errors import DecodeError, NotAVideoError
from vivit_lab.video.decode import Decoding
from vivit_lab.video.index import FrameIndex, index_decoded, index_packets
from vivit_lab.video.info import _first_frame
from vivit_lab.video.read import read_clip, read_video_pyav
from vivit_lab.video.source import choose_stream, open_video


class Breaking:
    """A container that gives some packets and then fails."""

    def __init__(self, packets):
        self.packets, self.format, self.size, self.duration = packets, SimpleNamespace(name="mp4"), 0, None

    def demux(self, stream):
        yield from self.packets
        raise av.error.InvalidDataError(1, "the disk is gone")

    def seek(self, *place, **options):
        raise av.error.PermissionError(1, "no way back")


CODEC = SimpleNamespace(name="mpeg4", extradata=None)
STREAM = SimpleNamespace(codec_context=CODEC, time_base=Fraction(1, 1000), average_rate=None, duration=None)


def packet(pts, frames=(), key=True):
    return SimpleNamespace(
        pts=pts, dts=pts, size=9, duration=40, is_keyframe=key, is_discard=False, decode=lambda: list(frames)
    )


def frame(pts, value=0):
    picture = av.VideoFrame.from_ndarray(np.full((16, 16, 3), value, np.uint8), format="rgb24")
    picture.pts = pts
    return picture


def index_of(pts):
    return FrameIndex(np.array(pts), np.array(pts), Fraction(1, 1000), 40)


def test_what_was_read_before_a_break_is_indexed():
    packets = [packet(0, [frame(0)]), packet(40, [frame(40)], key=False)]
    assert index_packets(Breaking(packets), STREAM).pts.tolist() == [0, 40]
    assert index_decoded(Breaking(packets), STREAM, "a reason").pts.tolist() == [0, 40]


def test_packets_that_do_not_decode_are_not_numbered():
    def fail():
        raise av.error.InvalidDataError(1, "nonsense")

    broken = packet(40)
    broken.decode = fail
    packets = [packet(0, [frame(0)]), broken, packet(80, [frame(80)])]
    assert index_decoded(Breaking(packets), STREAM, "a reason").pts.tolist() == [0, 80]


def test_a_break_is_damage_and_is_quoted():
    decoding = Decoding(index_of([0, 40]), np.array([0, 1]))
    decoding.run(Breaking([packet(0, [frame(0)])]), STREAM, seek=False)
    assert (decoding.missing, decoding.troubles) == ([1], 1)
    error = decoding.error("clip.mp4")
    assert str(error).startswith("clip.mp4: frame 1 cannot be decoded (the disk is gone); it should show at 0.040 s")


def test_a_seek_that_fails_leaves_the_frame_missing():
    decoding = Decoding(index_of([0, 40, 80]), np.array([2]))
    decoding.run(Breaking([packet(0, [frame(0)])]), STREAM, seek=True)
    assert decoding.missing == [2]
    assert "no way back" in str(decoding.error("clip.mp4"))


@pytest.mark.parametrize("times", [[40, 0, 80], [0, None, 80], [0, 40, 40]])
def test_times_out_of_order_name_no_frame(times):
    decoding = Decoding(index_of([0, 40, 80]), np.array([2]))
    pictures = [SimpleNamespace(pts=time, is_corrupt=False) for time in times[:-1]] + [frame(times[-1])]
    decoding.run(Breaking([packet(0, pictures)]), STREAM, seek=False)
    assert decoding.missing == [2]


def test_a_time_that_is_in_no_packet_is_passed_over():
    decoding = Decoding(index_of([0, 40]), np.array([0, 1]))
    decoding.run(Breaking([packet(0, [frame(0, 10), frame(20, 20), frame(40, 30), frame(99, 40)])]), STREAM, seek=False)
    assert decoding.frames()[:, 0, 0, 0].tolist() == [10, 30]


def test_first_frame_beyond_a_break():
    with pytest.raises(DecodeError, match=r"none of its frames can be decoded \(the disk is gone\)"):
        _first_frame("clip.mp4", Breaking([packet(0)]), STREAM)


def test_documentation_helper_names_a_frame_that_is_lost(tmp_path):
    kind = Variant("lost.mp4", "mjpeg", "yuvj420p", time_base=MS, container_options={"movflags": "faststart"})
    with av.open(str(blank(kind.make(tmp_path)))) as container:
        with pytest.raises(DecodeError, match=r"lost\.mp4: frame 4 and 1 more cannot be decoded"):
            read_video_pyav(container, [4, 5])


def test_no_permission_stays_what_it_is(video, monkeypatch):
    def refuse(*arguments, **options):
        raise av.error.PermissionError(13, "Permission denied")

    monkeypatch.setattr("av.open", refuse)
    with pytest.raises(PermissionError, match="Permission denied"):
        read_clip(video("h264.mp4"))


def test_stream_without_a_decoder():
    disposition = av.stream.Disposition(0)
    streams = SimpleNamespace(video=[SimpleNamespace(disposition=disposition, codec_context=None)], audio=[])
    container = SimpleNamespace(format=SimpleNamespace(name="matroska"), streams=streams, metadata={})
    with pytest.raises(NotAVideoError, match="this build of FFmpeg has no decoder for its video stream"):
        choose_stream(container, "odd.mkv", 0)


def test_open_video_closes_the_file(video):
    with open_video(video("h264.mp4"), threads=2) as (container, stream):
        assert stream.codec_context.thread_count == 2
        assert len([one for one in container.demux(stream) if one.size]) == 30
    with pytest.raises((AssertionError, ValueError, av.error.FFmpegError)):
        next(container.demux(stream))


def test_a_title_that_is_not_unicode_is_no_reason_to_refuse_a_video(tmp_path):
    path = tmp_path / "latin.mkv"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "café"
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        for _ in range(2):
            for packed in stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")):
                container.mux(packed)
        container.mux(stream.encode())
    whole = path.read_bytes()
    assert "café".encode() in whole
    path.write_bytes(whole.replace("café".encode(), b"caf\xe9 "))
    with open_video(path) as (container, _):
        assert container.metadata["title"].startswith("caf")
