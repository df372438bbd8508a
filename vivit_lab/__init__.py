"""Interpretability workbench for ViViT, the video vision transformer.

This is the index of the public API; each name is imported when it is first used, so ``import vivit_lab`` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vivit_lab._version import __version__

if TYPE_CHECKING:
    from vivit_lab.attribution.base import AttributionMap as AttributionMap
    from vivit_lab.attribution.raw import RawAttention as RawAttention
    from vivit_lab.attribution.rollout import AttentionRollout as AttentionRollout
    from vivit_lab.checkpoints.bundled import bundled_clip_path as bundled_clip_path
    from vivit_lab.checkpoints.bundled import bundled_model_path as bundled_model_path
    from vivit_lab.grid import TokenGrid as TokenGrid
    from vivit_lab.hooks.record import AttentionRecord as AttentionRecord
    from vivit_lab.hooks.recorder import record_attention as record_attention
    from vivit_lab.model.classifier import VivitForVideoClassification as VivitForVideoClassification
    from vivit_lab.model.classifier import VivitModel as VivitModel
    from vivit_lab.model.config import VivitConfig as VivitConfig
    from vivit_lab.model.from_image import vivit_from_image_model as vivit_from_image_model
    from vivit_lab.model.outputs import VideoClassifierOutput as VideoClassifierOutput
    from vivit_lab.model.outputs import VivitModelOutput as VivitModelOutput
    from vivit_lab.video.clip import Clip as Clip
    from vivit_lab.video.geometry import Geometry as Geometry

_HOME = {
    "AttentionRecord": "hooks.record",
    "AttentionRollout": "attribution.rollout",
    "AttributionMap": "attribution.base",
    "Clip": "video.clip",
    "Geometry": "video.geometry",
    "RawAttention": "attribution.raw",
    "TokenGrid": "grid",
    "VideoClassifierOutput": "model.outputs",
    "VivitConfig": "model.config",
    "VivitForVideoClassification": "model.classifier",
    "VivitModel": "model.classifier",
    "VivitModelOutput": "model.outputs",
    "bundled_clip_path": "checkpoints.bundled",
    "bundled_model_path": "checkpoints.bundled",
    "record_attention": "hooks.recorder",
    "vivit_from_image_model": "model.from_image",
}

__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vivit_lab' has no attribute {name!r}")
    value = getattr(import_module(f"vivit_lab.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
