"""Every public callable, with numbers that no caller can mean: refused by the argument's name, or a sane result.

The callables are found by their signatures. A new one with a number among its arguments fails here until it has sane
arguments in CASES, or its name in RESULTS.
"""

import dataclasses
import inspect
import math
import re
import resource
import signal
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import vivit_lab as lab
from tests.bulk.tiny_bulk import tiny_run, write_clips
from tests.model.tiny import TINY
from vivit_lab.bench.workload import Workload

INDEXES = [lab, *(value for value in map(lab.__getattr__, lab.__all__) if hasattr(value, "__path__"))]
PUBLIC = {name: getattr(index, name) for index in INDEXES for name in index.__all__}
PUBLIC["open_data"] = lab.evaluation.open_data

ODD = (math.nan, -1, 0, 10**9, math.inf, True, "3")

# What the package itself makes and a caller only reads.
RESULTS = {
    "ActivationCache", "ArtefactTokens", "AttentionRecord", "AttentionSinks", "AttributionMap", "BulkResults",
    "ClassContrast", "ClassificationReport", "FrameIndex", "GradientRecord", "HeadStatistics", "LogitLens", "ModelCost",
    "PatchingResult", "PlantedClip", "PruningCurves", "Sampling", "SpaceTimeSeparation", "SteeringVector", "VideoInfo",
}  # fmt: skip


def pure(annotation, kinds=("int", "float")):
    """ "scalar" or "tuple" where an annotation wants a number or a row of numbers, else None."""
    parts = [part.strip() for part in re.split(r"\|(?![^\[]*\])", str(annotation).strip("'"))]
    if any(part in kinds for part in parts):
        return "scalar"
    if any(re.fullmatch(r"(tuple|Sequence)\[(int|float)(, *(int|float|\.\.\.))*\]", part) for part in parts):
        return "tuple"
    return None


def numeric(function):
    signature = inspect.signature(function)
    found = {name: pure(argument.annotation) for name, argument in signature.parameters.items() if name != "device"}
    return {name: kind for name, kind in found.items() if kind}


def public_callables():
    """Name → its numeric arguments, "scalar" or "tuple"."""
    found = {}
    for name, value in sorted(PUBLIC.items()):
        if inspect.isclass(value) and not issubclass(value, BaseException):
            if name not in RESULTS:
                found[name] = numeric(value)
            for method, function in vars(value).items():
                plain = getattr(function, "__func__", function)
                if not method.startswith("_") and inspect.isfunction(plain):
                    found[f"{name}.{method}"] = numeric(plain)
        elif inspect.isfunction(value):
            found[name] = numeric(value)
    del found["LocalExecutor.run"]  # its numbers are the engine's
    return {name: arguments for name, arguments in found.items() if arguments}


@pytest.fixture(scope="module")
def world(checkpoint, video, tmp_path_factory):
    torch.manual_seed(0)
    model, processor = lab.load_pair(checkpoint)
    pixels = torch.randn(2, 4, 3, 32, 32)
    clip = processor.prepare(lab.read_clip(video, 4))
    grid = model.config.grid
    folder = tmp_path_factory.mktemp("odd")
    gradients = lab.records.record_gradients(model, pixels, 0)
    scores = lab.heads.MichelImportance()(model, (pixels, torch.tensor([0, 1])), progress=False)
    six = pixels.repeat(3, 1, 1, 1, 1), torch.arange(6) % 3
    signed = lab.heads.SingleHeadAblation(mode="zero")(model, six, progress=False)
    planted = lab.planted.PlantedConfig(frames=8, size=32)
    heat = lab.AttentionRollout()(model, clip)
    clips = write_clips(folder / "clips", 4)
    return SimpleNamespace(
        model=model, processor=processor, pixels=pixels, clip=clip, grid=grid, folder=folder, video=video,
        scores=scores,
        record=gradients, signed=signed, states=lab.records.record_gradients(model, pixels, 0, states=True), heat=heat,
        pair=(pixels, torch.tensor([0, 1])), planted=planted, clips=clips,
        planted_clip=lab.planted.planted_clip(planted, 1),
        effects=lab.interventions.AblationEffects(mode="zero", progress=False)(model, pixels),
        lens=lab.logit_lens(model, pixels), cache=model.run_with_cache(pixels)[1], index=lab.video.load_index(video),
        run=tiny_run(checkpoint, clips, folder / "run", methods=("rollout",), hidden_states="cls"),
        sinks=lab.attribution.attention_sinks(gradients, minimum_lift=1.01), checkpoint=checkpoint,
        frames=np.zeros((4, 40, 48, 3), np.uint8),
        image=image_weights(),
        workload=Workload(lab.VivitConfig(**TINY)),
        labelled=[lab.training.LabelledClip(path, f"LABEL_{number % 2}") for number, path in enumerate(clips)],
    )  # fmt: skip


