"""Broken files: a frame is right, or an error or a warning says which is not."""

import warnings
from contextlib import suppress

import av
import numpy as np
import pytest

from tests.video.break_video import blank, claim_frames, cut, flip
from tests.video.make_video import FRAME, MS, Variant, read_number
from vivit_lab.errors import DecodeError, DecodeWarning, NotAVideoError, ShortClipWarning
from vivit_lab.video import probe, read_clip, read_frames

LARGE = (240, 320)
FASTSTART = {"movflags": "faststart"}


def test_wrong_header_count_is_not_believed(tmp_path):
    path = claim_frames(Variant("liar.avi", "mjpeg", "yuvj420p", time_base=FRAME).make(tmp_path), 99)
    info = probe(path)
    assert (info.frames, info.header_frames) == (30, 99)
    assert "header says 99 frames" in repr(info)
    assert [read_number(frame) for frame in read_clip(path, start=-2).frames] == [28, 29]
    with pytest.warns(ShortClipWarning, match="has 30 frames .* last 2 repeat frame 29"):
        assert len(read_clip(path, 32)) == 32


def test_missing_header_count_is_counted(video):
    for name in ("h264_fragmented.mp4", "vp9.webm", "h264.ts"):
        info = probe(video(name))
        assert (info.frames, info.header_frames) == (30, None)


def test_mp4_without_its_table_cannot_be_opened(tmp_path):
    path = cut(Variant("cut.mp4", "libx264").make(tmp_path))
    for read in (read_clip, probe):
        with pytest.raises(NotAVideoError, match="damaged or cut off"):
            read(path)


def test_cut_mp4_reads_up_to_the_cut_and_names_it(tmp_path):
    whole = Variant("cut.mp4", "libx264", size=LARGE, b_frames=2, container_options=FASTSTART).make(tmp_path)
    reference = read_clip(whole)
    path = cut(whole)
    info = probe(path)
    assert info.frames + info.truncated == 30
    assert "cut off" in repr(info)
    sound = read_clip(path, 12)
    assert np.array_equal(sound.frames, reference.frames[:12])
    for arguments in ({"num_frames": 30}, {"start": 28}):
        with pytest.raises(
            DecodeError, match=r"cut.mp4 is cut off: its table lists 30 frames, but the file ends after"
        ):
            read_clip(path, **arguments)
    with pytest.raises(DecodeError, match=rf"before frame {info.frames}"):
        read_frames(path, [info.frames])


