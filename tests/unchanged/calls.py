"""Every number that is kept: the calls that make it, on small models. When public names move, only this file changes.

A group is a function from a `Bench` to numbers by name. Refusals are kept too: what a method says no to stays refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

import vivit_lab
from tests.unchanged.numbers import HALF
from vivit_lab.attribution import (
    AttributionMap,
    artefact_tokens,
    attention_sinks,
    class_contrast,
    space_time_separation,
)
from vivit_lab.attribution.registry import METHODS, make_method
from vivit_lab.bulk import BulkJob, BulkResults, HeadSweepResults, LocalExecutor, MaskList, run_bulk, sweep_heads
from vivit_lab.bulk.job import ClipStage
from vivit_lab.cli import main
from vivit_lab.errors import VivitLabError
from vivit_lab.evaluation import open_data
from vivit_lab.explain import load_pair
from vivit_lab.faithfulness import (
    CentreGaussian,
    EvaluationPlan,
    FaithfulnessReport,
    FrameDifference,
    Infidelity,
    Perturbation,
    RandomMap,
    SaCo,
    SensitivityN,
    check_sanity,
    evaluate,
    forward_kept_tokens,
    localise,
)
from vivit_lab.families import VivitForVideoClassification, VivitModel, load_model, model_cost, predict_views
from vivit_lab.heads import (
    HeadImportance,
    HeadMask,
    HeadStatistics,
    PruningCurves,
    PruningExperiment,
    Taxonomy,
    estimate_motion,
    head_means,
    head_roles,
    head_statistics,
    prune_heads,
)
from vivit_lab.heads.registry import IMPORTANCES
from vivit_lab.interventions import (
    AblationEffects,
    ActivationPatching,
    AttributionPatching,
    BlurTube,
    CausalTemporalScore,
    EffectTable,
    FreezeFrame,
    PatchingResult,
    PathPatching,
    Region,
    ReverseFrames,
    ShuffleFrames,
    SwapRegion,
    ablate,
    knock_out,
    patch,
    steer,
    steering_vector,
)
from vivit_lab.interventions.knockout import PAIRS
from vivit_lab.model import VivitConfig
from vivit_lab.planted import PlantedConfig, PlantedDataset, planted_clip, read_planted, write_planted
from vivit_lab.processing import VivitImageProcessor
from vivit_lab.records import (
    CosineSimilarity,
    LogitDifference,
    OwnEmbedding,
    Probability,
    direct_logit_attribution,
    logit_lens,
    record_attention,
    record_gradients,
)
from vivit_lab.render import heat_on_source
from vivit_lab.statistics import wilson_interval
from vivit_lab.training import TrainingConfig, train
from vivit_lab.training.loop import read_log
from vivit_lab.video import MovieWriter, read_clip, sample_frame_indices, uniform_frame_indices
from vivit_lab.widgets import ClipExplorer

#: Numbers by name; a text is a refusal.
Numbers = Mapping[str, Any]

SIZES: dict[str, Any] = {
    "image_size": 32,
    "num_frames": 8,
    "tubelet_size": [4, 8, 8],
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 16,
    "initializer_range": 0.4,
    "num_labels": 4,
    "id2label": {0: "up", 1: "down", 2: "left", 3: "right"},
}
LAYERS, HEADS = 2, 4
#: Name → what makes the model that variant.
VARIANTS: dict[str, dict[str, Any]] = {
    "joint": {},
    "joint_gap": {"classifier": "gap"},
    "encoder": {"variant": "factorized_encoder", "num_temporal_layers": 1},
    "encoder_baseline": {"variant": "factorized_encoder", "spatial_only_baseline": True},
    "self_attention": {"variant": "factorized_self_attention_block"},
    "self_attention_space_first": {
        "variant": "factorized_self_attention_block",
        "attention_order": "space_time",
    },
    "dot_product": {"variant": "factorized_dot_product_attention"},
}
#: The same without a classifier.
BACKBONES = {f"backbone_{name}": VARIANTS[name] for name in ("joint", "encoder", "self_attention")}
#: Methods that sample take few samples; methods that are not named here are called as they are.
FEW: dict[str, dict[str, str]] = {
    "integrated_gradients": {"steps": "4"},
    "smooth_grad": {"samples": "3"},
    "rise": {"masks": "12", "cells": "2,2,2"},
    "occlusion": {"window": "2,2,2"},
}
#: Further settings of some methods.
SETTINGS: dict[str, list[dict[str, str]]] = {
    "raw": [{"layer": "0", "head": "1"}, {"head_fusion": "max"}],
    "rollout": [
        {"start_layer": "1", "head_fusion": "min"},
        {"discard_ratio": "0.5"},
        {"discard_ratio": "0.5", "discard": "matrix"},
        {"residual": "0.2"},
    ],
    "chefer": [{"centred": "true"}, {"start_layer": "1"}],
    "integrated_gradients": [{"steps": "4", "rule": "riemann_trapezoid", "baseline": "mean"}],
    "occlusion": [{"window": "1,2,2", "stride": "1,1,2", "baseline": "mean"}],
}


def methods() -> list[str]:
    """Every method of the registry, by the name that the command line knows it by."""
    return list(METHODS)


class Bench:
    """Small models and clips to call the library with; all in float64 where it is not said otherwise."""

    def __init__(self, stored: Path) -> None:
        self.stored = stored

    def load(self, name: str) -> Any:
        with chdir(self.stored):  # what a model makes notes where it came from
            return load_model(f"models/{name}").double().eval()

    @cached_property
    def models(self) -> dict[str, Any]:
        return {name: self.load(name) for name in VARIANTS}

    @cached_property
    def backbones(self) -> dict[str, Any]:
        """Models without a classifier."""
        return {name: self.load(name) for name in BACKBONES}

    @cached_property
    def pixels(self) -> torch.Tensor:
        return noise(1)

    @cached_property
    def other(self) -> torch.Tensor:
        return noise(2)

    @cached_property
    def labels(self) -> torch.Tensor:
        return torch.tensor([1, 3])


def noise(seed: int, count: int = 2) -> torch.Tensor:
    values = np.random.default_rng(seed).standard_normal((count, 8, 3, 32, 32))
    return torch.from_numpy(values)


def head_mask(model: Any) -> torch.Tensor:
    """One head away and one at a half, in the first and the last layer."""
    mask = torch.ones(len(HeadMask.of_model(model.config).values), HEADS, dtype=torch.float64)
    mask[0, 1], mask[-1, 2] = 0, 0.5
    return mask


def attempt(call: Callable[[], Any]) -> Any:
    """What a call gives, or that it was refused."""
    try:
        return call()
    except (VivitLabError, TypeError):
        return "refused"


def spread(name: str, call: Callable[[], Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The parts of a result, or one refusal."""
    found = attempt(call)
    if isinstance(found, str):
        yield name, found
        return
    for part, value in found.items():
        yield f"{name}/{part}", value