def method(name, **sane):
    return lambda w, /, **odd: PUBLIC[name](**{**sane, **odd})(w.model, w.pixels)


def importance(name, **sane):
    return lambda w, /, **odd: PUBLIC[name](**{**sane, **odd})(w.model, w.pair, progress=False)


def made(name, *args, **sane):
    return lambda w, /, **odd: PUBLIC[name](*args, **{**sane, **odd})


def on(attribute, name, **sane):
    def call(w, /, **odd):
        return getattr(getattr(w, attribute), name)(**{k: v(w) if callable(v) else v for k, v in sane.items()} | odd)

    return call


def of(name, *first, **sane):
    def call(w, /, **odd):
        arguments = {k: v(w) if callable(v) else v for k, v in sane.items()} | odd
        return PUBLIC[name](*(getattr(w, each) for each in first), **arguments)

    return call


def corrupted(name, **sane):
    return lambda w, /, **odd: PUBLIC[name](**{**sane, **odd})(w.pixels)


def measured(name, **sane):
    def call(w, /, **odd):
        from vivit_lab.faithfulness.masking import CleanClips

        heat = lab.AttentionRollout()(w.model, w.pixels)
        call_options = {key: odd.pop(key) for key in ("batch_size",) if key in odd}
        return PUBLIC[name](**{**sane, **odd}).measure(
            CleanClips.of(w.model, w.pixels, 0), heat, progress=False, **call_options
        )

    return call


def rendered(w, path="x"):
    return w.folder / f"{path}.mp4"


def entered(call):
    def run(w, /, **odd):
        with call(w, **odd) as model:
            return model(w.pixels).logits

    return run


