"""What probe says of files whose facts are known."""

import json
from fractions import Fraction

import pytest

from tests.video.break_video import sound_only
from tests.video.make_video import TWO_STREAMS, VARIANTS
from vivit_lab.errors import NotAVideoError, VideoNotFoundError
from vivit_lab.video import probe


@pytest.mark.parametrize("kind", VARIANTS, ids=lambda kind: kind.name)
def test_facts_of_each_kind(kind, video_of):
    info = probe(video_of(kind))
    assert info.frames == kind.count
    assert (info.height, info.width) == kind.size
    assert info.rotation == kind.rotation % 360
    assert info.coded_size == (kind.size if kind.rotation % 180 == 0 else kind.size[::-1])
    assert info.vfr == (kind.times == "irregular")
    assert info.duration >= kind.seconds[-1] - kind.start
    assert info.fps == pytest.approx(kind.count / info.duration)
    assert info.header_frames in (None, kind.count)
    assert (info.video_streams, info.audio_streams) == (1, int(kind.audio))
    assert (info.truncated, info.mirrored, info.pixel_aspect) == (0, False, 1)
    if kind.codec not in ("gif", "ffv1"):
        assert info.pixel_format == kind.pixel_format
    assert (
        info.bit_depth == (10 if "10" in kind.pixel_format else 3 if kind.codec == "gif" else 8) or kind.codec == "gif"
    )


def test_offset_start_and_time_base(video):
    info = probe(video("h264_vfr_offset.mp4"))
    assert info.start == pytest.approx(1.5)
    assert info.time_base == Fraction(1, 90000)
    assert "starts at 1.500 s" in repr(info)
    assert probe(video("h264.mp4")).start == 0


def test_names_and_streams(video, video_of):
    info = probe(video("vp9.webm"))
    assert (info.codec, info.container, info.seekable, info.key_frames) == ("vp9", "matroska,webm", True, 4)
    assert probe(video("av1.mkv")).codec == "av1"
    assert (probe(video("gif.gif")).seekable, probe(video("gif.gif")).key_frames) == (False, 1)
    two = probe(video_of(TWO_STREAMS), stream=1)
    assert two.video_streams == 2
    assert "2 video streams" in repr(two)


def test_repr_and_json(video):
    info = probe(video("h264_rotated_270.mov"))
    assert "h264 in mov,mp4" in repr(info)
    assert "64×48, 30 frames, 1.200 s, 25 fps, yuv420p, rotated 270°" in repr(info)
    assert "variable, on average" in repr(probe(video("h264_vfr.ts")))
    fields = json.loads(json.dumps(info.to_dict()))
    assert fields["time_base"] == f"1/{info.time_base.denominator}"
    assert fields["coded_size"] == [64, 48]
    assert set(fields) == set(info.__dataclass_fields__)


def test_no_video(tmp_path):
    with pytest.raises(VideoNotFoundError, match="there is no file"):
        probe(tmp_path / "none.mp4")
    with pytest.raises(NotAVideoError, match="no video stream"):
        probe(sound_only(tmp_path))