def targets() -> dict[str, Any]:
    return {
        "class": 1,
        "difference": LogitDifference(0, 2),
        "probability": Probability(3),
        "function": lambda output: output.logits.square().sum(dim=-1),
    }


def embedding_targets() -> dict[str, Any]:
    """Targets of models without a classifier; the last is one neuron."""
    direction = torch.from_numpy(np.random.default_rng(5).standard_normal(8))
    return {
        "embedding": OwnEmbedding(),
        "cosine": CosineSimilarity(direction),
        "neuron": lambda output: output.last_hidden_state[:, 0, 3],
    }


def made(name: str, settings: dict[str, str] | None = None) -> Any:
    return make_method(name, settings if settings is not None else FEW.get(name))


def map_numbers(heat: Any) -> dict[str, Any]:
    shares = {} if heat.cls_share is None else {"cls_share": heat.cls_share}
    return {"relevance": heat.relevance, **shares}


def maps(bench: Bench, method: str) -> Iterator[tuple[str, Any]]:
    """Every map of a method."""
    plain = made(method)
    for variant, model in bench.models.items():

        def run(how: Any = plain, model: Any = model, **given: Any) -> dict[str, Any]:
            torch.manual_seed(0)
            return map_numbers(how(model, bench.pixels, **given))

        yield from spread(f"{variant}/plain", run)
        for name, target in targets().items():
            yield from spread(f"{variant}/target {name}", lambda run=run, target=target: run(target=target))
        yield from spread(f"{variant}/masked", lambda run=run, model=model: run(head_mask=head_mask(model)))
        yield from spread(f"{variant}/queries", lambda run=run: run(queries=[5, 9]))
        for settings in SETTINGS.get(method, []):
            how = made(method, settings)
            words = ",".join(f"{key}={value}" for key, value in settings.items())
            yield from spread(f"{variant}/{words}", lambda run=run, how=how: run(how))

    for variant, model in bench.backbones.items():
        for name, target in {"plain": None, **embedding_targets()}.items():

            def alone(model: Any = model, target: Any = target) -> dict[str, Any]:
                torch.manual_seed(0)
                return map_numbers(plain(model, bench.pixels, target=target))

            yield from spread(f"{variant}/{name}", alone)