SIZES = {"layers": 3, "heads": 4}
CASES = {
    "AblationEffects": method("AblationEffects", mode="zero", progress=False),
    "ActivationPatching": lambda w, /, **odd: lab.interventions.ActivationPatching(**{"progress": False, **odd})(
        w.model, w.pixels, w.pixels.flip(1)
    ),
    "AttributionPatching": lambda w, /, **odd: lab.interventions.AttributionPatching(**{"progress": False, **odd})(
        w.model, w.pixels, w.pixels.flip(1)
    ),
    "PathPatching": lambda w, /, **odd: lab.interventions.PathPatching(
        **{"senders": [(0, 1)], "progress": False, **odd}
    )(w.model, w.pixels, w.pixels.flip(1)),
    "AttCAT": method("AttCAT"),
    "AttentionGradient": method("AttentionGradient"),
    "AttentionRollout": method("AttentionRollout"),
    "CheferRelevance": method("CheferRelevance"),
    "GradientRollout": method("GradientRollout"),
    "IntegratedGradients": method("IntegratedGradients", steps=2),
    "LeGrad": method("LeGrad"),
    "Occlusion": method("Occlusion"),
    "RandomMap": method("RandomMap"),
    "CentreGaussian": method("CentreGaussian"),
    "RawAttention": method("RawAttention"),
    "Rise": method("Rise", masks=4, cells=(2, 2, 2)),
    "SmoothGrad": method("SmoothGrad", samples=2),
    "TransitionAttentionMaps": method("TransitionAttentionMaps", steps=2),
    "ValueNormRollout": method("ValueNormRollout"),
    "ConfidenceImportance": importance("ConfidenceImportance"),
    "FisherImportance": importance("FisherImportance"),
    "GradientActivation": importance("GradientActivation"),
    "MichelImportance": importance("MichelImportance"),
    "SingleHeadAblation": importance("SingleHeadAblation", mode="zero"),
    "L0Gates": importance("L0Gates", steps=2, runs=1),
    "PruningExperiment": lambda w, /, **odd: lab.heads.PruningExperiment(
        w.model,
        (torch.randn(4, 4, 3, 32, 32), torch.tensor([0, 1, 2, 3])),
        **{"random": 1, "shares": (0.5,), "timing_repeats": 1, **odd},
    ).run(progress=False),
    "BlurTube": lambda w, /, **odd: lab.interventions.BlurTube([1], w.grid, **odd)(w.pixels),
    "FreezeFrame": corrupted("FreezeFrame"),
    "FreezeFrame.order": lambda w, /, **odd: lab.interventions.FreezeFrame(0).order(**odd or {"count": 4}),
    "ReverseFrames.order": lambda w, /, **odd: lab.interventions.ReverseFrames().order(**odd or {"count": 4}),
    "ShuffleFrames": corrupted("ShuffleFrames"),
    "ShuffleFrames.order": lambda w, /, **odd: lab.interventions.ShuffleFrames().order(**odd or {"count": 4}),
    "ClassLogit": lambda w, /, **odd: lab.CheferRelevance()(w.model, w.pixels, lab.records.ClassLogit(**odd)),
    "Probability": lambda w, /, **odd: lab.CheferRelevance()(w.model, w.pixels, lab.records.Probability(**odd)),
    "LogitDifference": lambda w, /, **odd: lab.CheferRelevance()(
        w.model, w.pixels, lab.records.LogitDifference(**{"a": 0, "b": 2, **odd})
    ),
    "Infidelity": measured("Infidelity", sizes=(0.25,), subsets=2),
    "SensitivityN": measured("SensitivityN", sizes=(0.25,), subsets=2),
    "SaCo": measured("SaCo", groups=2),
    "SaCo.measure": measured("SaCo", groups=2),
    "Perturbation": measured("Perturbation", steps=2),
    "Perturbation.measure": measured("Perturbation", steps=2),
    "EvaluationPlan": made("EvaluationPlan"),
    "Augmentation": made("Augmentation"),
    "Augmentation.none": lambda w, /, **odd: lab.training.Augmentation.none(**odd),
    "Augmentation.frame_indices": lambda w, /, **odd: lab.training.Augmentation().frame_indices(
        **{"start": 0, "stop": 20, "count": 4, "generator": np.random.default_rng(0), **odd}
    ),
    "Augmentation.vary": lambda w, /, **odd: lab.training.Augmentation().vary(
        **{"frames": w.frames, "generator": np.random.default_rng(0), "processor": w.processor, "flip": 0.5, **odd}
    ),
    "BulkJob": made("BulkJob"),
    "LocalExecutor": made("LocalExecutor"),
    "BulkResults.clip": on("run", "clip", clip=0),
    "BulkResults.compare": on("run", "compare", other=lambda w: w.run),
    "BulkResults.equals": on("run", "equals", other=lambda w: w.run),
    "BulkResults.extremes": on("run", "extremes"),
    "BulkResults.failures": on("run", "failures"),
    "BulkResults.hidden_states": on("run", "hidden_states", clip=0),
    "BulkResults.map": on("run", "map", clip=0),
    "BulkResults.nearest": on("run", "nearest", clip=0),
    "BulkResults.row": on("run", "row", clip=0),
    "Clip": lambda w, /, **odd: lab.Clip(
        **{"frames": w.frames, "seconds": np.arange(4) / 10, "indices": np.arange(4), "fps": 10.0, "end": 0.4, **odd}
    ),
    "Clip.from_frames": lambda w, /, **odd: lab.Clip.from_frames(w.frames, **odd),
    "ActivationCache.clip": on("cache", "clip", index=0),
    "ActivationCache.pattern_rows": on("cache", "pattern_rows", layer=0, queries=lambda w: [0]),
    "AttentionSinks.sinks": on("sinks", "sinks"),
    "EffectTable": lambda w, /, **odd: (
        lab.interventions.EffectTable(torch.randn(3, 2), ("head",), {"head": ["0", "1"]}, **odd).p
    ),
    "EffectTable.plot": on("effects", "plot"),
    "EffectTable.select": lambda w, /, **odd: w.effects.select(
        **{"head": 0} if "places" not in odd else {"head": odd["places"]}
    ),
    "EffectTable.top": on("effects", "top"),
    "FaithfulnessReport": lambda w, /, **odd: lab.faithfulness.FaithfulnessReport(
        {"a": {"saco": [0.1, 0.2, 0.3]}, "b": {"saco": [0.2, 0.1, 0.0]}}, ["x", "y", "z"], **odd
    ),
    "FrameIndex.end_of": on("index", "end_of", frame=0),
    "FrameIndex.frame_at": on("index", "frame_at", seconds=0.0),
    "FrameIndex.span": on("index", "span", start=0.0, end=0.5),
    "FrameIndex.keyframe_before": on("index", "keyframe_before", frame=0),
    "Geometry": made("Geometry", source_size=(40, 48), model_size=(32, 32)),
    "Geometry.crop": lambda w, /, **odd: lab.video.Geometry((40, 48), (40, 48)).crop(
        **{"top": 0, "left": 0, "height": 32, "width": 32, **odd}
    ),
    "Geometry.identity": lambda w, /, **odd: lab.video.Geometry.identity(**{"height": 32, "width": 32, **odd}),
    "Geometry.of_resized_source": lambda w, /, **odd: lab.video.Geometry((40, 48), (32, 32)).of_resized_source(
        **{"height": 32, "width": 32, **odd}
    ),
    "Geometry.pad": lambda w, /, **odd: lab.video.Geometry((40, 48), (32, 32)).pad(**{"top": 1, "left": 1, **odd}),
    "Geometry.resize": lambda w, /, **odd: lab.video.Geometry((40, 48), (40, 48)).resize(
        **{"height": 32, "width": 32, **odd}
    ),
    "HeadImportance.interval": on("scores", "interval", resamples=20),
    "HeadImportance.p_values": on("signed", "p_values", resamples=20),
    "HeadImportance.rank_stability": on("scores", "rank_stability", repeats=3),
    "HeadImportance.which_matter": on("signed", "which_matter"),
    "HeadMask.from_scores": lambda w, /, **odd: lab.HeadMask.from_scores(torch.rand(3, 4), **(odd or {"keep": 3})),
    "HeadMask.ones": lambda w, /, **odd: lab.HeadMask.ones(**{**SIZES, **odd}),
    "HeadMask.without": lambda w, /, **odd: lab.HeadMask.without([(0, 1)], **{**SIZES, **odd}),
    "HeadSweepResults.worst": lambda w, /, **odd: sweep_of(w).worst(**odd),
    "LabelledClip": lambda w, /, **odd: lab.training.LabelledClip(w.video, "a", **odd),
    "LogitLens.of": on("lens", "of", label=0),
    "LogitLens.strip": on("lens", "strip", label=0),
    "LogitLens.tubelets": on("lens", "tubelets", label=0),
    "LogitLensStrip": of("LogitLensStrip", "lens"),
    "MaskList.load": lambda w, /, **odd: lab.bulk.MaskList.load(mask_file(w), **{**SIZES, **odd}),
    "MaskList.random": lambda w, /, **odd: lab.bulk.MaskList.random(**{**SIZES, "removed": 2, "count": 3, **odd}),
    "MaskList.schedule": lambda w, /, **odd: lab.bulk.MaskList.schedule([(0, 1), (1, 2)], **{**SIZES, **odd}),
    "MaskList.single": lambda w, /, **odd: lab.bulk.MaskList.single(**{**SIZES, **odd}),
    "MovieWriter": lambda w, /, **odd: movie(w, {}, **odd),
    "MovieWriter.write": lambda w, /, **odd: movie(w, odd),
    "PlantedClip.clip": on("planted_clip", "clip"),
    "PlantedClip.twin": on("planted_clip", "twin", label=0, frame=3),
    "PlantedConfig": lambda w, /, **odd: (
        lab.planted.planted_clip(lab.planted.PlantedConfig(**{"frames": 8, "size": 32, **odd}), 0).frames
    ),
    "PlantedDataset": lambda w, /, **odd: lab.planted.PlantedDataset(w.planted, **{"length": 2, **odd})[0],
    "PlantedDataset.clip": lambda w, /, **odd: lab.planted.PlantedDataset(w.planted, 2).clip(**odd or {"item": 0}),
    "PruningCurves.at": lambda w, /, **odd: study(w).at(**{"series": "random", "share": 0.5, **odd}),
    "PruningCurves.curve": lambda w, /, **odd: study(w).curve(**{"series": "random", "name": "top1", **odd}),
    "PruningCurves.mask": lambda w, /, **odd: study(w).mask(**{"series": "random", "share": 0.5, **odd}),
    "AttentionRecord.columns": on("record", "columns", layer=0, keys=0),
    "AttentionRecord.entropy": on("record", "entropy", layer=0),
    "AttentionRecord.head_index": on("record", "head_index", head=0),
    "AttentionRecord.layer_index": on("record", "layer_index", layer=0),
    "AttentionRecord.log_sum_exp": on("record", "log_sum_exp", layer=0),
    "AttentionRecord.pattern": on("record", "pattern", layer=0, head=0),
    "AttentionRecord.pattern_blocks": lambda w, /, **odd: list(
        w.record.pattern_blocks(**{"layer": 0, "clip": 0, **odd})
    ),
    "AttentionRecord.propagate": on("record", "propagate", layer=0, weights=lambda w: torch.ones(2, w.grid.num_tokens)),
    "AttentionRecord.rows": on("record", "rows", layer=0, queries=0),
    "AttentionRecord.token_indices": on("record", "token_indices", tokens=0),
    "GradientRecord.gradient_blocks": lambda w, /, **odd: list(
        w.record.gradient_blocks(**{"layer": 0, "clip": 0, **odd})
    ),
    "GradientRecord.gradient_row_blocks": lambda w, /, **odd: list(
        w.record.gradient_row_blocks(**{"layer": 0, "clip": 0, **odd})
    ),
    "GradientRecord.gradient_rows": on("record", "gradient_rows", layer=0, queries=0),
    "ClassificationReport.top": lambda w, /, **odd: lab.training.classify_clips(
        w.model, w.processor, w.labelled[:1], views=1, progress=False
    ).top(**odd),
    "Taxonomy": made("Taxonomy"),
    "TokenGrid": made("TokenGrid", t=2, h=2, w=2),
    "TokenGrid.check": on("grid", "check", num_tokens=9),
    "TokenGrid.frame_span": on("grid", "frame_span", t=0),
    "TokenGrid.from_video": made("TokenGrid"),
    "TokenGrid.pixel_box": on("grid", "pixel_box", y=0, x=0),
    "TokenGrid.position": on("grid", "position", token=1),
    "TokenGrid.resized": on("grid", "resized", frames=4, height=32, width=32),
    "TokenGrid.token": on("grid", "token", t=0, y=0, x=0),
    "TokenGrid.token_at": on("grid", "token_at", frame=0, row=0.0, column=0.0),
    "TokenGrid.unflatten": on("grid", "unflatten", tokens=lambda w: torch.ones(2, 8)),
    "TrainingConfig": made("TrainingConfig"),
    "VivitConfig": made("VivitConfig"),
    "VivitImageProcessor": lambda w, /, **odd: (
        lab.VivitImageProcessor(**odd).prepare(lab.Clip.from_frames(w.frames)).pixel_values
    ),
    "ablate": entered(
        lambda w, /, **odd: lab.ablate(
            w.model,
            **{
                "points": ["hook_embed"] if False else (),
                "heads": [(0, 1)],
                "mode": "mean",
                "reference": w.pixels,
                **odd,
            },
        )
    ),
    "artefact_tokens": of("artefact_tokens", "states"),
    "attention_sinks": of("attention_sinks", "record", minimum_lift=1.01),
    "bench_attention": of("bench_attention", "workload", backends=lambda w: ["eager"], repeats=1, progress=False),
    "bench_decode": of("bench_decode", "video", num_frames=2, repeats=1, progress=False),
    "bench_inference": of("bench_inference", "workload", batch_sizes=lambda w: (1,), batches=1, progress=False),
    "bench_rollout": of("bench_rollout", "workload", repeats=1, progress=False),
    "bench_training": of("bench_training", "workload", steps=1, progress=False),
    "check_sanity": lambda w, /, **odd: lab.faithfulness.check_sanity(
        lab.AttentionRollout(), w.model, w.pixels, progress=False, **odd
    ),
    "classify_clips": lambda w, /, **odd: lab.training.classify_clips(
        w.model, w.processor, w.labelled[:1], progress=False, **{"views": 1, **odd}
    ),
    "contact_sheet": lambda w, /, **odd: lab.contact_sheet(w.clip, w.heat, **odd),
    "direct_logit_attribution": of("direct_logit_attribution", "model", "pixels"),
    "estimate_motion": of("estimate_motion", "pixels", "grid", radius=2),
    "evaluate": lambda w, /, **odd: lab.evaluate(w.model, w.pair, ["rollout"], progress=False, **odd),
    "explain_video": lambda w, /, **odd: lab.explain_video(
        w.video, w.model, w.processor, lab.AttentionRollout(), out=w.folder, **odd
    ),
    "finetune": lambda w, /, **odd: lab.training.finetune(
        w.model, w.processor, w.labelled, fresh(w), steps=1, progress=False, cpu=True, **odd
    ),
    "forward_kept_tokens": lambda w, /, **odd: (
        lab.faithfulness.forward_kept_tokens(w.model, w.pixels, torch.ones(2, 8, dtype=torch.bool), **odd).logits
    ),
    "head_means": lambda w, /, **odd: lab.heads.head_means(w.model, w.pixels, progress=False, **odd),
    "head_roles": lambda w, /, **odd: lab.heads.head_roles(w.effects, w.effects, **odd),
    "head_statistics": lambda w, /, **odd: lab.head_statistics(w.model, w.pixels, progress=False, **odd),
    "knock_out": entered(lambda w, /, **odd: lab.knock_out(w.model, queries=[1], keys=[2], **odd)),
    "load_index": of("load_index", "video"),
    "localise": lambda w, /, **odd: lab.faithfulness.localise(w.heat, torch.arange(8).reshape(1, 2, 2, 2) < 3, **odd),
    "logit_lens": of("logit_lens", "model", "pixels"),
    "model_cost": lambda w, /, **odd: lab.families.model_cost(w.model.config, **odd),
    "note_sampling": lambda w, /, **odd: lab.processing.note_sampling(
        **{"processor": w.processor, "frames": 4, "stride": 1, **odd}
    ),
    "sampling_of": lambda w, /, **odd: lab.processing.sampling_of(**{"processor": w.processor, "num_frames": 4, **odd}),
    "open_data": lambda w, /, **odd: lab.evaluation.open_data(
        "planted", lab.load_pair("planted")[0].config, lab.load_pair("planted")[1], **{"count": 2, **odd}
    ),
    "patch": entered(lambda w, /, **odd: lab.patch(w.model, w.pixels, heads=[(0, 1)], **odd)),
    "planted_clip": lambda w, /, **odd: lab.planted.planted_clip(w.planted, **{"index": 0, **odd}).frames,
    "planted_motion": lambda w, /, **odd: lab.heads.planted_motion([w.planted_clip], lab.TokenGrid(4, 2, 2), **odd),
    "planted_report": lambda w, /, **odd: lab.planted.planted_report(
        lambda x: torch.zeros(len(x), 8), w.planted, **{"count": 8, "progress": False, **odd}
    ),
    "probe": of("probe", "video"),
    "read_clip": of("read_clip", "video", num_frames=2),
    "read_frames": of("read_frames", "video", indices=lambda w: [0]),
    "read_video_pyav": lambda w, /, **odd: pyav(w, **odd),
    "read_views": of("read_views", "video", num_frames=2, views=1),
    "record_attention": of("record_attention", "model", "pixels"),
    "record_gradients": of("record_gradients", "model", "pixels", target=0),
    "render_clips": lambda w, /, **odd: lab.bulk.render_clips(
        w.run, w.folder / "rendered", **{"count": 1, "workers": 1, "progress": False, **odd}
    ),
    "render_movie": lambda w, /, **odd: lab.render_movie(w.clip, w.heat, rendered(w), **odd),
    "run_bulk": lambda w, /, **odd: lab.run_bulk(None, None, w.folder / "run", progress=False, **odd),
    "sample_frame_indices": lambda w, /, **odd: lab.video.sample_frame_indices(
        **{"clip_len": 4, "frame_sample_rate": 1, "seg_len": 20, **odd}
    ),
    "uniform_frame_indices": lambda w, /, **odd: lab.video.uniform_frame_indices(
        **{"clip_len": 4, "seg_len": 20, **odd}
    ),
    "steer": entered(
        lambda w, /, **odd: lab.interventions.steer(w.model, torch.ones(48), point="blocks.0.hook_resid_post", **odd)
    ),
    "steering_vector": lambda w, /, **odd: lab.interventions.steering_vector(
        w.model, w.pixels, w.pixels.flip(1), "blocks.0.hook_resid_post", **odd
    ),
    "sweep_heads": lambda w, /, **odd: sweep_of(w, **odd),
    "to_frames": lambda w, /, **odd: lab.render.to_frames(w.clip, w.heat, **odd),
    "vivit_from_image_model": lambda w, /, **odd: lab.families.vivit_from_image_model(
        w.image, **{"image_size": 24, "num_frames": 4, "num_attention_heads": 4, **odd}
    ),
    "wilson_interval": made("wilson_interval", successes=1, count=3),
    "write_planted": lambda w, /, **odd: lab.planted.write_planted(
        fresh(w), w.planted, **{"count": 1, "progress": False, **odd}
    ),
    "Workbench.wait": lambda w, /, **odd: lab.Workbench().wait(**odd),
    "VivitModel.forward": lambda w, /, **odd: (
        lab.VivitModel(lab.VivitConfig(**TINY)).forward(w.pixels, **odd).last_hidden_state
    ),
    "VivitForVideoClassification.forward": lambda w, /, **odd: w.model(w.pixels, **odd).logits,
}
CASES["TokenGrid.from_video"] = lambda w, /, **odd: lab.TokenGrid.from_video(
    **{"frames": 4, "height": 32, "width": 32, **odd}
)


