# The same index for type checkers and editors, which do not run ``__getattr__``; a test holds the two together.
from vivit_lab._version import __version__ as __version__
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
from vivit_lab.bench.decode import bench_decode as bench_decode
from vivit_lab.bench.suites import bench_attention as bench_attention
from vivit_lab.bench.suites import bench_cost as bench_cost
from vivit_lab.bench.suites import bench_inference as bench_inference
from vivit_lab.bench.suites import bench_rollout as bench_rollout
from vivit_lab.bench.suites import bench_training as bench_training
from vivit_lab.bench.table import BenchTable as BenchTable
from vivit_lab.bulk.engine import run_bulk as run_bulk
from vivit_lab.bulk.job import BulkJob as BulkJob
from vivit_lab.bulk.local import LocalExecutor as LocalExecutor
from vivit_lab.bulk.masks import MaskList as MaskList
from vivit_lab.bulk.render import render_clips as render_clips
from vivit_lab.bulk.results import BulkResults as BulkResults
from vivit_lab.bulk.sweep_results import HeadSweepResults as HeadSweepResults
from vivit_lab.bulk.sweep_results import sweep_heads as sweep_heads
from vivit_lab.checkpoints.bundled import bundled_clip_path as bundled_clip_path
from vivit_lab.checkpoints.bundled import bundled_model_path as bundled_model_path
from vivit_lab.checkpoints.checkpoint import Checkpoint as Checkpoint
from vivit_lab.checkpoints.labels import kinetics400_labels as kinetics400_labels
from vivit_lab.clips.listing import ClipList as ClipList
from vivit_lab.clips.listing import list_clips as list_clips
from vivit_lab.colormap import Colormap as Colormap
from vivit_lab.colormap import get_colormap as get_colormap
from vivit_lab.errors import BackendError as BackendError
from vivit_lab.errors import BundledDataError as BundledDataError
from vivit_lab.errors import ChangedVideoWarning as ChangedVideoWarning
from vivit_lab.errors import CheckpointError as CheckpointError
from vivit_lab.errors import CheckpointNotFoundError as CheckpointNotFoundError
from vivit_lab.errors import CheckpointWarning as CheckpointWarning
from vivit_lab.errors import ConfigError as ConfigError
from vivit_lab.errors import DamagedCheckpointError as DamagedCheckpointError
from vivit_lab.errors import DamagedFileError as DamagedFileError
from vivit_lab.errors import DamagedFileWarning as DamagedFileWarning
from vivit_lab.errors import DecodeError as DecodeError
from vivit_lab.errors import DecodeWarning as DecodeWarning
from vivit_lab.errors import DoubleNormalizationWarning as DoubleNormalizationWarning
from vivit_lab.errors import GridError as GridError
from vivit_lab.errors import InputError as InputError
from vivit_lab.errors import KeyMismatchError as KeyMismatchError
from vivit_lab.errors import MissingExtraError as MissingExtraError
from vivit_lab.errors import NotAVideoError as NotAVideoError
from vivit_lab.errors import OutOfMemoryBudgetError as OutOfMemoryBudgetError
from vivit_lab.errors import PrecisionWarning as PrecisionWarning
from vivit_lab.errors import ResizedPositionsWarning as ResizedPositionsWarning
from vivit_lab.errors import ShortClipWarning as ShortClipWarning
from vivit_lab.errors import SkippedClipWarning as SkippedClipWarning
from vivit_lab.errors import StorageError as StorageError
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
from vivit_lab.heads.ablation import SingleHeadAblation as SingleHeadAblation
from vivit_lab.heads.clips import clip_set as clip_set
from vivit_lab.heads.confidence import ConfidenceImportance as ConfidenceImportance
from vivit_lab.heads.curves import PruningCurves as PruningCurves
from vivit_lab.heads.experiment import PruningExperiment as PruningExperiment
from vivit_lab.heads.gates import L0Gates as L0Gates
from vivit_lab.heads.gradient import FisherImportance as FisherImportance
from vivit_lab.heads.gradient import GradientActivation as GradientActivation
from vivit_lab.heads.gradient import MichelImportance as MichelImportance
from vivit_lab.heads.importance import HeadImportance as HeadImportance
from vivit_lab.heads.mask import HeadMask as HeadMask
from vivit_lab.heads.motion import estimate_motion as estimate_motion
from vivit_lab.heads.motion import planted_motion as planted_motion
from vivit_lab.heads.prune import head_means as head_means
from vivit_lab.heads.prune import prune_heads as prune_heads
from vivit_lab.heads.roles import head_roles as head_roles
from vivit_lab.heads.statistics import head_statistics as head_statistics
from vivit_lab.heads.statistics_result import HeadStatistics as HeadStatistics
from vivit_lab.heads.taxonomy import Taxonomy as Taxonomy
from vivit_lab.hooks.gradients import GradientRecord as GradientRecord
from vivit_lab.hooks.gradients import record_gradients as record_gradients
from vivit_lab.hooks.logit_attribution import direct_logit_attribution as direct_logit_attribution
from vivit_lab.hooks.logit_lens import logit_lens as logit_lens
from vivit_lab.hooks.logit_parts import LogitAttribution as LogitAttribution
from vivit_lab.hooks.record import AttentionRecord as AttentionRecord
from vivit_lab.hooks.recorder import record_attention as record_attention
from vivit_lab.hooks.targets import ClassLogit as ClassLogit
from vivit_lab.hooks.targets import CosineSimilarity as CosineSimilarity
from vivit_lab.hooks.targets import LogitDifference as LogitDifference
from vivit_lab.hooks.targets import OwnEmbedding as OwnEmbedding
from vivit_lab.hooks.targets import Probability as Probability
from vivit_lab.interventions.ablation import ablate as ablate
from vivit_lab.interventions.ablation_effects import AblationEffects as AblationEffects
from vivit_lab.interventions.ablation_effects import CausalTemporalScore as CausalTemporalScore
from vivit_lab.interventions.activation_patching import ActivationPatching as ActivationPatching
from vivit_lab.interventions.attribution_patching import AttributionPatching as AttributionPatching
from vivit_lab.interventions.base import Intervention as Intervention
from vivit_lab.interventions.corruptions import FreezeFrame as FreezeFrame
from vivit_lab.interventions.corruptions import ReverseFrames as ReverseFrames
from vivit_lab.interventions.corruptions import ShuffleFrames as ShuffleFrames
from vivit_lab.interventions.corruptions_space import BlurTube as BlurTube
from vivit_lab.interventions.corruptions_space import OtherClip as OtherClip
from vivit_lab.interventions.corruptions_space import SwapRegion as SwapRegion
from vivit_lab.interventions.effects import EffectTable as EffectTable
from vivit_lab.interventions.knockout import knock_out as knock_out
from vivit_lab.interventions.patch import patch as patch
from vivit_lab.interventions.patching_result import PatchingResult as PatchingResult
from vivit_lab.interventions.path_patching import PathPatching as PathPatching
from vivit_lab.interventions.steering import SteeringVector as SteeringVector
from vivit_lab.interventions.steering import steer as steer
from vivit_lab.interventions.steering import steering_vector as steering_vector
from vivit_lab.interventions.tokens import Region as Region
from vivit_lab.model.activation_cache import ActivationCache as ActivationCache
from vivit_lab.model.auto import load_model as load_model
from vivit_lab.model.classifier import VivitForVideoClassification as VivitForVideoClassification
from vivit_lab.model.classifier import VivitModel as VivitModel
from vivit_lab.model.config import VivitConfig as VivitConfig
from vivit_lab.model.cost import ModelCost as ModelCost
from vivit_lab.model.cost import model_cost as model_cost
from vivit_lab.model.from_image import vivit_from_image_model as vivit_from_image_model
from vivit_lab.model.from_scenic import from_scenic as from_scenic
from vivit_lab.model.hook_point import HookPoint as HookPoint
from vivit_lab.model.logit_lens import LogitLens as LogitLens
from vivit_lab.model.outputs import VideoClassifierOutput as VideoClassifierOutput
from vivit_lab.model.outputs import VivitModelOutput as VivitModelOutput
from vivit_lab.model.views import predict_views as predict_views
from vivit_lab.planted.clip import PlantedClip as PlantedClip
from vivit_lab.planted.clip import planted_clip as planted_clip
from vivit_lab.planted.config import PlantedConfig as PlantedConfig
from vivit_lab.planted.dataset import PlantedDataset as PlantedDataset
from vivit_lab.planted.files import read_planted as read_planted
from vivit_lab.planted.files import write_planted as write_planted
from vivit_lab.planted.report import planted_report as planted_report
from vivit_lab.processing.processor import VivitImageProcessor as VivitImageProcessor
from vivit_lab.processing.sampling import Sampling as Sampling
from vivit_lab.processing.sampling import note_sampling as note_sampling
from vivit_lab.processing.sampling import sampling_of as sampling_of
from vivit_lab.render.movie import render_movie as render_movie
from vivit_lab.render.overlay import heat_on_source as heat_on_source
from vivit_lab.render.overlay import to_frames as to_frames
from vivit_lab.render.sheet import contact_sheet as contact_sheet
from vivit_lab.statistics.proportion import wilson_interval as wilson_interval
from vivit_lab.training.augment import Augmentation as Augmentation
from vivit_lab.training.clips import LabelledClip as LabelledClip
from vivit_lab.training.clips import find_clips as find_clips
from vivit_lab.training.config import TrainingConfig as TrainingConfig
from vivit_lab.training.finetune import FinetuneResult as FinetuneResult
from vivit_lab.training.finetune import finetune as finetune
from vivit_lab.training.loop import train as train
from vivit_lab.training.mirror import Mirror as Mirror
from vivit_lab.training.mirror import mirror_of as mirror_of
from vivit_lab.training.presets import PRESETS as PRESETS
from vivit_lab.training.scores import ClassificationReport as ClassificationReport
from vivit_lab.training.scores import classify_clips as classify_clips
from vivit_lab.video.clip import Clip as Clip
from vivit_lab.video.encode import MovieWriter as MovieWriter
from vivit_lab.video.geometry import Geometry as Geometry
from vivit_lab.video.index import FrameIndex as FrameIndex
from vivit_lab.video.index import load_index as load_index
from vivit_lab.video.info import VideoInfo as VideoInfo
from vivit_lab.video.info import probe as probe
from vivit_lab.video.read import read_clip as read_clip
from vivit_lab.video.read import read_frames as read_frames
from vivit_lab.video.read import read_video_pyav as read_video_pyav
from vivit_lab.video.sample import sample_frame_indices as sample_frame_indices
from vivit_lab.video.sample import uniform_frame_indices as uniform_frame_indices
from vivit_lab.video.views import read_views as read_views
from vivit_lab.widgets.clip_explorer import ClipExplorer as ClipExplorer
from vivit_lab.widgets.compare_explorer import CompareExplorer as CompareExplorer
from vivit_lab.widgets.compare_explorer import Side as Side
from vivit_lab.widgets.faithfulness_table import FaithfulnessTable as FaithfulnessTable
from vivit_lab.widgets.head_explorer import HeadExplorer as HeadExplorer
from vivit_lab.widgets.link import link_views as link_views
from vivit_lab.widgets.logit_lens_strip import LogitLensStrip as LogitLensStrip
from vivit_lab.widgets.patching_heatmap import PatchingHeatmap as PatchingHeatmap
from vivit_lab.widgets.pruning_curves import PruningCurvesView as PruningCurvesView
from vivit_lab.widgets.workbench import Workbench as Workbench

