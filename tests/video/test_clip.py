"""A clip refuses fields that contradict each other."""

import numpy as np
import pytest

from vivit_lab.errors import InputError
from vivit_lab.video import Clip, Geometry

FRAMES = np.zeros((4, 6, 8, 3), np.uint8)


def clip_of(**changes):
    fields = {"frames": FRAMES, "seconds": [0, 0.1, 0.1, 0.5], "indices": [3, 4, 4, 9], "fps": 10.0, "end": 0.6}
    return Clip(**(fields | changes))


def test_fields_are_arrays_of_the_right_kind():
    clip = clip_of()
    assert (clip.seconds.dtype, clip.indices.dtype, len(clip), clip.size) == (np.float64, np.int64, 4, (6, 8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": FRAMES[0]}, r"must be \(T, H, W, 3\) uint8 RGB, got \(6, 8, 3\) uint8"),
        ({"frames": FRAMES[..., :2]}, r"got \(4, 6, 8, 2\) uint8"),
        ({"frames": FRAMES.astype(np.float32)}, r"got \(4, 6, 8, 3\) float32"),
        ({"frames": FRAMES[:0]}, r"got \(0, 6, 8, 3\) uint8"),
        ({"seconds": [0, 1, 2]}, r"seconds must have one entry a frame \(4\), got \(3,\)"),
        ({"indices": [[0, 1, 2, 3]]}, r"indices must have one entry a frame \(4\), got \(1, 4\)"),
        ({"seconds": [0, 0.2, 0.1, 0.5]}, "seconds must not decrease"),
        ({"end": 0.4}, "end=0.4 s lies before the last frame at 0.5 s"),
        ({"geometry": Geometry.identity(8, 6)}, r"the geometry is of \(8, 6\) frames, the clip's are \(6, 8\)"),
    ],
)
def test_contradictions(changes, message):
    with pytest.raises(InputError, match=message):
        clip_of(**changes)


def test_from_frames_spaces_them_evenly():
    clip = Clip.from_frames(FRAMES, fps=8)
    assert clip.seconds.tolist() == [0, 0.125, 0.25, 0.375]
    assert (clip.end, clip.fps, clip.indices.tolist()) == (0.5, 8.0, [0, 1, 2, 3])
    with pytest.raises(InputError, match="fps must be positive, got 0"):
        Clip.from_frames(FRAMES, fps=0)


def test_prepared_keeps_everything_else():
    clip = clip_of(path="a.mp4", decode_warnings=2)
    values, geometry = np.zeros((1, 4, 3, 3, 4), np.float32), Geometry.identity(6, 8).resize(3, 4)
    ready = clip.prepared(values, geometry)
    assert ready.pixel_values is values
    assert ready.geometry == geometry
    assert (ready.path, ready.decode_warnings) == ("a.mp4", 2)
    assert ready.frames is clip.frames
    assert clip.pixel_values is None


def test_repr_says_what_it_is():
    clip = clip_of(path="dog.mp4")
    assert repr(clip) == "Clip(4 frames 6×8 of dog.mp4, 0.000–0.600 s, 10 fps)"
    ready = clip.prepared(np.zeros((1, 4, 3, 3, 4), np.float32), Geometry.identity(6, 8).resize(3, 4))
    assert repr(ready).endswith("10 fps, prepared at 3×4)")