def image_weights():
    """Weights of a tiny image ViT, under the names that vivit_from_image_model reads."""
    linear = {"attention.q_proj": (32, 32), "attention.k_proj": (32, 32), "attention.v_proj": (32, 32)}
    linear |= {"attention.o_proj": (32, 32), "mlp.fc1": (48, 32), "mlp.fc2": (32, 48)}
    norms = ("layernorm_before", "layernorm_after")
    shapes = {
        "embeddings.cls_token": (1, 1, 32),
        "embeddings.position_embeddings": (1, 10, 32),
        "embeddings.patch_embeddings.projection.weight": (32, 3, 8, 8),
        "embeddings.patch_embeddings.projection.bias": (32,),
        "layernorm.weight": (32,),
        "layernorm.bias": (32,),
    }
    for layer in range(2):
        for name, shape in {**linear, **dict.fromkeys(norms, (32,))}.items():
            shapes |= {f"layers.{layer}.{name}.weight": shape, f"layers.{layer}.{name}.bias": shape[:1]}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def fresh(w):
    """A directory that is not there yet."""
    w.count = getattr(w, "count", 0) + 1
    return w.folder / f"new-{w.count}"


def movie(w, written, /, **odd):
    with lab.video.MovieWriter(rendered(w), **{"height": 16, "width": 16, "end": 1.0, **odd}) as writer:
        writer.write(np.zeros((16, 16, 3), np.uint8), **{"seconds": 0.0, **written})