def records(bench: Bench) -> Iterator[tuple[str, Any]]:
    for variant, model in bench.models.items():
        for masked, mask in (("", None), ("/masked", head_mask(model))):
            record = record_attention(model, bench.pixels, head_mask=mask)
            yield f"{variant}{masked}/logits", record.output.logits
            for layer in record.layers:
                for name, call in {
                    "queries": lambda record=record, layer=layer: record.queries[layer],
                    "keys": lambda record=record, layer=layer: record.keys[layer],
                    "rows": lambda record=record, layer=layer: record.rows(layer, [0, 3]),
                    "rows unmasked": lambda record=record, layer=layer: record.rows(layer, [0, 3], masked=False),
                    "columns": lambda record=record, layer=layer: record.columns(layer, [0, 3]),
                    "pattern": lambda record=record, layer=layer: record.pattern(layer, 1),
                    "entropy": lambda record=record, layer=layer: record.entropy(layer),
                    "log_sum_exp": lambda record=record, layer=layer: record.log_sum_exp(layer),
                }.items():
                    yield f"{variant}{masked}/{layer}/{name}", attempt(call)

                def carried(record: Any = record, layer: int = layer) -> Any:
                    states = record.layer_states(layer)
                    count = record.num_states if states is None else len(states)
                    return record.propagate(layer, torch.linspace(0, 1, count).expand(2, -1))

                yield f"{variant}{masked}/{layer}/propagate", attempt(carried)
        record = record_attention(model, bench.pixels)

        def sinks(record: Any = record) -> dict[str, Any]:
            found = attention_sinks(record, minimum_lift=1.5)
            return {"received": found.received, "lift": found.lift, "is_sink": found.is_sink}

        yield from spread(f"{variant}/sinks", sinks)
        for head in range(HEADS):
            yield from spread(
                f"{variant}/head map {head}",
                lambda record=record, head=head: map_numbers(made("raw", {"head": str(head)})(record)),
            )
        for name, target in {"plain": None, **targets()}.items():

            def slopes(model: Any = model, target: Any = target) -> dict[str, Any]:
                found = record_gradients(model, bench.pixels, target, states=True)
                parts: dict[str, Any] = {"scores": found.scores, "context": found.context_gradients[found.layers[-1]]}
                if target is None:
                    parts |= {f"rows {layer}": found.gradient_rows(layer, [0, 3]) for layer in found.layers}
                    parts |= {f"state {layer}": value for layer, value in found.state_gradients.items()}
                    parts |= {"artefacts": artefact_tokens(found, deviations=1.0).norms}
                return parts

            yield from spread(f"{variant}/gradients {name}", slopes)
        heat = made("rollout")(model, bench.pixels)
        parts = space_time_separation(heat)
        yield f"{variant}/separation/over_time", parts.over_time
        yield f"{variant}/separation/over_space", parts.over_space
        yield f"{variant}/separation/rank1_share", parts.rank1_share
        yield (
            f"{variant}/contrast",
            attempt(lambda model=model: class_contrast(made("chefer"), model, bench.pixels, 0, 2).contrast),
        )


def head_scores(bench: Bench) -> Iterator[tuple[str, Any]]:
    for variant, model in bench.models.items():
        data = (noise(3, 4), torch.tensor([0, 1, 2, 3]))
        for name, importance in IMPORTANCES.items():
            if name == "l0":
                importance = dataclasses.replace(importance, steps=4, runs=1)

            def score(importance: Any = importance, model: Any = model, data: Any = data) -> dict[str, Any]:
                torch.manual_seed(0)
                found = importance(model, data, progress=False)
                low, high = found.interval(resamples=200)
                p = {"p": found.p_values(resamples=200)} if found.signed else {}
                return {"per_example": found.per_example, "low": low, "high": high, **p}

            yield from spread(f"{variant}/importance {name}", score)

        def statistics(model: Any = model) -> dict[str, Any]:
            motion = estimate_motion(bench.pixels, model.config.grid)
            found = head_statistics(model, bench.pixels, queries=8, motion=motion, progress=False)
            kinds = sorted(Taxonomy()(found).counts.items())
            return {
                **{f"value {name}": value for name, value in found.values.items()},
                **{f"error {name}": value for name, value in found.errors.items()},
                **{f"lift {name}": found.lift(name) for name in found.uniform},
                "profile": found.profile,
                "kinds": [count for _, count in kinds],
            }

        yield from spread(f"{variant}/statistics", statistics)
        yield from spread(f"{variant}/means", lambda model=model: {"z": head_means(model, bench.pixels)})
        yield from spread(
            f"{variant}/pruned",
            lambda model=model: {"logits": prune_heads(model, {0: [1], 1: [2, 3]})(bench.pixels).logits},
        )

        def study(model: Any = model, data: Any = data) -> dict[str, Any]:
            curves = PruningExperiment(model, data, random=1, shares=(0.5,), timing_repeats=1, batch_size=4)
            found = curves.run(progress=False)
            kept = [
                [value for key, value in sorted(point.items()) if key in ("share", "accuracy", "loss", "kl", "removed")]
                for point in found.points
            ]
            numbers = [float(value) for point in kept for value in point if isinstance(value, (int, float))]
            return {"points": numbers, "importance": np.array(found.importance, dtype=float)}

        yield from spread(f"{variant}/experiment", study)
        cost = model_cost(model.config)
        yield (
            f"{variant}/cost",
            [
                float(value)
                for value in vars(cost).values()
                if isinstance(value, (int, float)) and not isinstance(value, bool)
            ],
        )


