"""Video files: from a file to frames that know their times, and back. Needs numpy and PyAV alone, no torch.

Each name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vivit_lab.video.clip import Clip
    from vivit_lab.video.encode import MovieWriter
    from vivit_lab.video.geometry import Geometry
    from vivit_lab.video.index import FrameIndex, load_index
    from vivit_lab.video.info import VideoInfo, probe
    from vivit_lab.video.read import read_clip, read_frames, read_video_pyav
    from vivit_lab.video.sample import sample_frame_indices, uniform_frame_indices
    from vivit_lab.video.views import read_views

_HOME = {
    "Clip": "clip",
    "FrameIndex": "index",
    "Geometry": "geometry",
    "MovieWriter": "encode",
    "VideoInfo": "info",
    "load_index": "index",
    "probe": "info",
    "read_clip": "read",
    "read_frames": "read",
    "read_video_pyav": "read",
    "read_views": "views",
    "sample_frame_indices": "sample",
    "uniform_frame_indices": "sample",
}

__all__ = [
    "Clip",
    "FrameIndex",
    "Geometry",
    "MovieWriter",
    "VideoInfo",
    "load_index",
    "probe",
    "read_clip",
    "read_frames",
    "read_video_pyav",
    "read_views",
    "sample_frame_indices",
    "uniform_frame_indices",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vivit_lab.video' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"vivit_lab.video.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
