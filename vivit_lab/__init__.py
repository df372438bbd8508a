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
    from vivit_lab.attribution.diagnostics_artefacts import ArtefactTokens as ArtefactTokens
    from vivit_lab.attribution.diagnostics_artefacts import artefact_tokens as artefact_tokens
    from vivit_lab.attribution.diagnostics_contrast import ClassContrast as ClassContrast
    from vivit_lab.attribution.diagnostics_contrast import class_contrast as class_contrast
    from vivit_lab.attribution.diagnostics_separation import SpaceTimeSeparation as SpaceTimeSeparation
    from vivit_lab.attribution.diagnostics_separation import space_time_separation as space_time_separation
    from vivit_lab.attribution.diagnostics_sinks import AttentionSinks as AttentionSinks
    from vivit_lab.attribution.diagnostics_sinks import attention_sinks as attention_sinks
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
    from vivit_lab.evaluation import all_methods as all_methods
    from vivit_lab.evaluation import open_data as open_data
    from vivit_lab.evaluation import stored_report as stored_report
    from vivit_lab.evaluation import write_report as write_report
    from vivit_lab.explain import Explanation as Explanation
    from vivit_lab.explain import explain_video as explain_video
    from vivit_lab.explain import load_pair as load_pair
    from vivit_lab.faithfulness.controls import CentreGaussian as CentreGaussian
    from vivit_lab.faithfulness.controls import FrameDifference as FrameDifference
    from vivit_lab.faithfulness.controls import RandomMap as RandomMap
    from vivit_lab.faithfulness.dropping import forward_kept_tokens as forward_kept_tokens
    from vivit_lab.faithfulness.evaluate import EvaluationPlan as EvaluationPlan
    from vivit_lab.faithfulness.evaluate import evaluate as evaluate
    from vivit_lab.faithfulness.infidelity import Infidelity as Infidelity
    from vivit_lab.faithfulness.localisation import localise as localise
    from vivit_lab.faithfulness.perturbation import Perturbation as Perturbation
    from vivit_lab.faithfulness.report import FaithfulnessReport as FaithfulnessReport
    from vivit_lab.faithfulness.saco import SaCo as SaCo
    from vivit_lab.faithfulness.sanity import check_sanity as check_sanity
    from vivit_lab.faithfulness.sensitivity import SensitivityN as SensitivityN
    from vivit_lab.grid import TokenGrid as TokenGrid
    from vivit_lab.hooks.gradients import GradientRecord as GradientRecord
    from vivit_lab.hooks.gradients import record_gradients as record_gradients
    from vivit_lab.hooks.record import AttentionRecord as AttentionRecord
    from vivit_lab.hooks.recorder import record_attention as record_attention
    from vivit_lab.hooks.targets import ClassLogit as ClassLogit
    from vivit_lab.hooks.targets import CosineSimilarity as CosineSimilarity
    from vivit_lab.hooks.targets import LogitDifference as LogitDifference
    from vivit_lab.hooks.targets import OwnEmbedding as OwnEmbedding
    from vivit_lab.hooks.targets import Probability as Probability
    from vivit_lab.model.auto import load_model as load_model
    from vivit_lab.model.classifier import VivitForVideoClassification as VivitForVideoClassification
    from vivit_lab.model.classifier import VivitModel as VivitModel
    from vivit_lab.model.config import VivitConfig as VivitConfig
    from vivit_lab.model.from_image import vivit_from_image_model as vivit_from_image_model
    from vivit_lab.model.outputs import VideoClassifierOutput as VideoClassifierOutput
    from vivit_lab.model.outputs import VivitModelOutput as VivitModelOutput
    from vivit_lab.planted.clip import PlantedClip as PlantedClip
    from vivit_lab.planted.clip import planted_clip as planted_clip
    from vivit_lab.planted.config import PlantedConfig as PlantedConfig
    from vivit_lab.planted.dataset import PlantedDataset as PlantedDataset
    from vivit_lab.planted.files import read_planted as read_planted
    from vivit_lab.planted.files import write_planted as write_planted
    from vivit_lab.planted.report import planted_report as planted_report
    from vivit_lab.render.movie import render_movie as render_movie
    from vivit_lab.render.overlay import heat_on_source as heat_on_source
    from vivit_lab.render.overlay import to_frames as to_frames
    from vivit_lab.render.sheet import contact_sheet as contact_sheet
    from vivit_lab.training.config import TrainingConfig as TrainingConfig
    from vivit_lab.training.loop import train as train
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
    "ArtefactTokens",
    "AttCAT",
    "AttentionGradient",
    "AttentionRecord",
    "AttentionRollout",
    "AttentionSinks",
    "AttributionMap",
    "BackendError",
    "BundledDataError",
    "CentreGaussian",
    "CheckpointError",
    "CheckpointNotFoundError",
    "CheckpointWarning",
    "CheferRelevance",
    "ClassContrast",
    "ClassLogit",
    "Clip",
    "Colormap",
    "ConfigError",
    "CosineSimilarity",
    "DecodeError",
    "DecodeWarning",
    "DoubleNormalizationWarning",
    "EvaluationPlan",
    "Explanation",
    "FaithfulnessReport",
    "FrameDifference",
    "Geometry",
    "GradientRecord",
    "GradientRollout",
    "GridError",
    "Infidelity",
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
    "OwnEmbedding",
    "Perturbation",
    "PlantedClip",
    "PlantedConfig",
    "PlantedDataset",
    "Probability",
    "RandomMap",
    "RawAttention",
    "Rise",
    "SaCo",
    "SensitivityN",
    "ShortClipWarning",
    "SmoothGrad",
    "SpaceTimeSeparation",
    "TokenGrid",
    "TrainingConfig",
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
    "all_methods",
    "artefact_tokens",
    "attention_sinks",
    "bundled_clip_path",
    "bundled_model_path",
    "check_sanity",
    "class_contrast",
    "contact_sheet",
    "evaluate",
    "explain_video",
    "forward_kept_tokens",
    "get_colormap",
    "heat_on_source",
    "kinetics400_labels",
    "load_model",
    "load_pair",
    "localise",
    "open_data",
    "planted_clip",
    "planted_report",
    "probe",
    "read_clip",
    "read_frames",
    "read_planted",
    "read_video_pyav",
    "record_attention",
    "record_gradients",
    "render_movie",
    "sample_frame_indices",
    "space_time_separation",
    "stored_report",
    "to_frames",
    "train",
    "uniform_frame_indices",
    "vivit_from_image_model",
    "write_planted",
    "write_report",
]