def interventions(bench: Bench) -> Iterator[tuple[str, Any]]:
    target, clean, corrupt = LogitDifference(1, 3), bench.pixels, bench.other
    for variant, model in bench.models.items():
        changes: dict[str, Callable[[], Any]] = {
            **{
                f"ablate {mode}": lambda mode=mode, model=model: ablate(
                    model, heads=[(0, 1), (1, 2)], mode=mode, reference=None if mode == "zero" else corrupt
                )
                for mode in ("zero", "mean", "resample")
            },
            "ablate mlp": lambda model=model: ablate(model, mlps=[1]),
            "ablate attention": lambda model=model: ablate(model, attentions=[0]),
            "ablate tokens": lambda model=model: ablate(model, tokens=Region(t=1), layer=1),
            "patch heads": lambda model=model: patch(model, corrupt, heads=[(0, 0), (1, 3)]),
            "patch tokens": lambda model=model: patch(model, corrupt, attentions=[1], tokens=Region(t=0)),
            "patch pattern": lambda model=model: patch(model, corrupt, heads=[(0, 0)], part="pattern"),
            **{f"knock out {pairs}": lambda pairs=pairs, model=model: knock_out(model, pairs) for pairs in PAIRS},
            "knock out region": lambda model=model: knock_out(model, queries=Region(t=1), keys=Region(t=0), layers=[1]),
            "steer": lambda model=model: steer(
                model, steering_vector(model, clean, corrupt, "blocks.1.hook_resid_post"), 2.0
            ),
        }
        for name, change in changes.items():
            yield f"{variant}/{name}", attempt(lambda change=change: change()(clean).logits)

        effects: dict[str, Callable[[], Any]] = {
            "effects z": lambda model=model: AblationEffects(progress=False)(model, clean, target),
            "effects mlp zero": lambda model=model: AblationEffects(at="mlp_out", mode="zero", progress=False)(
                model, clean, target
            ),
            "effects tokens": lambda model=model: AblationEffects(at="resid_pre", mode="zero", slabs=2, progress=False)(
                model, clean, target
            ),
            "temporal": lambda model=model: CausalTemporalScore(AblationEffects(progress=False))(model, clean, target),
            **{
                f"{name} {direction} {at}": lambda driver=driver, direction=direction, at=at, model=model: driver(
                    direction=direction, at=at, progress=False
                )(model, clean, corrupt, target)
                for name, driver in (("patching", ActivationPatching), ("first order", AttributionPatching))
                for direction in ("denoising", "noising")
                for at in ("z", "resid_pre", "mlp_out", "pattern")
            },
            "patching slabs": lambda model=model: ActivationPatching(at="resid_pre", slabs=2, progress=False)(
                model, clean, corrupt, target
            ),
            "path": lambda model=model: PathPatching([(0, 1), (0, 2)], progress=False)(model, clean, corrupt, target),
            "path to a head": lambda model=model: PathPatching([(0, 1)], [(1, 0, "q")], progress=False)(
                model, clean, corrupt, target
            ),
        }
        tables = {}
        for name, call in effects.items():

            def numbers(name: str = name, call: Any = call, tables: Any = tables) -> dict[str, Any]:
                table = tables[name] = call()
                parts = {"effect": table.effect}
                if name in ("effects z", "temporal", "patching denoising z"):
                    parts |= {"low": table.low, "high": table.high, "p": table.p, "q": table.q}
                if hasattr(table, "gap"):
                    parts |= {"gap": table.gap, "share": table.normalized}
                return parts

            yield from spread(f"{variant}/{name}", numbers)
        roles = attempt(lambda tables=tables: head_roles(tables["effects z"], tables["temporal"]).roles)
        yield f"{variant}/roles", [len(row) for row in roles] if not isinstance(roles, str) else roles
        for name, corruption in {
            "freeze": FreezeFrame(),
            "reverse": ReverseFrames(),
            "shuffle": ShuffleFrames(),
        }.items():
            yield f"{variant}/{name}", model(corruption(clean)).logits


