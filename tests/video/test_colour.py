"""What a file declares of its pixels, and how far reading honours it."""

import json
import warnings
from fractions import Fraction

import av
import numpy as np
import pytest

from tests.video.make_video import picture, read_number
from vivit_lab.errors import ColorWarning, DecodeError
from vivit_lab.video import probe, read_clip, read_frames

# red and blue shares of brightness, from ITU-R BT.709, BT.601 and BT.2020
WEIGHTS = {
    "bt709": (0.2126, 0.0722),
    "smpte170m": (0.299, 0.114),
    "bt470bg": (0.299, 0.114),
    "bt2020nc": (0.2627, 0.0593),
}
NUMBERS = {"bt709": 1, "bt470bg": 5, "smpte170m": 6, "bt2020nc": 9, "ycgco": 8, None: 2}
COLOURS = [(63, 102, 240), (120, 90, 160), (200, 128, 128), (81, 90, 220), (145, 60, 40)]
"""Brightness and colour differences, 8 bits."""


def write_flat(path, colours, *, codec="ffv1", pixel_format="yuv444p", options=None, size=(32, 48), **declared):
    """Write one frame of each colour (brightness, blue and red difference, 8 bits), declared as the fields say."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        context = stream.codec_context
        context.height, context.width, context.pix_fmt = *size, pixel_format
        context.time_base = Fraction(1, 1000)
        context.options = options or {}
        for name, value in declared.items():
            setattr(context, name, value)
        for number, colour in enumerate(colours):
            frame = av.VideoFrame(size[1], size[0], pixel_format)
            deep = frame.format.components[0].bits > 8
            for plane, value in zip(frame.planes, colour, strict=True):
                count = plane.buffer_size
                plane.update((np.full(count // 2, 4 * value, "<u2") if deep else np.full(count, value, "u1")).tobytes())
            for name, value in declared.items():
                setattr(frame, name, value)
            frame.pts, frame.time_base = 100 * number, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def rgb(colour, matrix, *, full):
    """Return red, green, blue of 0 … 255 by the formula of the standards."""
    y, u, v = colour
    light = y / 255 if full else (y - 16) / 219
    blue, red = ((part - 128) / (255 if full else 224) for part in (u, v))
    kr, kb = WEIGHTS[matrix]
    r, b = light + 2 * (1 - kr) * red, light + 2 * (1 - kb) * blue
    g = (light - kr * r - kb * b) / (1 - kr - kb)
    return 255 * np.clip([r, g, b], 0, 1)


@pytest.mark.parametrize(
    ("codec", "suffix"), [("ffv1", "mkv"), ("libx264", "mp4"), ("libx264", "ts"), ("libx265", "mov")]
)
@pytest.mark.parametrize("matrix", WEIGHTS)
@pytest.mark.parametrize("range_", ["limited", "full"])
def test_declared_matrix_and_range_are_honoured(tmp_path, codec, suffix, matrix, range_):
    options = {"libx264": {"crf": "0"}, "libx265": {"x265-params": "lossless=1:log-level=error"}}.get(codec, {})
    path = write_flat(
        tmp_path / f"flat.{suffix}",
        COLOURS,
        codec=codec,
        options=options,
        colorspace=NUMBERS[matrix],
        color_range={"limited": 1, "full": 2}[range_],
    )
    info = probe(path)
    assert (info.matrix, info.color_range, info.transfer, info.hdr) == (matrix, range_, None, None)
    clip = read_clip(path)
    for frame, colour in zip(clip.frames, COLOURS, strict=True):
        np.testing.assert_allclose(frame[16, 24], rgb(colour, matrix, full=range_ == "full"), atol=1.6)
    with av.open(str(path)) as container:  # and so by number, from late in the file
        plain = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert np.array_equal(read_frames(path, [4]).frames[0], plain[4])


@pytest.mark.parametrize("size", [(32, 48), (720, 1280)])
def test_undeclared_is_read_as_bt601_in_limited_range_at_any_size(tmp_path, size):
    path = write_flat(tmp_path / "flat.mkv", COLOURS, size=size)
    info = probe(path)
    assert (info.matrix, info.color_range, info.transfer, info.primaries) == (None, None, None, None)
    for frame, colour in zip(read_clip(path).frames, COLOURS, strict=True):
        np.testing.assert_allclose(frame[16, 24], rgb(colour, "smpte170m", full=False), atol=1.6)


def test_jpeg_pictures_are_in_full_range(tmp_path):
    path = write_flat(tmp_path / "flat.avi", COLOURS, codec="mjpeg", pixel_format="yuvj444p", color_range=2)
    assert probe(path).color_range == "full"
    for frame, colour in zip(read_clip(path).frames, COLOURS, strict=True):
        np.testing.assert_allclose(frame[16, 24], rgb(colour, "bt470bg", full=True), atol=6)


@pytest.mark.parametrize(("transfer", "name", "kind"), [(16, "smpte2084", "PQ"), (18, "arib-std-b67", "HLG")])
def test_hdr_is_told_and_warned_of(tmp_path, transfer, name, kind):
    path = write_flat(
        tmp_path / "hdr.mkv",
        COLOURS,
        pixel_format="yuv420p10le",
        colorspace=9,
        color_range=1,
        color_trc=transfer,
        color_primaries=9,
    )
    info = probe(path)
    assert (info.hdr, info.transfer, info.primaries, info.matrix) == (kind, name, "bt2020", "bt2020nc")
    assert (info.pixel_format, info.bit_depth) == ("yuv420p10le", 10)
    assert f"HDR ({kind})" in repr(info)
    with pytest.warns(ColorWarning, match=rf"hdr.mkv: it is HDR \({kind}\), .* without tone mapping") as caught:
        clip = read_clip(path)
    assert [str(one.filename) for one in caught] == [__file__]
    np.testing.assert_allclose(clip.frames[1, 16, 24], rgb(COLOURS[1], "bt2020nc", full=False), atol=3)
    with pytest.warns(ColorWarning, match="HDR"):
        read_frames(path, [2])


def test_ten_bits_without_hdr_are_not_warned_of(tmp_path):
    path = write_flat(
        tmp_path / "deep.mkv", COLOURS, pixel_format="yuv420p10le", colorspace=1, color_range=1, color_trc=1
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clip = read_clip(path)
    assert (probe(path).transfer, probe(path).bit_depth, probe(path).hdr) == ("bt709", 10, None)
    np.testing.assert_allclose(clip.frames[1, 16, 24], rgb(COLOURS[1], "bt709", full=False), atol=3)


def test_a_matrix_that_is_not_converted_is_refused_in_words(tmp_path):
    path = write_flat(tmp_path / "odd.mkv", COLOURS, colorspace=NUMBERS["ycgco"], color_range=1)
    assert probe(path).matrix == "ycgco"
    with pytest.raises(DecodeError, match="cannot convert its yuv444p frames with the matrix ycgco to RGB"):
        read_clip(path)


def test_palette(tmp_path):
    path, colours = tmp_path / "palette.avi", np.zeros((256, 4), np.uint8)
    colours[:, 0], colours[:, 1] = 255, np.arange(256)  # opaque, of red alone
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "pal8"
        for number in range(5):
            places = np.full((32, 48), 40 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray((places, colours), format="pal8")))
        container.mux(stream.encode(None))
    info = probe(path)
    assert (info.palette, info.pixel_format) == (True, "pal8")
    assert ", palette" in repr(info)
    assert not probe(write_flat(tmp_path / "flat.mkv", COLOURS)).palette


def test_interlaced(tmp_path):
    path = write_flat(tmp_path / "fields.mp4", COLOURS, codec="libx264", options={"x264-params": "tff=1"})
    info = probe(path)
    assert info.interlaced
    assert info.field_order in ("tt", "tb", "interlaced")
    assert ", interlaced" in repr(info)
    plain = probe(write_flat(tmp_path / "frames.mp4", COLOURS, codec="libx264"))
    assert not plain.interlaced
    assert plain.field_order in ("progressive", None)  # PyAV 17 does not say


def write_anamorphic(path, aspect, *, rotation=0, size=(48, 64), codec="libx264"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        context = stream.codec_context
        height, width = size if rotation % 180 == 0 else size[::-1]
        context.height, context.width, context.pix_fmt, context.sample_aspect_ratio = height, width, "yuv420p", aspect
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(6):
            stored = np.ascontiguousarray(np.rot90(picture(number, *size), -rotation // 90))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("suffix", "aspect", "rotation", "shown_aspect", "display"),
    [
        ("mp4", Fraction(16, 11), 0, Fraction(16, 11), (48, 93)),
        ("mkv", Fraction(16, 11), 0, Fraction(16, 11), (48, 93)),
        ("ts", Fraction(16, 11), 0, Fraction(16, 11), (48, 93)),
        ("mp4", Fraction(8, 9), 0, Fraction(8, 9), (54, 64)),
        ("mkv", Fraction(8, 9), 0, Fraction(8, 9), (54, 64)),
        ("mp4", Fraction(2), 90, Fraction(1, 2), (96, 64)),
    ],
)
def test_pixels_that_are_not_square(tmp_path, suffix, aspect, rotation, shown_aspect, display):
    path = write_anamorphic(tmp_path / f"wide.{suffix}", aspect, rotation=rotation)
    info = probe(path)
    assert (info.pixel_aspect, info.display_size, info.height, info.width) == (aspect, display, 48, 64)
    assert f"shown at {display[1]}×{display[0]}" in repr(info)
    fields = json.loads(json.dumps(info.to_dict()))
    assert (fields["pixel_aspect"], fields["display_size"]) == (f"{aspect}", list(display))
    clip = read_clip(path)
    assert (clip.pixel_aspect, clip.size) == (shown_aspect, (48, 64))
    assert [read_number(frame) for frame in clip.frames] == list(range(6))
    assert f"pixels {shown_aspect} as wide as high" in repr(clip)
    shown = clip.displayed()
    assert (shown.size, shown.pixel_aspect) == (display, 1)
    assert shown.displayed() is shown
    assert (shown.seconds.tolist(), shown.path) == (clip.seconds.tolist(), clip.path)
