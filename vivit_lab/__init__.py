"""Interpretability workbench for ViViT, the video vision transformer.

This is the index of the public API; each name is imported when it is first used, so ``import vivit_lab`` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vivit_lab._version import __version__

if TYPE_CHECKING:
    from vivit_lab.attribution.attcat import AttCAT as AttCAT
    from vivit_lab.attribution.attention_gradient import AttentionGradient as AttentionGradient
    from vivit_lab.attribution.base import AttributionMap as AttributionMap
    from vivit_lab.attribution.chefer import CheferRelevance as CheferRelevance
    from vivit_lab.attribution.gradient_rollout import GradientRollout as GradientRollout
    from vivit_lab.attribution.input_gradient import InputXGradient as InputXGradient
    from vivit_lab.attribution.integrated_gradients import IntegratedGradients as IntegratedGradients
    from vivit_lab.attribution.legrad import LeGrad as LeGrad
    from vivit_lab.attribution.occlusion import Occlusion as Occlusion
    from vivit_lab.attribution.raw import RawAttention as RawAttention
    from vivit_lab.attribution.rise import Rise as Rise
    from vivit_lab.attribution.rollout import AttentionRollout as AttentionRollout
    from vivit_lab.attribution.smooth_grad import SmoothGrad as SmoothGrad
    from vivit_lab.attribution.transition import TransitionAttentionMaps as TransitionAttentionMaps
    from vivit_lab.attribution.value_norm import ValueNormRollout as ValueNormRollout
    from vivit_lab.checkpoints.bundled import bundled_clip_path as bundled_clip_path
    from vivit_lab.checkpoints.bundled import bundled_model_path as bundled_model_path
    from vivit_lab.checkpoints.labels import kinetics400_labels as kinetics400_labels
    from vivit_lab.colormap import Colormap as Colormap
    from vivit_lab.colormap import get_colormap as get_colormap
    from vivit_lab.errors import BackendError as BackendError
    from vivit_lab.errors import BundledDataError as BundledDataError
    from vivit_lab.errors import CheckpointError as CheckpointError
    from vivit_lab.errors import CheckpointNotFoundError as CheckpointNotFoundError
    from vivit_lab.errors import CheckpointWarning as CheckpointWarning
    from vivit_lab.errors import ConfigError as ConfigError
    from vivit_lab.errors import DecodeError as DecodeError
    from vivit_lab.errors import DecodeWarning as DecodeWarning
    from vivit_lab.errors import DoubleNormalizationWarning as DoubleNormalizationWarning
    from vivit_lab.errors import GridError as GridError
    from vivit_lab.errors import InputError as InputError
    from vivit_lab.errors import KeyMismatchError as KeyMismatchError
    from vivit_lab.errors import MissingExtraError as MissingExtraError
    from vivit_lab.errors import NotAVideoError as NotAVideoError
    from vivit_lab.errors import OutOfMemoryBudgetError as OutOfMemoryBudgetError
    from vivit_lab.errors import ShortClipWarning as ShortClipWarning
    from vivit_lab.errors import UnsafeCheckpointError as UnsafeCheckpointError
    from vivit_lab.errors import VideoError as VideoError
    from vivit_lab.errors import VideoNotFoundError as VideoNotFoundError
    from vivit_lab.errors import VivitLabError as VivitLabError
    from vivit_lab.errors import VivitLabWarning as VivitLabWarning
    from vivit_lab.explain import Explanation as Explanation
    from vivit_lab.explain import explain_video as explain_video
    from vivit_lab.explain import load_pair as load_pair
    from vivit_lab.grid import TokenGrid as TokenGrid
    from vivit_lab.hooks.gradients import GradientRecord as GradientRecord
    from vivit_lab.hooks.gradients import record_gradients as record_gradients
    from vivit_lab.hooks.record import AttentionRecord as AttentionRecord
    from vivit_lab.hooks.recorder import record_attention as record_attention
    from vivit_lab.hooks.targets import ClassLogit as ClassLogit
    from vivit_lab.hooks.targets import CosineSimilarity as CosineSimilarity
    from vivit_lab.hooks.targets import LogitDifference as LogitDifference
    from vivit_lab.hooks.targets import Probability as Probability
    from vivit_lab.model.auto import load_model as load_model
    from vivit_lab.model.classifier import VivitForVideoClassification as VivitForVideoClassification
    from vivit_lab.model.classifier import VivitModel as VivitModel
    from vivit_lab.model.config import VivitConfig as VivitConfig
    from vivit_lab.model.from_image import vivit_from_image_model as vivit_from_image_model
    from vivit_lab.model.outputs import VideoClassifierOutput as VideoClassifierOutput
    from vivit_lab.model.outputs import VivitModelOutput as VivitModelOutput
    from vivit_lab.render.movie import render_movie as render_movie
    from vivit_lab.render.overlay import heat_on_source as heat_on_source
    from vivit_lab.render.overlay import to_frames as to_frames
    from vivit_lab.render.sheet import contact_sheet as contact_sheet
    from vivit_lab.video.clip import Clip as Clip
    from vivit_lab.video.encode import MovieWriter as MovieWriter
    from vivit_lab.video.geometry import Geometry as Geometry
    from vivit_lab.video.preprocess import VivitImageProcessor as VivitImageProcessor
    from vivit_lab.video.probe import VideoInfo as VideoInfo
    from vivit_lab.video.probe import probe as probe
    from vivit_lab.video.read import read_clip as read_clip
    from vivit_lab.video.read import read_frames as read_frames
    from vivit_lab.video.read import read_video_pyav as read_video_pyav
    from vivit_lab.video.sample import sample_frame_indices as sample_frame_indices
    from vivit_lab.video.sample import uniform_frame_indices as uniform_frame_indices

__all__ = [
    "AttCAT",
    "AttentionGradient",
    "AttentionRecord",
    "AttentionRollout",
    "AttributionMap",
    "BackendError",
    "BundledDataError",
    "CheckpointError",
    "CheckpointNotFoundError",
    "CheckpointWarning",
    "CheferRelevance",
    "ClassLogit",
    "Clip",
    "Colormap",
    "ConfigError",
    "CosineSimilarity",
    "DecodeError",
    "DecodeWarning",
    "DoubleNormalizationWarning",
    "Explanation",
    "Geometry",
    "GradientRecord",
    "GradientRollout",
    "GridError",
    "InputError",
    "InputXGradient",
    "IntegratedGradients",
    "KeyMismatchError",
    "LeGrad",
    "LogitDifference",
    "MissingExtraError",
    "MovieWriter",
    "NotAVideoError",
    "Occlusion",
    "OutOfMemoryBudgetError",
    "Probability",
    "RawAttention",
    "Rise",
    "ShortClipWarning",
    "SmoothGrad",
    "TokenGrid",
    "TransitionAttentionMaps",
    "UnsafeCheckpointError",
    "ValueNormRollout",
    "VideoClassifierOutput",
    "VideoError",
    "VideoInfo",
    "VideoNotFoundError",
    "VivitConfig",
    "VivitForVideoClassification",
    "VivitImageProcessor",
    "VivitLabError",
    "VivitLabWarning",
    "VivitModel",
    "VivitModelOutput",
    "__version__",
    "bundled_clip_path",
    "bundled_model_path",
    "contact_sheet",
    "explain_video",
    "get_colormap",
    "heat_on_source",
    "kinetics400_labels",
    "load_model",
    "load_pair",
    "probe",
    "read_clip",
    "read_frames",
    "read_video_pyav",
    "record_attention",
    "record_gradients",
    "render_movie",
    "sample_frame_indices",
    "to_frames",
    "uniform_frame_indices",
    "vivit_from_image_model",
]

#: Where each name lives.
_HOME = {
    "AttCAT": "attribution.attcat",
    "AttentionGradient": "attribution.attention_gradient",
    "AttentionRecord": "hooks.record",
    "AttentionRollout": "attribution.rollout",
    "AttributionMap": "attribution.base",
    "BackendError": "errors",
    "BundledDataError": "errors",
    "CheckpointError": "errors",
    "CheckpointNotFoundError": "errors",
    "CheckpointWarning": "errors",
    "CheferRelevance": "attribution.chefer",
    "ClassLogit": "hooks.targets",
    "Clip": "video.clip",
    "Colormap": "colormap",
    "ConfigError": "errors",
    "CosineSimilarity": "hooks.targets",
    "DecodeError": "errors",
    "DecodeWarning": "errors",
    "DoubleNormalizationWarning": "errors",
    "Explanation": "explain",
    "Geometry": "video.geometry",
    "GradientRecord": "hooks.gradients",
    "GradientRollout": "attribution.gradient_rollout",
    "GridError": "errors",
    "InputError": "errors",
    "InputXGradient": "attribution.input_gradient",
    "IntegratedGradients": "attribution.integrated_gradients",
    "KeyMismatchError": "errors",
    "LeGrad": "attribution.legrad",
    "LogitDifference": "hooks.targets",
    "MissingExtraError": "errors",
    "MovieWriter": "video.encode",
    "NotAVideoError": "errors",
    "Occlusion": "attribution.occlusion",
    "OutOfMemoryBudgetError": "errors",
    "Probability": "hooks.targets",
    "RawAttention": "attribution.raw",
    "Rise": "attribution.rise",
    "ShortClipWarning": "errors",
    "SmoothGrad": "attribution.smooth_grad",
    "TokenGrid": "grid",
    "TransitionAttentionMaps": "attribution.transition",
    "UnsafeCheckpointError": "errors",
    "ValueNormRollout": "attribution.value_norm",
    "VideoClassifierOutput": "model.outputs",
    "VideoError": "errors",
    "VideoInfo": "video.probe",
    "VideoNotFoundError": "errors",
    "VivitConfig": "model.config",
    "VivitForVideoClassification": "model.classifier",
    "VivitImageProcessor": "video.preprocess",
    "VivitLabError": "errors",
    "VivitLabWarning": "errors",
    "VivitModel": "model.classifier",
    "VivitModelOutput": "model.outputs",
    "bundled_clip_path": "checkpoints.bundled",
    "bundled_model_path": "checkpoints.bundled",
    "contact_sheet": "render.sheet",
    "explain_video": "explain",
    "get_colormap": "colormap",
    "heat_on_source": "render.overlay",
    "kinetics400_labels": "checkpoints.labels",
    "load_model": "model.auto",
    "load_pair": "explain",
    "probe": "video.probe",
    "read_clip": "video.read",
    "read_frames": "video.read",
    "read_video_pyav": "video.read",
    "record_attention": "hooks.recorder",
    "record_gradients": "hooks.gradients",
    "render_movie": "render.movie",
    "sample_frame_indices": "video.sample",
    "to_frames": "render.overlay",
    "uniform_frame_indices": "video.sample",
    "vivit_from_image_model": "model.from_image",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vivit_lab' has no attribute {name!r}")
    value = getattr(import_module(f"vivit_lab.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