def corruptions(bench: Bench) -> Iterator[tuple[str, Any]]:
    grid = bench.models["joint"].config.grid
    where = Region(t=1, y=slice(0, 2), x=1)
    yield "blur", attempt(lambda: BlurTube(where, grid)(bench.pixels))
    yield "swap", attempt(lambda: SwapRegion(where, grid, bench.other)(bench.pixels))


def logits(bench: Bench) -> Iterator[tuple[str, Any]]:
    for variant, model in bench.models.items():
        for masked, mask in (("", None), ("/masked", head_mask(model))):
            output = model(bench.pixels, head_mask=mask, output_attentions=True, output_hidden_states=True)
            yield f"{variant}{masked}/logits", output.logits
            for index, states in enumerate(output.hidden_states):
                yield f"{variant}{masked}/states {index}", states
            for index, pattern in enumerate(output.attentions):
                yield f"{variant}{masked}/attentions {index}", pattern

            def lens(model: Any = model, mask: Any = mask) -> dict[str, Any]:
                found = logit_lens(model, bench.pixels, incl_mid=True, head_mask=mask)
                return {"values": found.values} | ({} if found.pooled is None else {"pooled": found.pooled})

            yield from spread(f"{variant}{masked}/lens", lens)
            for by in ("layer", "head", "token"):

                def direct(model: Any = model, mask: Any = mask, by: str = by) -> dict[str, Any]:
                    found = direct_logit_attribution(model, bench.pixels, 1, by=by, against=2, head_mask=mask)
                    parts = {"values": found.values, "bias": found.bias, "total": found.total}
                    return parts | ({} if found.by_token is None else {"by_token": found.by_token})

                yield from spread(f"{variant}{masked}/direct {by}", direct)
        views = torch.stack([bench.pixels, bench.other], dim=1)
        yield f"{variant}/views", attempt(lambda model=model, views=views: predict_views(model, views[0]))
        short = attempt(lambda model=model: model(bench.pixels[:, :4], interpolate_pos_encoding=True).logits)
        yield f"{variant}/short", short


def faithfulness(bench: Bench) -> Iterator[tuple[str, Any]]:
    for variant, model in bench.models.items():
        heat = made("rollout")(model, bench.pixels)
        for region in ("space_time", "time", "space"):
            for baseline in ("blur", "mean", "drop"):

                def curves(model: Any = model, heat: Any = heat, region: str = region, baseline: str = baseline) -> Any:
                    found = Perturbation(region=region, baseline=baseline, steps=3)(model, bench.pixels, heat)
                    return {"morf": found.morf_score, "lerf": found.lerf_score, "srg": found.srg}

                yield from spread(f"{variant}/{region} {baseline}", curves)
        measures = {
            "saco": SaCo(groups=4),
            "sensitivity": SensitivityN(subsets=6),
            "infidelity": Infidelity(subsets=6),
        }
        for name, measure in measures.items():
            yield (
                f"{variant}/{name}",
                attempt(lambda measure=measure, model=model, heat=heat: measure(model, bench.pixels, heat)),
            )
        for method in ("rollout", "chefer", "input_x_gradient"):

            def sanity(model: Any = model, method: str = method) -> dict[str, Any]:
                torch.manual_seed(0)
                found = check_sanity(made(method), model, bench.pixels, progress=False)
                parts = {"spearman": found.spearman, "magnitude": found.magnitude, "ssim": found.ssim}
                return parts | ({} if found.swap_spearman is None else {"swap": found.swap_spearman})

            yield from spread(f"{variant}/sanity {method}", sanity)
        keep = torch.arange(32).reshape(2, 4, 4) % 2 == 0
        keep = keep.expand(2, -1, -1, -1)
        yield (
            f"{variant}/kept",
            attempt(lambda model=model, keep=keep: forward_kept_tokens(model, bench.pixels, keep).logits),
        )
    model = bench.models["joint"]
    for name, control in {"random": RandomMap(), "centre": CentreGaussian(), "difference": FrameDifference()}.items():
        yield f"control {name}", control(model, bench.pixels).relevance
    mask = torch.zeros(2, 2, 4, 4)
    mask[:, 1, 1, 1:] = 1
    found = localise(made("rollout")(model, bench.pixels), mask, mask.amax(dim=(2, 3)))
    for name in found.values:
        yield f"localise {name}", found.values[name]
        yield f"localise chance {name}", found.chance[name]
    yield "wilson", wilson_interval(7, 20)


