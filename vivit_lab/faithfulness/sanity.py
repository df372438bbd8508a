"""Sanity checks: a map that explains a model changes with its weights, and one that explains a class with the class."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.nn import functional

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.errors import InputError
from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
from vivit_lab.model.embeddings import Embeddings
from vivit_lab.numbers import checked_numbers
from vivit_lab.progress import progress_bar
from vivit_lab.records.attention import evaluating
from vivit_lab.records.inputs import as_pixel_values
from vivit_lab.records.targets import Target, TargetLike, bind_target
from vivit_lab.statistics.ranks import spearman
from vivit_lab.video.clip import Clip

__all__ = [
    "HEADS",
    "Model",
    "SanityResult",
    "cascade",
    "check_sanity",
    "randomised_stages",
    "spearman",
    "ssim",
]


def ssim(
    a: Float[Tensor, "row t h w"], b: Float[Tensor, "row t h w"], *, window: tuple[int, int, int] = (3, 3, 3)
) -> Float64[Tensor, " row"]:
    """Return the mean structural similarity of pairs of maps (Wang et al. 2004, eq. 13), in space and time.

    Two maps have no common scale, so each is first brought to [0, 1] by its own smallest and largest value (a constant
    one to 0); then K1 = 0.01, K2 = 0.03, L = 1. The windows are boxes with equal weights, only those that lie inside
    the grid; variances are those of the population.

    Args:
        a: (row, t, h, w).
        b: (row, t, h, w).
        window: size of the box in tubelets, (t, h, w); cut where the grid is smaller. (1, n, n) for each row alone.

    Returns:
        (row,) float64, 1 for maps that are alike up to shift and positive scale; NaN where one of the two is constant.

    Raises:
        InputError: the shapes differ, or the window is not three positive sizes.
    """
    if a.shape != b.shape or a.ndim != 4:
        raise InputError(f"ssim wants two tensors (row, t, h, w) of one shape, got {tuple(a.shape)}, {tuple(b.shape)}")
    if len(window) != 3 or min(window) < 1:
        raise InputError(f"window must be three positive sizes in tubelets (t, h, w), got {window}")
    size = [min(wanted, whole) for wanted, whole in zip(window, a.shape[1:], strict=True)]
    (x, some), (y, others) = _unit(a), _unit(b)

    def local(values: Tensor) -> Tensor:
        return functional.avg_pool3d(values.unsqueeze(1), size, stride=1).squeeze(1)

    mean_x, mean_y = local(x), local(y)
    spread_x, spread_y = local(x * x) - mean_x**2, local(y * y) - mean_y**2
    shared = local(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * shared + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (spread_x + spread_y + c2)
    )
    return torch.where(some & others, similarity.mean(dim=(1, 2, 3)), torch.nan)


def _unit(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return maps brought to [0, 1], float64, and which of them are not constant."""
    values = values.double()
    low, high = values.amin(dim=(1, 2, 3), keepdim=True), values.amax(dim=(1, 2, 3), keepdim=True)
    span = high - low
    unit = torch.where(span > 0, (values - low) / torch.where(span > 0, span, 1.0), 0.0)
    return unit, (span > 0).flatten()


Model = VivitModel | VivitForVideoClassification

HEADS = ("classifier", "pooler")
"""The stages above the backbone."""


def randomised_stages(model: Model) -> tuple[str, ...]:
    """Return the names of the stages, from the head downwards: classifier (or pooler), ln_final, blocks.11 … embed."""
    return tuple(name for name, _ in _stages(model))


def cascade(model: Model, seed: int = 0) -> Iterator[tuple[str, Model]]:
    """Yield (stage, model) with one more stage randomised each time, always the same copy of ``model``.

    Weights are drawn as the architecture's initialisation draws them (normal with ``initializer_range``; biases 0,
    LayerNorms 1 and 0), but CLS token and positions, which start at 0 there, are drawn too.

    Args:
        model: a ViViT; it is left as it is.
        seed: of the weights.

    Example:
        >>> heats = {stage: CheferRelevance()(some, clip, target=3).relevance for stage, some in cascade(model)}
    """
    generator = torch.Generator().manual_seed(seed)
    some = copy.deepcopy(model)
    for name, module in _stages(some):
        _randomise(module, some.config.initializer_range, generator)
        yield name, some