def test_cut_mkv_hints_at_what_its_header_says(tmp_path):
    path = cut(Variant("cut.mkv", "libx264", size=LARGE).make(tmp_path), 0.5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clip = read_clip(path, 30)
    short = [one for one in caught if issubclass(one.category, ShortClipWarning)]
    assert len(short) == 1
    assert "its header speaks of 1.200 s: the file may be cut off" in str(short[0].message)
    assert clip.indices[0] == 0
    assert 2 <= len(set(clip.indices.tolist())) < 30


@pytest.mark.parametrize(
    "kind",
    [
        Variant("h264.mp4", "libx264", size=LARGE, b_frames=3, container_options=FASTSTART),
        Variant("mpeg4.mp4", "mpeg4", size=LARGE, b_frames=2, time_base=MS, container_options=FASTSTART),
        Variant("mjpeg.mov", "mjpeg", "yuvj420p", size=LARGE, time_base=MS, container_options=FASTSTART),
    ],
    ids=lambda kind: kind.name,
)
def test_concealed_damage_is_counted_and_the_same_each_time(kind, tmp_path):
    path = kind.make(tmp_path)  # once: x264 does not make the same bytes each time
    whole = read_clip(path)
    flip(path, 0.55, 0.75, count=6, seed=8)
    with pytest.warns(DecodeWarning, match=r"the decoder reported damage \d+ time\(s\) on the way to frames 0 … 29"):
        first = read_clip(path)
    with pytest.warns(DecodeWarning, match="may show wrong pixels"):
        second = read_clip(path)
    assert first.decode_warnings == second.decode_warnings > 0
    assert np.array_equal(first.frames, second.frames)
    assert not np.array_equal(first.frames, whole.frames)
    # the damage lies behind the first key frames: what comes before it is untouched, and nothing is said
    assert np.array_equal(read_clip(path, 8).frames, whole.frames[:8])
    assert read_clip(path, 8).decode_warnings == 0


@pytest.mark.parametrize(
    "kind",
    [
        Variant("h264.avi", "libx264", size=LARGE, b_frames=2, time_base=FRAME),
        Variant("mjpeg.avi", "mjpeg", "yuvj420p", size=LARGE, time_base=FRAME),
        Variant("vp8.webm", "libvpx", size=LARGE, b_frames=None),
    ],
    ids=lambda kind: kind.name,
)
@pytest.mark.parametrize("seed", range(3))
def test_what_a_patient_decoder_gives_is_what_is_read(kind, seed, tmp_path):
    path = flip(kind.make(tmp_path), 0.4, 0.8, count=10, seed=seed)
    reference = {}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        for packet in container.demux(stream):
            with suppress(av.error.FFmpegError):
                for frame in packet.decode():
                    reference[len(reference) if "mjpeg" not in kind.name else frame.pts] = frame.to_ndarray(
                        format="rgb24"
                    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DecodeWarning)
        for number, pixels in reference.items():
            assert np.array_equal(read_frames(path, [number], threads=1).frames[0], pixels), number
    for number in set(range(probe(path).frames)) - set(reference):
        with pytest.raises(DecodeError, match=rf"frame {number} cannot be decoded"):
            read_frames(path, [number])


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_header_of_the_decoder_is_said_in_words(seed, tmp_path):
    path = Variant("h265.mp4", "libx265", b_frames=2).make(tmp_path)
    contents = bytearray(path.read_bytes())
    begin = contents.index(b"hvcC") + 4
    for place in np.random.default_rng(seed).integers(begin + 24, begin + 90, 3):
        contents[place] ^= 0xFF
    path.write_bytes(contents)
    with pytest.raises(DecodeError, match=r"h265.mp4: frame 0 and 29 more cannot be decoded"):
        read_clip(path)


def test_frames_that_cannot_be_decoded_are_named_with_their_time(tmp_path):
    path = Variant("av1.mkv", "libsvtav1", size=LARGE, b_frames=None).make(tmp_path)
    with av.open(str(path)) as container:
        lost = next(bytes(packet) for packet in container.demux(video=0) if packet.pts == 480)
    path.write_bytes(path.read_bytes().replace(lost, b"\xff" * len(lost)))
    info = probe(path)
    assert info.frames == 30
    with pytest.raises(
        DecodeError, match=r"av1.mkv: frame (\d+).* cannot be decoded \(.+\); it should show at \d\.\d+ s"
    ):
        read_clip(path, info.frames)


def test_nothing_to_decode_at_all(tmp_path):
    path = blank(Variant("blank.mp4", "mjpeg", "yuvj420p", time_base=MS, container_options=FASTSTART).make(tmp_path))
    with pytest.raises(DecodeError, match=r"blank.mp4: none of its frames can be decoded \(.+\)"):
        probe(path)
    with pytest.raises(DecodeError, match=r"blank.mp4: frame 0 and 29 more cannot be decoded .* at 0.000 s"):
        read_clip(path)
    with pytest.raises(DecodeError, match=r"blank.mp4: frame 9 cannot be decoded"):
        read_frames(path, [9])


def test_no_frame_left(tmp_path):
    path = Variant("table.mp4", "libx264", container_options=FASTSTART).make(tmp_path)
    contents = path.read_bytes()
    path.write_bytes(contents[: contents.index(b"mdat") + 4])
    with pytest.raises(DecodeError, match="no frame of its video stream 0 can be read"):
        read_clip(path)