def report(bench: Bench) -> Iterator[tuple[str, Any]]:
    """Rows of a small evaluation of every method."""
    for variant in VARIANTS:
        yield from spread(variant, lambda variant=variant: report_rows(small_report(bench, variant)))


def small_report(bench: Bench, variant: str, count: int = 2) -> Any:
    with chdir(bench.stored):
        model, processor = load_pair(f"models/{variant}")
    data = open_data("planted:level=1,seed=5", model.config, processor, count=count)
    plan = EvaluationPlan(
        curves=(Perturbation(steps=3),),
        saco=SaCo(groups=4),
        sensitivity=SensitivityN(subsets=4),
        infidelity=Infidelity(subsets=4),
        sanity_clips=1,
        only_correct=False,
        batch_size=2,
    ).for_model(model)
    chosen = ["rollout", "chefer", "input_x_gradient"]
    return evaluate(model.double(), _Double(data), [made(name) for name in chosen], plan=plan, progress=False)


@dataclasses.dataclass(frozen=True)
class _Double:
    """A data set in float64."""

    data: Any

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, indices: Sequence[int]) -> Any:
        batch = self.data.batch(indices)
        return dataclasses.replace(batch, pixel_values=batch.pixel_values.double())

    def describe(self) -> dict[str, Any]:
        return self.data.describe()


def report_rows(found: Any) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    for method, scores in found.scores.items():
        parts |= {f"{method}/{metric}": values for metric, values in scores.items()}
    for number, row in enumerate(found.table()):
        parts[f"row {number}"] = list(_numbers(dataclasses.asdict(row) if dataclasses.is_dataclass(row) else row))
    for method in found.methods:
        for metric in found.metrics:
            interval = attempt(lambda method=method, metric=metric: found.interval(method, metric))
            if not isinstance(interval, str):
                parts[f"{method}/{metric}/interval"] = [interval.mean, interval.low, interval.high]
    for method, result in found.sanity.items():
        parts[f"{method}/sanity"] = result.spearman
    for method, curves in found.curves.items():
        for name, curve in curves.items():
            values = dataclasses.asdict(curve) if dataclasses.is_dataclass(curve) else {"curve": curve}
            parts |= {f"{method}/curve {name}/{key}": value for key, value in values.items() if value is not None}
    return parts


def media(bench: Bench) -> Iterator[tuple[str, Any]]:
    """Clips, processor, planted clips, and the overlay."""
    processor = small_processor()
    for path in clip_paths(bench.stored):
        clip = read_clip(path, 8, 1, processor=processor)
        yield f"{path.stem}/pixels", clip.pixel_values
        yield f"{path.stem}/times", clip.seconds
    frames = np.random.default_rng(0).integers(0, 255, (8, 40, 51, 3), dtype=np.uint8)
    yield "processor", processor(list(frames), return_tensors="pt").pixel_values
    yield "uniform", uniform_frame_indices(8, 100)
    yield "sampled", attempt(lambda: sample_frame_indices(8, 2, 100, generator=np.random.default_rng(0)))
    for level in (0, 1, 2, 3):
        found = attempt(lambda level=level: planted_clip(PlantedConfig(frames=16, size=32, level=level, seed=3), 2))
        if isinstance(found, str):
            yield f"planted {level}", found
            continue
        yield f"planted {level}/frames", found.frames.astype(float)
        yield f"planted {level}/mask", found.mask.astype(float)
        yield f"planted {level}/label", [found.label, *found.window]
    clip = read_clip(clip_paths(bench.stored)[0], 8, 1, processor=processor)
    heat = made("rollout")(bench.models["joint"], clip.pixel_values.double())
    yield "overlay", attempt(lambda: heat_on_source(clip, heat))


def small_processor() -> Any:
    return VivitImageProcessor.trained_range(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32})


def clip_paths(stored: Path) -> list[Path]:
    return sorted((stored / "clips").glob("*.mp4"))


def bulk(bench: Bench, out: Path) -> Iterator[tuple[str, Any]]:
    """The columns of a run over the stored clips, and of a sweep over its heads."""
    results, swept = small_run(bench.stored, out)
    yield from table_numbers("rows", results.table(results.columns))
    yield from table_numbers("sweep", swept.table())
    yield from run_maps("", results)


