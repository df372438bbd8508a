"""Interpretability workbench for ViViT, the video vision transformer.

This is the index of the public API; each name is imported when it is first used, so ``import vivit_lab`` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from vivit_lab._version import __version__ as __version__

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
    "bench.decode": "bench_decode",
    "bench.suites": "bench_attention bench_cost bench_inference bench_rollout bench_training",
    "bench.table": "BenchTable",
    "bulk.engine": "run_bulk",
    "bulk.job": "BulkJob",
    "bulk.local": "LocalExecutor",
    "bulk.masks": "MaskList",
    "bulk.render": "render_clips",
    "bulk.results": "BulkResults",
    "bulk.sweep_results": "HeadSweepResults sweep_heads",
    "checkpoints.bundled": "bundled_clip_path bundled_model_path",
    "checkpoints.checkpoint": "Checkpoint",
    "checkpoints.labels": "kinetics400_labels",
    "clips.listing": "ClipList list_clips",
    "colormap": "Colormap get_colormap",
    "errors": (
        "BackendError BundledDataError ChangedVideoWarning CheckpointError CheckpointNotFoundError CheckpointWarning "
        "ConfigError DamagedCheckpointError DamagedFileError DamagedFileWarning "
        "DecodeError DecodeWarning DoubleNormalizationWarning GridError InputError KeyMismatchError "
        "MissingExtraError NotAVideoError OutOfMemoryBudgetError PrecisionWarning ResizedPositionsWarning "
        "ShortClipWarning SkippedClipWarning "
        "StorageError UnsafeCheckpointError VideoError VideoNotFoundError VivitLabError VivitLabWarning"
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
    "heads.ablation": "SingleHeadAblation",
    "heads.clips": "clip_set",
    "heads.confidence": "ConfidenceImportance",
    "heads.curves": "PruningCurves",
    "heads.experiment": "PruningExperiment",
    "heads.gates": "L0Gates",
    "heads.gradient": "FisherImportance GradientActivation MichelImportance",
    "heads.importance": "HeadImportance",
    "heads.mask": "HeadMask",
    "heads.motion": "estimate_motion planted_motion",
    "heads.prune": "head_means prune_heads",
    "heads.roles": "head_roles",
    "heads.statistics": "head_statistics",
    "heads.statistics_result": "HeadStatistics",
    "heads.taxonomy": "Taxonomy",
    "hooks.gradients": "GradientRecord record_gradients",
    "hooks.logit_attribution": "direct_logit_attribution",
    "hooks.logit_lens": "logit_lens",
    "hooks.logit_parts": "LogitAttribution",
    "hooks.record": "AttentionRecord",
    "hooks.recorder": "record_attention",
    "hooks.targets": "ClassLogit CosineSimilarity LogitDifference OwnEmbedding Probability",
    "interventions.ablation": "ablate",
    "interventions.ablation_effects": "AblationEffects CausalTemporalScore",
    "interventions.activation_patching": "ActivationPatching",
    "interventions.attribution_patching": "AttributionPatching",
    "interventions.base": "Intervention",
    "interventions.corruptions": "FreezeFrame ReverseFrames ShuffleFrames",
    "interventions.corruptions_space": "BlurTube OtherClip SwapRegion",
    "interventions.effects": "EffectTable",
    "interventions.knockout": "knock_out",
    "interventions.patch": "patch",
    "interventions.patching_result": "PatchingResult",
    "interventions.path_patching": "PathPatching",
    "interventions.steering": "SteeringVector steer steering_vector",
    "interventions.tokens": "Region",
    "model.activation_cache": "ActivationCache",
    "model.auto": "load_model",
    "model.classifier": "VivitForVideoClassification VivitModel",
    "model.config": "VivitConfig",
    "model.cost": "ModelCost model_cost",
    "model.from_image": "vivit_from_image_model",
    "model.from_scenic": "from_scenic",
    "model.hook_point": "HookPoint",
    "model.logit_lens": "LogitLens",
    "model.outputs": "VideoClassifierOutput VivitModelOutput",
    "model.views": "predict_views",
    "planted.clip": "PlantedClip planted_clip",
    "planted.config": "PlantedConfig",
    "planted.dataset": "PlantedDataset",
    "planted.files": "read_planted write_planted",
    "planted.report": "planted_report",
    "render.movie": "render_movie",
    "render.overlay": "heat_on_source to_frames",
    "render.sheet": "contact_sheet",
    "statistics.proportion": "wilson_interval",
    "training.augment": "Augmentation",
    "training.clips": "LabelledClip find_clips",
    "training.config": "TrainingConfig",
    "training.finetune": "FinetuneResult finetune",
    "training.loop": "train",
    "training.mirror": "Mirror mirror_of",
    "training.presets": "PRESETS",
    "training.scores": "ClassificationReport classify_clips",
    "video.clip": "Clip",
    "video.encode": "MovieWriter",
    "video.geometry": "Geometry",
    "processing.processor": "VivitImageProcessor",
    "processing.sampling": "Sampling note_sampling sampling_of",
    "video.index": "FrameIndex load_index",
    "video.info": "VideoInfo probe",
    "video.read": "read_clip read_frames read_video_pyav",
    "video.sample": "sample_frame_indices uniform_frame_indices",
    "video.views": "read_views",
    "widgets.clip_explorer": "ClipExplorer",
    "widgets.compare_explorer": "CompareExplorer Side",
    "widgets.faithfulness_table": "FaithfulnessTable",
    "widgets.head_explorer": "HeadExplorer",
    "widgets.link": "link_views",
    "widgets.logit_lens_strip": "LogitLensStrip",
    "widgets.patching_heatmap": "PatchingHeatmap",
    "widgets.pruning_curves": "PruningCurvesView",
    "widgets.workbench": "Workbench",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vivit_lab' has no attribute {name!r}")
    value = getattr(import_module(f"vivit_lab.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