def _stages(model: Model) -> list[tuple[str, nn.Module]]:
    heads = [(name, getattr(model, name, None)) for name in HEADS]
    blocks = [(f"blocks.{layer}", block) for layer, block in reversed(list(enumerate(model.blocks)))]
    stages = [*heads, ("ln_final", model.ln_final), *blocks, ("embed", model.embed)]
    return [(name, module) for name, module in stages if module is not None and any(True for _ in module.parameters())]


def _randomise(module: nn.Module, std: float, generator: torch.Generator) -> None:
    with torch.no_grad():
        for part in module.modules():
            ones = isinstance(part, nn.LayerNorm)
            drawn = isinstance(part, (nn.Linear, nn.Conv3d, Embeddings))
            for name, parameter in part.named_parameters(recurse=False):
                if ones:
                    parameter.fill_(float(name == "weight"))
                elif drawn and name != "bias":
                    # drawn on the CPU, so that a seed gives the same weights on every device
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
                else:
                    parameter.zero_()


_SAME = 1 - 1e-6  # a correlation from here on is that of the same map
_LOST = 0.3


class Method(Protocol):
    """What is checked: an attribution method."""

    def __call__(self, model: Any, pixel_values: Any, /, *args: Any, **forward: Any) -> AttributionMap: ...