#: Where each name lives.
_MODULES = {
    "attribution.attcat": "AttCAT",
    "attribution.attention_gradient": "AttentionGradient",
    "attribution.base": "AttributionMap",
    "attribution.chefer": "CheferRelevance",
    "attribution.diagnostics_artefacts": "ArtefactTokens artefact_tokens",
    "attribution.diagnostics_contrast": "ClassContrast class_contrast",
    "attribution.diagnostics_separation": "SpaceTimeSeparation space_time_separation",
    "attribution.diagnostics_sinks": "AttentionSinks attention_sinks",
    "attribution.gradient_rollout": "GradientRollout",
    "attribution.input_gradient": "InputXGradient",
    "attribution.integrated_gradients": "IntegratedGradients",
    "attribution.legrad": "LeGrad",
    "attribution.occlusion": "Occlusion",
    "attribution.raw": "RawAttention",
    "attribution.rise": "Rise",
    "attribution.rollout": "AttentionRollout",
    "attribution.smooth_grad": "SmoothGrad",
    "attribution.transition": "TransitionAttentionMaps",
    "attribution.value_norm": "ValueNormRollout",
    "checkpoints.bundled": "bundled_clip_path bundled_model_path",
    "checkpoints.labels": "kinetics400_labels",
    "colormap": "Colormap get_colormap",
    "errors": (
        "BackendError BundledDataError CheckpointError CheckpointNotFoundError CheckpointWarning ConfigError "
        "DecodeError DecodeWarning DoubleNormalizationWarning GridError InputError KeyMismatchError "
        "MissingExtraError NotAVideoError OutOfMemoryBudgetError ShortClipWarning UnsafeCheckpointError "
        "VideoError VideoNotFoundError VivitLabError VivitLabWarning"
    ),
    "evaluation": "all_methods open_data stored_report write_report",
    "explain": "Explanation explain_video load_pair",
    "faithfulness.controls": "CentreGaussian FrameDifference RandomMap",
    "faithfulness.dropping": "forward_kept_tokens",
    "faithfulness.evaluate": "EvaluationPlan evaluate",
    "faithfulness.infidelity": "Infidelity",
    "faithfulness.localisation": "localise",
    "faithfulness.perturbation": "Perturbation",
    "faithfulness.report": "FaithfulnessReport",
    "faithfulness.saco": "SaCo",
    "faithfulness.sanity": "check_sanity",
    "faithfulness.sensitivity": "SensitivityN",
    "grid": "TokenGrid",
    "hooks.gradients": "GradientRecord record_gradients",
    "hooks.record": "AttentionRecord",
    "hooks.recorder": "record_attention",
    "hooks.targets": "ClassLogit CosineSimilarity LogitDifference OwnEmbedding Probability",
    "model.auto": "load_model",
    "model.classifier": "VivitForVideoClassification VivitModel",
    "model.config": "VivitConfig",
    "model.from_image": "vivit_from_image_model",
    "model.outputs": "VideoClassifierOutput VivitModelOutput",
    "planted.clip": "PlantedClip planted_clip",
    "planted.config": "PlantedConfig",
    "planted.dataset": "PlantedDataset",
    "planted.files": "read_planted write_planted",
    "planted.report": "planted_report",
    "render.movie": "render_movie",
    "render.overlay": "heat_on_source to_frames",
    "render.sheet": "contact_sheet",
    "training.config": "TrainingConfig",
    "training.loop": "train",
    "video.clip": "Clip",
    "video.encode": "MovieWriter",
    "video.geometry": "Geometry",
    "video.preprocess": "VivitImageProcessor",
    "video.probe": "VideoInfo probe",
    "video.read": "read_clip read_frames read_video_pyav",
    "video.sample": "sample_frame_indices uniform_frame_indices",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vivit_lab' has no attribute {name!r}")
    value = getattr(import_module(f"vivit_lab.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