def mask_file(w):
    path = w.folder / "masks.json"
    path.write_text("[[0, 1]]")
    return path


def pyav(w, /, **odd):
    import av

    with av.open(str(w.video)) as container:
        return lab.video.read_video_pyav(container, **{"indices": [0], **odd})


def sweep_of(w, /, **odd):
    return lab.bulk.sweep_heads(
        w.folder / "run", lab.bulk.MaskList.single(3, 4), name=fresh(w).name, progress=False, **odd
    )


def study(w):
    if not hasattr(w, "study"):
        w.study = CASES["PruningExperiment"](w)
    return w.study


def numbers_in(value, depth=4):
    """Yield whether each number of a result is finite."""
    if isinstance(value, torch.Tensor):
        yield value.numel() > 0 and bool(value.detach().double().isfinite().all())
    elif isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
        yield value.size > 0 and bool(np.isfinite(value).all())
    elif isinstance(value, float):
        yield math.isfinite(value)
    elif depth and isinstance(value, dict):
        for each in value.values():
            yield from numbers_in(each, depth - 1)
    elif depth and isinstance(value, (list, tuple)):
        for each in value:
            yield from numbers_in(each, depth - 1)
    elif depth and dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from numbers_in(getattr(value, field.name), depth - 1)


class TooSlow(BaseException):
    """The call took longer than a refusal may."""