@dataclass(frozen=True)
class SanityResult:
    """How similar each clip's map stays when the model, or the class, becomes another.

    Args:
        method: name of the method.
        stages: what was randomised last, from the head downwards; each stage keeps those before it randomised.
        spearman: (stage, clip) Spearman's correlation with the map of the trained model; NaN where a map is constant.
        magnitude: (stage, clip) the same of absolute values.
        ssim: (stage, clip) structural similarity on the token grid.
        swap_spearman: (clip,) correlation of the maps of the explained class and of another one; None where there is
            no other class.
        swap_ssim: (clip,) likewise.
    """

    method: str
    stages: tuple[str, ...]
    spearman: tuple[tuple[float, ...], ...]
    magnitude: tuple[tuple[float, ...], ...]
    ssim: tuple[tuple[float, ...], ...]
    swap_spearman: tuple[float, ...] | None = None
    swap_ssim: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        tables = {name: getattr(self, name) for name in ("spearman", "magnitude", "ssim")}
        clips = len(self.spearman[0]) if self.spearman else 0
        for name, table in tables.items():
            if len(table) != len(self.stages) or any(len(row) != clips for row in table) or not clips:
                raise InputError(f"{name} must hold a row for each of {len(self.stages)} stages, one value a clip")
            object.__setattr__(self, name, tuple(tuple(float(value) for value in row) for row in table))
        for name in ("swap_spearman", "swap_ssim"):
            swap = getattr(self, name)
            if swap is not None:
                if len(swap) != clips:
                    raise InputError(f"{name} has {len(swap)} values, the stages have {clips} clips")
                object.__setattr__(self, name, tuple(float(value) for value in swap))

    @property
    def mean_spearman(self) -> dict[str, float]:
        """Each stage's mean correlation over the clips that have one."""
        return {stage: _mean(row) for stage, row in zip(self.stages, self.spearman, strict=True)}

    @property
    def mean_swap(self) -> float | None:
        """Mean correlation of the maps of two classes; None where there was no other class."""
        return None if self.swap_spearman is None else _mean(self.swap_spearman)

    @property
    def depends_on_classifier(self) -> bool | None:
        """Whether any clip's map changed with the head's weights or with the class; None where neither was tried."""
        heads = [index for index, stage in enumerate(self.stages) if stage in HEADS]
        seen = [value for table in (self.spearman, self.ssim) for index in heads for value in table[index]]
        seen += [*(self.swap_spearman or ()), *(self.swap_ssim or ())]
        return any(value < _SAME for value in seen) if seen else None

    @property
    def depends_on_model(self) -> bool:
        """Whether any clip's map changed with any of the model's weights."""
        return any(value < _SAME for table in (self.spearman, self.ssim) for row in table for value in row)

    @property
    def passes(self) -> bool:
        """Whether it depends on the head or class (if tried) and its correlation falls below 0.3 at the last stage."""
        return self.depends_on_classifier is not False and abs(_mean(self.spearman[-1])) < _LOST

    @property
    def verdict(self) -> str:
        """What the numbers say, as one sentence."""
        if not any(value == value for row in self.spearman for value in row):
            return f"{self.method} gives constant maps, so nothing can be said of it."
        if not self.depends_on_model:
            return f"{self.method} does not depend on the model: its maps stay the same whatever its weights are."
        last = _mean(self.spearman[-1])
        end = f"its Spearman correlation is {last:.2f} once all from the head down to {self.stages[-1]} is random"
        if self.depends_on_classifier is False:
            tried = ["for a randomised head"] if any(stage in HEADS for stage in self.stages) else []
            tried += ["for another class"] if self.swap_spearman is not None else []
            return (
                f"{self.method} does not depend on the classifier: its maps are the same {' and '.join(tried)}; {end}."
            )
        swap = "" if self.mean_swap is None else f"; the map of another class correlates by {self.mean_swap:.2f}"
        what = "the weights" if self.depends_on_classifier is None else "the classifier and to the weights below it"
        if self.passes:
            return f"{self.method} reacts to {what}: {end}{swap}."
        if last != last:
            return f"{self.method} gives constant maps once all down to {self.stages[-1]} is random{swap}."
        if last < 0:
            return f"{self.method} gives much the opposite of its maps without a trained model: {end}{swap}."
        return f"{self.method} keeps much of its maps without a trained model: {end}{swap}."

    @classmethod
    def merge(cls, parts: Sequence[SanityResult]) -> SanityResult:
        """Return the results of several batches of clips as one.

        Raises:
            InputError: there are none, or they are of different methods or stages, or only some have a class swap.
        """
        kinds = {(part.method, part.stages, part.swap_spearman is None) for part in parts}
        if len(kinds) != 1:
            raise InputError(f"wanted parts of one method with the same stages, got {sorted(map(str, kinds))}")

        def joined(rows: Iterable[tuple[float, ...]]) -> tuple[float, ...]:
            return tuple(value for row in rows for value in row)

        def table(name: str) -> tuple[tuple[float, ...], ...]:
            stages = zip(*(getattr(part, name) for part in parts), strict=True)
            return tuple(joined(rows) for rows in stages)

        first, swaps = parts[0], (None, None)
        if first.swap_spearman is not None:
            swaps = tuple(joined(getattr(part, name) for part in parts) for name in ("swap_spearman", "swap_ssim"))
        return cls(first.method, first.stages, table("spearman"), table("magnitude"), table("ssim"), *swaps)


