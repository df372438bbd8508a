"""Opening files, and containers that break while they are read (played by stand-ins)."""

import io
import os
import socket
import tempfile
import zipfile
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest

from tests.video.break_video import blank
from tests.video.make_video import MS, Variant
from vivit_lab.errors import DecodeError, InputError, NotAVideoError, ShortClipWarning, VideoNotFoundError
from vivit_lab.video import FrameIndex, MovieWriter, probe, read_clip, read_frames, read_video_pyav
from vivit_lab.video.decode import Decoding
from vivit_lab.video.index import index_decoded, index_packets
from vivit_lab.video.info import _first_frame
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


CODEC = SimpleNamespace(name="ffv1", extradata=None, pix_fmt="yuv420p")
STREAM = SimpleNamespace(codec_context=CODEC, time_base=Fraction(1, 1000), average_rate=None, duration=None)


def packet(pts, frames=(), key=True):
    return SimpleNamespace(
        pts=pts,
        dts=pts,
        size=9,
        duration=40,
        is_keyframe=key,
        is_discard=False,
        decode=lambda: list(frames),
        has_sidedata=lambda kind: False,
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


def test_a_time_that_is_in_no_packet_means_that_the_index_does_not_hold():
    decoding = Decoding(index_of([0, 40]), np.array([0, 1]))
    decoding.run(Breaking([packet(0, [frame(0, 10), frame(20, 20), frame(40, 30), frame(99, 40)])]), STREAM, seek=False)
    assert decoding.disorder == "the decoder gives frames in another order than that of their times"
    assert not decoding.sound


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


PROTOCOLS = [
    "a:b",
    "concat:x",
    "subfile,,start,0,end,9,,:x",
    "http:x",
    "pipe:0",
    "file:x",
    "-",
    "data:,x",
    "frame_%03d",
    "fd:",
]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_file_name_is_never_a_protocol(video, tmp_path, monkeypatch, name):
    path = tmp_path / f"{name}.mp4"
    path.write_bytes(video("h264.mp4").read_bytes())
    monkeypatch.chdir(tmp_path)
    for form in (path.name, path):
        assert read_clip(form, 2, start=7).frames.tolist() == read_clip(video("h264.mp4"), 2, start=7).frames.tolist()
        assert probe(form).frames == 30
    with MovieWriter(f"{name}.mov", 16, 16, end=1.0) as movie:
        movie.write(np.zeros((16, 16, 3), np.uint8), 0.0)
    assert len(read_clip(f"{name}.mov")) == 1


@pytest.mark.parametrize(
    "name", ["http://example.org/a.mp4", "concat:a.mp4|b.mp4", "lavfi", "a\0b.mp4", "/dev/video99", "x" * 999]
)
def test_names_of_no_file_are_not_found(name):
    with pytest.raises(VideoNotFoundError, match="there is no file"):
        read_clip(name)


def test_a_url_is_not_read_and_the_error_says_what_to_do():
    with pytest.raises(VideoNotFoundError, match="A URL is not read: download it first"):
        probe("http://example.org/a.mp4")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_cannot_go_back_is_refused_at_once(tmp_path):
    fifo, address = tmp_path / "fifo.mp4", tmp_path / "socket.mp4"
    os.mkfifo(fifo)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(address))
        for path in (fifo, address, "/dev/null", "/dev/zero"):
            with pytest.raises(NotAVideoError, match="is a pipe, socket or device; wanted a file"):
                read_clip(path)


LISTS = {
    "an ffconcat script": "ffconcat version 1.0\nfile {name}\n",
    "an M3U playlist": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{name}\n#EXT-X-ENDLIST\n",
    "a DASH manifest": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT2S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet '
    'mimeType="video/mp4"><Representation id="1" bandwidth="9"><BaseURL>{name}</BaseURL></Representation>'
    "</AdaptationSet></Period></MPD>",
    "an SDP session": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "a PLS playlist": "[playlist]\nFile1={name}\nNumberOfEntries=1\n",
}


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("suffix", ["mp4", "m3u8", "mpd", "sdp"])
def test_a_playlist_reads_nothing_of_what_it_names(video, tmp_path, kind, suffix):
    (tmp_path / "sibling.mp4").write_bytes(video("h264.mp4").read_bytes())
    path = tmp_path / f"list.{suffix}"
    for name in ("sibling.mp4", str(tmp_path / "sibling.mp4")):
        text = LISTS[kind].format(name=name)
        path.write_text(text)
        for source in (path, text.encode()):
            with pytest.raises(NotAVideoError, match=rf"is {kind}, not a video: it names other files"):
                read_clip(source)