def too_slow(*_):
    raise TooSlow


def run(case, world, odd, limit=20):
    signal.signal(signal.SIGALRM, too_slow)
    signal.alarm(limit)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return CASES[case](world, **odd)
    finally:
        signal.alarm(0)


def defaults(case):
    owner, _, attribute = case.partition(".")
    value = PUBLIC[owner]
    signature = inspect.signature(getattr(value, attribute) if attribute else value)
    return {name: argument.default for name, argument in signature.parameters.items()}


# What asks several seconds of work: only that it refuses.
LONG = {"evaluate", "bench_attention", "bench_decode", "bench_inference", "bench_rollout", "bench_training"}

# Sane results of what looks odd, each for a reason.
FINE = {
    ("EffectTable.select", "places", "3"): "the label of a place",
    ("VivitModel.forward", "output_attentions", True): "True is one of its values",
    ("VivitForVideoClassification.forward", "output_attentions", True): "True is one of its values",
}

# Words by which a message names an argument other than by its name.
WORDS = ("begins", "target", "token", "class", "frame", "pixel", "wanted", "pieces")


def test_every_public_callable_with_a_number_is_covered():
    assert set(public_callables()) == set(CASES)
    assert set(PUBLIC) >= RESULTS


def names_of(argument):
    return {argument, argument.removesuffix("s"), argument.replace("_", " ")}