__all__ = [
    "PRESETS",
    "AblationEffects",
    "ActivationCache",
    "ActivationPatching",
    "ArtefactTokens",
    "AttCAT",
    "AttentionGradient",
    "AttentionRecord",
    "AttentionRollout",
    "AttentionSinks",
    "AttributionMap",
    "AttributionPatching",
    "Augmentation",
    "BackendError",
    "BenchTable",
    "BlurTube",
    "BulkJob",
    "BulkResults",
    "BundledDataError",
    "CausalTemporalScore",
    "CentreGaussian",
    "ChangedVideoWarning",
    "Checkpoint",
    "CheckpointError",
    "CheckpointNotFoundError",
    "CheckpointWarning",
    "CheferRelevance",
    "ClassContrast",
    "ClassLogit",
    "ClassificationReport",
    "Clip",
    "ClipExplorer",
    "ClipList",
    "Colormap",
    "CompareExplorer",
    "ConfidenceImportance",
    "ConfigError",
    "CosineSimilarity",
    "DamagedCheckpointError",
    "DamagedFileError",
    "DamagedFileWarning",
    "DecodeError",
    "DecodeWarning",
    "DoubleNormalizationWarning",
    "EffectTable",
    "EvaluationPlan",
    "Explanation",
    "FaithfulnessReport",
    "FaithfulnessTable",
    "FinetuneResult",
    "FisherImportance",
    "FrameDifference",
    "FrameIndex",
    "FreezeFrame",
    "Geometry",
    "GradientActivation",
    "GradientRecord",
    "GradientRollout",
    "GridError",
    "HeadExplorer",
    "HeadImportance",
    "HeadMask",
    "HeadStatistics",
    "HeadSweepResults",
    "HookPoint",
    "Infidelity",
    "InputError",
    "InputXGradient",
    "IntegratedGradients",
    "Intervention",
    "KeyMismatchError",
    "L0Gates",
    "LabelledClip",
    "LeGrad",
    "LocalExecutor",
    "LogitAttribution",
    "LogitDifference",
    "LogitLens",
    "LogitLensStrip",
    "MaskList",
    "MichelImportance",
    "Mirror",
    "MissingExtraError",
    "ModelCost",
    "MovieWriter",
    "NotAVideoError",
    "Occlusion",
    "OtherClip",
    "OutOfMemoryBudgetError",
    "OwnEmbedding",
    "PatchingHeatmap",
    "PatchingResult",
    "PathPatching",
    "Perturbation",
    "PlantedClip",
    "PlantedConfig",
    "PlantedDataset",
    "PrecisionWarning",
    "Probability",
    "PruningCurves",
    "PruningCurvesView",
    "PruningExperiment",
    "RandomMap",
    "RawAttention",
    "Region",
    "ResizedPositionsWarning",
    "ReverseFrames",
    "Rise",
    "SaCo",
    "Sampling",
    "SensitivityN",
    "ShortClipWarning",
    "ShuffleFrames",
    "Side",
    "SingleHeadAblation",
    "SkippedClipWarning",
    "SmoothGrad",
    "SpaceTimeSeparation",
    "SteeringVector",
    "StorageError",
    "SwapRegion",
    "Taxonomy",
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
    "Workbench",
    "__version__",
    "ablate",
    "all_methods",
    "artefact_tokens",
    "attention_sinks",
    "bench_attention",
    "bench_cost",
    "bench_decode",
    "bench_inference",
    "bench_rollout",
    "bench_training",
    "bundled_clip_path",
    "bundled_model_path",
    "check_sanity",
    "class_contrast",
    "classify_clips",
    "clip_set",
    "contact_sheet",
    "direct_logit_attribution",
    "estimate_motion",
    "evaluate",
    "explain_video",
    "find_clips",
    "finetune",
    "forward_kept_tokens",
    "from_scenic",
    "get_colormap",
    "head_means",
    "head_roles",
    "head_statistics",
    "heat_on_source",
    "kinetics400_labels",
    "knock_out",
    "link_views",
    "list_clips",
    "load_index",
    "load_model",
    "load_pair",
    "localise",
    "logit_lens",
    "mirror_of",
    "model_cost",
    "note_sampling",
    "open_data",
    "patch",
    "planted_clip",
    "planted_motion",
    "planted_report",
    "predict_views",
    "probe",
    "prune_heads",
    "read_clip",
    "read_frames",
    "read_planted",
    "read_video_pyav",
    "read_views",
    "record_attention",
    "record_gradients",
    "render_clips",
    "render_movie",
    "run_bulk",
    "sample_frame_indices",
    "sampling_of",
    "space_time_separation",
    "steer",
    "steering_vector",
    "stored_report",
    "sweep_heads",
    "to_frames",
    "train",
    "uniform_frame_indices",
    "vivit_from_image_model",
    "wilson_interval",
    "write_planted",
    "write_report",
]