def small_run(stored: Path, out: Path) -> tuple[Any, Any]:
    """A run over the stored clips, and a sweep over its heads."""
    job = BulkJob(
        "models/joint",
        methods=("rollout", "chefer", "raw"),
        stride=1,
        shard_size=2,
        batch_size=2,
        hidden_states="cls",
    )
    out, alone = out.resolve(), LocalExecutor(workers=1)
    with chdir(stored):  # a run notes where its model and clips are
        videos = [f"clips/{path.name}" for path in clip_paths(Path())]
        results = run_bulk(job, videos, out, executor=alone, progress=False)
        masks = MaskList.single(LAYERS, HEADS)
        return results, sweep_heads(out, masks, block_size=4, executor=alone, progress=False)


def run_maps(name: str, results: Any) -> Iterator[tuple[str, Any]]:
    for method in results.methods:
        yield f"{name}maps {method}{HALF}", torch.cat([results.map(clip, method).relevance for clip in range(3)])
        yield f"{name}mean {method}{HALF}", results.mean_map(method).relevance
    for clip in range(3):
        yield f"{name}hidden {clip}{HALF}", results.hidden_states(clip)
    yield f"{name}nearest{HALF}", [distance for _, distance in results.nearest(0, 2)]


def table_numbers(name: str, table: Any) -> Iterator[tuple[str, Any]]:
    """The numbers of each column but those about the run: how long it took, and which files it read."""
    yield f"{name}/done", [float(value == "ok") for value in table.column("status").to_pylist()]
    for column in table.column_names:
        flat = list(_numbers(table.column(column).to_pylist()))
        if flat and not column.startswith(("seconds_", "video_")):
            half = HALF if "halffloat" in str(table.schema.field(column).type) else ""
            yield f"{name}/{column}{half}", flat


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Mapping):
        for key in sorted(value):
            yield from _numbers(value[key])
    elif isinstance(value, (list, tuple, np.ndarray)):
        for each in value:
            yield from _numbers(each)
    elif isinstance(value, (bool, int, float, np.number)):
        yield float(value)


PLANTED: dict[str, Any] = {"frames": 8, "size": 32, "level": 1, "seed": 3}


def write_models(stored: Path) -> None:
    """Write each variant as a checkpoint's folder; its weights are what the numbers are made with."""
    for number, (name, fields) in enumerate({**VARIANTS, **BACKBONES}.items()):
        torch.manual_seed(number)
        config = {**SIZES, **fields}
        if name in BACKBONES:
            del config["num_labels"], config["id2label"]
        model = (VivitModel if name in BACKBONES else VivitForVideoClassification)(VivitConfig(**config)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        if name != "joint":  # in half the bytes
            model = model.half()
        model.save_pretrained(stored / "models" / name)
        small_processor().save_pretrained(stored / "models" / name)


def write_clips(stored: Path, count: int = 3) -> None:
    """Write movies of a spot that moves over a slope."""
    folder = stored / "clips"
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:36, :40]
    for number in range(count):
        with MovieWriter(folder / f"spot-{number}.mp4", 36, 40, end=1.0) as movie:
            for index in range(10):
                spot = np.exp(-((y - 10 - 3 * number) ** 2 + (x - 3 * index - 5) ** 2) / 40)
                frame = np.stack([200 * spot, 3 * x + 20 * number, 5 * y], axis=-1)
                movie.write(frame.clip(0, 255).astype(np.uint8), index / 10)


def write_saved(bench: Bench) -> None:
    """Write one file or folder of each kind that users keep."""
    saved = bench.stored / "saved"
    saved.mkdir(parents=True, exist_ok=True)
    model, data = bench.models["joint"], (noise(3, 4), torch.tensor([0, 1, 2, 3]))
    made("chefer")(model, bench.pixels, target=1).save(saved / "map.safetensors")
    IMPORTANCES["ablation"](model, data, progress=False).save(saved / "importance.safetensors")
    head_statistics(model, bench.pixels, queries=8, progress=False).save(saved / "statistics.safetensors")
    HeadMask.without([(0, 1), (1, 2)], LAYERS, HEADS).save(saved / "mask.json")
    target = LogitDifference(1, 3)
    AblationEffects(progress=False)(model, bench.pixels, target).save(saved / "effects.safetensors")
    patching = ActivationPatching(progress=False)(model, bench.pixels, bench.other, target)
    patching.save(saved / "patching.safetensors")
    PruningExperiment(model, data, random=1, shares=(0.5,), timing_repeats=1, batch_size=4).run(progress=False).save(
        saved / "curves.json"
    )
    small_report(bench, "joint").to_json(saved / "report.json")
    write_planted(saved / "planted", PlantedConfig(**PLANTED), 2, counterfactuals=["reverse"], progress=False)
    config = TrainingConfig(steps=2, batch_size=2, warmup_steps=1, log_every=1)
    trained = bench.load("joint").float()
    train(trained, PlantedDataset(PlantedConfig(**PLANTED), 4), config, saved / "trained", cpu=True, progress=False)
    small_run(bench.stored, saved / "run")