@pytest.mark.parametrize("case", CASES)
def test_odd_numbers_are_refused_by_name_or_give_a_sane_result(case, world):
    base = () if case in LONG else [*numbers_in(run(case, world, {}))]
    faults = []
    for argument, kind in public_callables()[case].items():
        for value in ODD:
            given = value
            if kind == "tuple":
                usual = defaults(case).get(argument)
                given = (value, *usual[1:]) if isinstance(usual, tuple) else [value]
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            call = f"{case}({argument}={given!r})"
            try:
                result = run(case, world, {argument: given})
            except lab.errors.VivitLabError as error:
                if not any(word in str(error) for word in (*names_of(argument), *WORDS)):
                    faults.append(f"{call} does not name the argument: {error}")
            except IndexError as error:
                if case != "PlantedDataset.clip":  # a data set ends as sequences do
                    faults.append(f"{call} raised {error!r}")
            except (TooSlow, Exception) as error:
                faults.append(f"{call} raised {error!r}")
            else:
                # no number at all, or no integer: nothing sane comes of it
                wrong = value is True or isinstance(value, str) or not math.isfinite(value)
                if wrong and (case, argument, value) not in FINE:
                    faults.append(f"{call} was taken")
                elif case in LONG or (all(base) and not all(numbers_in(result))):
                    faults.append(f"{call} gave no finite result")
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # kilobytes
            if grown > 1_000_000:
                faults.append(f"{call} took {grown // 1000} MB")
    assert not faults, "\n".join(faults)