@checked_numbers()
def check_sanity(
    method: Method,
    model: Model,
    pixel_values: Tensor | Clip | Sequence[Clip],
    target: TargetLike = None,
    *,
    other: TargetLike = None,
    stages: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool | None = None,
    **options: Any,
) -> SanityResult:
    """Randomise the model from the head downwards, and swap the class, and see what the maps make of it.

    Cascading randomisation (Adebayo et al. 2018, https://arxiv.org/abs/1810.03292, section 3.1): classifier, final
    LayerNorm, last block … first block, embedding get new weights one after the other, on a copy. The class stays that
    of the given model. Class swap: the map of the class against that of another one, on the given model.

    Args:
        method: an attribution method, called as ``method(model, pixel_values, target=…)``; one that is
            ``class_agnostic``, or whose call knows no target, is called without.
        model: a ViViT; it is left as it is, bit for bit.
        pixel_values: the clips.
        target: what is explained; None for each clip's predicted class.
        other: what the class is swapped for; None for the class with the largest other logit, where there is one.
        stages: of which stages a map is made (all are randomised in their order); None for all of
            ``randomised_stages(model)``.
        seed: of the new weights, which are the same for every batch of clips.
        progress: whether to show a bar; None shows it where standard error is a terminal.
        **options: for the method's call, such as ``batch_size``.

    Raises:
        InputError: the clips, a target or a stage do not fit the model.

    Cost: the method once, once a stage and once for the swap; memory of one more model.
    """
    wanted = _chosen(stages, randomised_stages(model))
    fixed, swapped = _targets(model, pixel_values, target, other, options)
    name = type(method).__name__
    bar = progress_bar(None, progress, f"sanity of {name}", "map", len(wanted) + 1 + (swapped is not None))
    with bar:

        def explain(some: Model, fixed: TargetLike) -> Tensor:
            relevance = _call(method, some, pixel_values, fixed, options).relevance
            bar.update()
            return relevance

        clean = explain(model, fixed)
        swap = None if swapped is None else _similarity(clean, explain(model, swapped))
        found = [_similarity(clean, explain(some, fixed)) for stage, some in cascade(model, seed) if stage in wanted]
    correlation, magnitude, structure = (tuple(row[index] for row in found) for index in range(3))
    swaps = (None, None) if swap is None else (swap[0], swap[2])
    return SanityResult(name, tuple(wanted), correlation, magnitude, structure, *swaps)


def _chosen(stages: Sequence[str] | None, names: Sequence[str]) -> list[str]:
    if stages is None:
        return list(names)
    wrong = [stage for stage in stages if stage not in names]
    if wrong or not stages:
        raise InputError(f"stages must be some of {', '.join(names)}; got {list(stages)}")
    return [name for name in names if name in stages]


def _targets(model: Model, pixel_values: Any, target: Any, other: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    """Return the target and the other one, fixed on the clean clips of the given model."""
    given = as_pixel_values(pixel_values).values.detach().to(model.device)
    keys = ("head_mask", "interpolate_pos_encoding")
    with evaluating(model), torch.no_grad():
        forward = {key: options.get(key) for key in keys}
        output = model(given, **forward, return_dict=True)
    logits = output.get("logits") if model.config.num_labels else None
    fixed = _fixed(target, output, model, logits)
    if other is not None:
        return fixed, _fixed(other, output, model, logits)
    if logits is None or not isinstance(fixed, Tensor) or logits.shape[1] < 2:
        return fixed, None
    return fixed, logits.scatter(1, fixed.unsqueeze(1), -torch.inf).argmax(dim=-1)


def _fixed(target: Any, output: Any, model: Model, logits: Tensor | None) -> Any:
    """Return classes as a tensor, so that each method takes them its own way; all else bound."""
    if target is None and logits is not None:
        return logits.argmax(dim=-1)
    if logits is not None and not isinstance(target, Target) and not callable(target):
        bind_target(cast("TargetLike", target), output, model.config)  # raises for what is no class
        return torch.as_tensor(target, device=logits.device).expand(len(logits))
    return None if target is None else bind_target(cast("Any", target), output, model.config)


def _call(method: Any, model: Model, pixel_values: Any, target: Any, options: dict[str, Any]) -> AttributionMap:
    takes = not getattr(method, "class_agnostic", False) and "target" in inspect.signature(method).parameters
    return method(model, pixel_values, **({"target": target} if takes else {}), **options)


def _similarity(a: Tensor, b: Tensor) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """Return each clip's Spearman, Spearman of absolute values and SSIM."""
    flat = a.flatten(1), b.flatten(1)
    three = spearman(*flat), spearman(flat[0].abs(), flat[1].abs()), ssim(a, b)
    return tuple(tuple(values.tolist()) for values in three)  # type: ignore[return-value]


def _mean(values: Sequence[float]) -> float:
    """Return the mean of the values that are not NaN; NaN where none is."""
    kept = [value for value in values if value == value]
    return sum(kept) / len(kept) if kept else float("nan")