def saved(bench: Bench) -> Iterator[tuple[str, Any]]:
    """What files hold that an earlier version wrote, and what a model says that is loaded from one."""
    folder = bench.stored / "saved"
    heat = AttributionMap.load(folder / "map.safetensors")
    yield "map/relevance", heat.relevance
    yield "map/grid", [*heat.grid.shape, float(heat.signed)]
    yield "map/again", made("chefer")(bench.models["joint"], bench.pixels, target=1).relevance
    importance = HeadImportance.load(folder / "importance.safetensors")
    yield "importance", importance.per_example
    yield "importance/order", [float(part) for place in importance.ranking() for part in place]
    statistics = HeadStatistics.load(folder / "statistics.safetensors")
    for name, value in statistics.values.items():
        yield f"statistics/{name}", value
    yield "mask", HeadMask.load(folder / "mask.json").tensor()
    effects = EffectTable.load(folder / "effects.safetensors")
    yield "effects", effects.effect
    yield "effects/low", effects.low
    patching = PatchingResult.load(folder / "patching.safetensors")
    yield "patching", patching.effect
    yield "patching/share", patching.normalized
    curves = PruningCurves.load(folder / "curves.json")
    yield "curves", np.array(curves.importance, dtype=float)
    for name, value in report_rows(FaithfulnessReport.from_json(folder / "report.json")).items():
        yield f"report/{name}", value
    for number, entry in enumerate(read_planted(folder / "planted")):
        yield f"planted/{number}", [entry.label, *entry.window]
        yield f"planted/{number}/mask", entry.mask.astype(float)
        yield f"planted/{number}/frames", read_clip(entry.path, 8, 1).frames.astype(float)
    trained, processor = load_model(folder / "trained"), small_processor()
    yield "trained/logits", trained(bench.pixels.float()).logits
    for number, line in enumerate(read_log(folder / "trained")):
        yield f"trained/log {number}", [float(value) for key, value in sorted(line.items()) if key in ("step", "loss")]
    results = BulkResults.open(folder / "run")
    yield from table_numbers("run", results.table(results.columns))
    yield from run_maps("run/", results)
    yield "run/same clip", processor.prepare(read_clip(clip_paths(bench.stored)[0], 8, 1)).pixel_values
    yield from table_numbers("sweep", HeadSweepResults.open(folder / "run", "single").table())
    for name, model in {**bench.models, **bench.backbones}.items():
        yield f"models/{name}", [float(value.double().abs().sum()) for value in sorted_state(model)]


def sorted_state(model: Any) -> list[torch.Tensor]:
    """The parameters, by size and sum: in no order that depends on their names."""
    return sorted(model.state_dict().values(), key=lambda value: (value.numel(), float(value.double().abs().sum())))


def package_file() -> str:
    return vivit_lab.__file__


def jobs(bench: Bench, folder: Path) -> dict[str, Callable[[], Any]]:
    """What is counted by the number of files that take part in it."""
    model = str(bench.stored / "models" / "joint")
    video = clip_paths(bench.stored)[0]
    render = ["render", str(video), "--model", model, "--method", "rollout", "--out", str(folder), "--stride", "1"]
    clip = read_clip(video, 8, 1, processor=small_processor())
    explorer = ClipExplorer(load_model(model), clip, threaded=False)
    clicks = iter([3, 7])
    stage = ClipStage(BulkJob(model, stride=1, batch_size=1), load_model(model), 1)
    return {
        "render of a rollout": lambda: main(render),
        "a click without a forward": lambda: explorer.set_state({"query": next(clicks)}),
        "a bulk row, the model's stage": lambda: stage(clip.pixel_values),
        "a bulk row, read and prepared too": lambda: stage(
            read_clip(video, 8, 1, processor=small_processor()).pixel_values
        ),
    }


#: Group → what makes it; `maps` has a group for each method.
GROUPS: dict[str, Callable[[Bench], Iterator[tuple[str, Any]]]] = {
    "records": records,
    "head_scores": head_scores,
    "interventions": interventions,
    "corruptions": corruptions,
    "logits": logits,
    "faithfulness": faithfulness,
    "report": report,
    "media": media,
    "saved": saved,
}

__all__ = [
    "GROUPS",
    "Bench",
    "bulk",
    "jobs",
    "maps",
    "methods",
    "package_file",
    "write_clips",
    "write_models",
    "write_saved",
]