def test_a_session_that_is_not_told_by_its_beginning_is_not_waited_for():
    session = "s=x\n" + LISTS["an SDP session"]  # FFmpeg knows it still, and would listen to the network
    with pytest.raises(NotAVideoError, match="cannot be opened as a video"):
        read_clip(session.encode())


def test_bytes_and_file_objects_read_as_their_file_does(video, tmp_path):
    for name in ("h264_b_frames.mp4", "h264_no_times.avi", "h264_raw.h264", "gif.gif", "vp9.webm"):
        path = video(name)
        whole, content = read_clip(path), path.read_bytes()
        archive = tmp_path / f"{name}.zip"
        with zipfile.ZipFile(archive, "w") as zipped:
            zipped.write(path, name)
        with open(path, "rb") as file, zipfile.ZipFile(archive) as zipped, zipped.open(name) as member:
            for source in (content, bytearray(content), memoryview(content), io.BytesIO(content), file, member):
                clip = read_clip(source)
                assert np.array_equal(clip.frames, whole.frames)
                assert clip.seconds.tolist() == whole.seconds.tolist()
                assert clip.path is None
                assert np.array_equal(read_frames(source, [3, 20]).frames, whole.frames[[3, 20]])
                facts, known = probe(source).to_dict(), probe(path).to_dict()
                assert facts | {"path": known["path"]} == known
        with tempfile.TemporaryFile() as nameless:
            nameless.write(content)
            assert len(read_clip(nameless, 2)) == 2


def test_a_file_object_is_read_whole_and_stands_where_it_stood(video):
    with open(video("h264.mp4"), "rb") as file:
        file.seek(100)
        assert len(read_clip(file)) == 30
        assert file.tell() == 100
        assert not file.closed


def test_errors_about_bytes_do_not_hold_them(video):
    content = video("h264.mp4").read_bytes()
    with pytest.raises(
        InputError, match=rf"frame 30 is outside the video of {len(content):,} bytes, which has 30 frames"
    ):
        read_frames(content, [30])
    with pytest.raises(NotAVideoError, match=r"the video of 5,000 bytes cannot be opened as a video") as caught:
        read_clip(np.random.default_rng(0).bytes(5000))
    assert len(str(caught.value)) < 300
    with pytest.raises(NotAVideoError, match=r"the video of 0 bytes is empty"):
        read_clip(b"")
    with pytest.warns(ShortClipWarning, match=rf"the video of {len(content):,} bytes has 30 frames"):
        read_clip(content, 40)


def test_file_objects_that_do_not_do(video):
    class ForwardOnly(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, buffer):
            return 0

    with open(video("h264.mp4"), encoding="latin-1") as text:
        with pytest.raises(InputError, match=r'h264.mp4 is open as text; wanted a binary file: open\(path, "rb"\)'):
            read_clip(text)
    with pytest.raises(InputError, match="the open StringIO is open as text"):
        probe(io.StringIO("no video"))
    with pytest.raises(InputError, match=r"the open ForwardOnly cannot seek, .* give its bytes: file.read\(\)"):
        read_clip(ForwardOnly())
    with tempfile.NamedTemporaryFile("wb") as written:
        with pytest.raises(InputError, match="is not open for reading; wanted open"):
            read_clip(written)
    closed = io.BytesIO(b"x")
    closed.close()
    with pytest.raises(InputError, match="the open BytesIO is closed; wanted an open file"):
        read_clip(closed)
    for nothing in (None, 5, [video("h264.mp4")], np.zeros((4, 8, 8, 3), np.uint8)):
        with pytest.raises(InputError, match=f"wanted a video: its path, its bytes, .* got {type(nothing).__name__}"):
            read_clip(nothing)
