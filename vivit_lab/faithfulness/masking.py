"""What the measures share: what the target becomes when tubelets are taken away, and what stands there instead."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.attribution.forwards import baseline_pixels, check_positive
from vivit_lab.errors import GridError, InputError
from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel, expand_head_mask
from vivit_lab.grid import TokenGrid
from vivit_lab.interventions.corruptions import blur
from vivit_lab.model.config import VivitConfig
from vivit_lab.model.outputs import Encoded
from vivit_lab.numbers import check_whole, checked_numbers
from vivit_lab.progress import progress_bar
from vivit_lab.records.attention import evaluating
from vivit_lab.records.inputs import as_pixel_values
from vivit_lab.records.targets import BoundTarget, Probability, TargetLike, bind_target
from vivit_lab.video.clip import Clip

__all__ = [
    "BASELINES",
    "QUANTITIES",
    "CleanClips",
    "MaskingMeasure",
    "Readings",
    "Result",
    "SubsetFalls",
    "SubsetMeasure",
    "baseline_clips",
    "blurred_still",
    "check_quantity",
    "check_removal",
    "check_seed",
    "clip_generator",
    "embed_clips",
    "forward_kept_tokens",
    "forward_tokens",
    "random_subsets",
    "rank_units",
    "require_droppable",
    "take_tokens",
    "tubelet_relevance",
]

#: Ways to take tubelets away: two that paint over their pixels, and token dropping.
BASELINES = ("blur", "mean", "drop")


def check_removal(baseline: str, blur_sigma: float) -> None:
    """Refuse a baseline that is not known, and a blur that is none.

    Raises:
        InputError: it is so.
    """
    if baseline not in BASELINES:
        raise InputError(f"baseline={baseline!r} is not known; choose one of {', '.join(BASELINES)}")
    if not 0 < blur_sigma < float("inf"):
        raise InputError(f"blur_sigma must be positive and finite, a fraction of the image's side; got {blur_sigma!r}")


def baseline_clips(
    pixels: Float[Tensor, "batch frame channel height width"], baseline: str, blur_sigma: float
) -> Float[Tensor, "batch frame channel height width"]:
    """Return, for each clip, the clip whose tubelets stand where its own were taken away.

    Args:
        pixels: normalised pixels.
        baseline: ``"blur"`` for the clip's blurred still, ``"mean"`` for its mean colour.
        blur_sigma: see ``blurred_still``.

    Raises:
        InputError: the baseline paints nothing: ``"drop"``, or one that is not known.
    """
    if baseline == "blur":
        return blurred_still(pixels, blur_sigma)
    if baseline == "mean":
        return baseline_pixels(pixels, baseline)
    raise InputError(f"baseline={baseline!r} paints no pixels; the ones that do are blur and mean")


def blurred_still(
    pixels: Float[Tensor, "batch frame channel height width"], sigma: float
) -> Float[Tensor, "batch frame channel height width"]:
    """Return a still without detail or motion: the mean frame, blurred in space, at every time.

    A blur of each frame alone would leave what moves moving, and a weak blur in time leaves its direction. The mean
    frame is the limit of the blur in time: it is the same for a clip and for the clip reversed or shuffled in time, so
    no evidence that lies in motion is left.

    Args:
        pixels: normalised pixels.
        sigma: standard deviation of the Gaussian, as a fraction of the image's height and width, each its own. At
            the borders the weights that fall outside are left out and the others sum to 1.
    """
    return blur(pixels.mean(dim=1, keepdim=True), sigma).expand_as(pixels)


def check_seed(seed: int) -> None:
    """Refuse a seed that is not a whole number from 0.

    Raises:
        InputError: it is not.
    """
    check_whole("seed", seed, 0)


def clip_generator(seed: int, number: int) -> np.random.Generator:
    """Return a clip's own generator: the same in whatever batch the clip is, another for every other clip.

    Args:
        seed: of the whole evaluation.
        number: of the clip in its data set.
    """
    return np.random.default_rng([seed, number])


def tubelet_relevance(
    relevance: AttributionMap | Tensor, batch: int, grid: TokenGrid
) -> Float64[Tensor, "batch t h w"]:
    """Return a map's values in double precision on the CPU, where sums and ties are exact enough to rank.

    Args:
        relevance: a map, or its values (batch, t, h, w); before any upsampling.
        batch: how many clips there are.
        grid: the clips' token grid.

    Raises:
        GridError: the map lies on another grid.
        InputError: it has another number of clips, or a value is not finite.
    """
    values = relevance.relevance if isinstance(relevance, AttributionMap) else relevance
    if values.ndim != 4 or tuple(values.shape[1:]) != grid.shape:
        raise GridError(
            f"relevance must be (batch, {', '.join(map(str, grid.shape))}), one number a tubelet before any "
            f"upsampling; got {tuple(values.shape)}"
        )
    if len(values) != batch:
        raise InputError(f"relevance has {len(values)} maps for {batch} clips")
    values = values.detach().cpu().double()
    if not bool(torch.isfinite(values).all()):
        raise InputError("relevance holds a NaN or infinity, which has no rank")
    return values


def rank_units(values: Float64[Tensor, "batch unit"], seed: int, numbers: Sequence[int]) -> Int64[Tensor, "batch unit"]:
    """Return each unit's rank, 0 for the most relevant.

    Equal values are put into a random order, which belongs to the clip. In the order of their index the early frames
    would come first, and a map of zeros would score like one that points at them.

    Args:
        values: (batch, unit), signed.
        seed: of the order among equals.
        numbers: the clips' numbers in their data set; see ``clip_generator``.
    """
    ranks = []
    for row, number in zip(values.unbind(), numbers, strict=True):
        shuffled = torch.from_numpy(clip_generator(seed, number).permutation(len(row)))
        order = shuffled[row[shuffled].argsort(descending=True, stable=True)]
        ranks.append(torch.empty_like(order).scatter_(0, order, torch.arange(len(row))))
    return torch.stack(ranks)


def require_droppable(config: VivitConfig) -> None:
    """Refuse a model whose tokens attend in groups along time and space, from which none can be left out.

    Raises:
        InputError: the model is factorised.
    """
    if config.variant != "spacetime":
        raise InputError(
            f"tokens of a {config.variant} stand in groups along time and space, and none can be left out: mask or "
            "paint over them instead of dropping them"
        )


def embed_clips(
    model: VivitModel | VivitForVideoClassification,
    pixel_values: Float[Tensor, "batch frame channel height width"],
    *,
    interpolate_pos_encoding: bool | None = None,
) -> Float[Tensor, "batch token d_model"]:
    """Return the tokens that enter the first block: CLS and the projected tubelets, each with its position.

    In a factorised encoder each time has its own CLS before its tubelets. A position is added to its token here, so a
    token that is kept later still knows its place.

    Args:
        model: a ViViT.
        pixel_values: (batch, frames, channels, height, width), normalised.
        interpolate_pos_encoding: whether clips of another size are taken; None is yes, and says so once.

    Raises:
        InputError: the clips do not fit the model.
        GridError: frames or pixels are no whole number of tubelets.
    """
    with evaluating(model):
        return model.embed(pixel_values.to(model.device), interpolate_pos_encoding)


def forward_tokens(
    model: VivitModel | VivitForVideoClassification,
    tokens: Float[Tensor, "row token d_model"],
    head_mask: Tensor | None = None,
    grid: TokenGrid | None = None,
) -> Any:
    """Run the blocks, the final LayerNorm and the head on tokens that are embedded already, in evaluation mode.

    Args:
        model: a ViViT.
        tokens: (row, token, d_model) as ``embed_clips`` gives them; any number of them under joint attention.
        head_mask: as for the model's forward; 1 keeps.
        grid: of the clips; None is the configuration's.

    Returns:
        The model's ordinary output, whose ``last_hidden_state`` has these tokens only.

    Raises:
        InputError: the mask does not fit the model.
    """
    heads = model.config.num_attention_heads
    mask = expand_head_mask(head_mask, len(model.blocks), len(tokens), heads, like=model.embed.position)
    masks = [None] * len(model.blocks) if mask is None else mask.unbind()
    with evaluating(model):
        for block, share in zip(model.blocks, masks, strict=True):
            tokens, _ = block(tokens, share, grid=grid)
        return model.outputs_of(Encoded(model.ln_final(tokens), None, None, grid))


@checked_numbers()
def forward_kept_tokens(
    model: VivitModel | VivitForVideoClassification,
    clips: Float[Tensor, "batch frame channel height width"] | Float[Tensor, "batch token d_model"],
    keep: Bool[Tensor, "row ..."],
    *,
    rows: Sequence[int] | Tensor | None = None,
    head_mask: Tensor | None = None,
    interpolate_pos_encoding: bool | None = None,
) -> Any:
    """Run a model on some of each clip's tubelets; the others are dropped after the embedding, CLS never.

    The same as masking the dropped tokens out of every attention, at the cost of the tokens that are kept: attention
    falls with the square of their number, all else in proportion. Works under every attention implementation.
    Gradients flow if the caller has them enabled.

    Args:
        model: a ViViT.
        clips: pixel values (batch, frames, channels, height, width), or their tokens from ``embed_clips``, which
            several calls can share.
        keep: (row, t, h, w) or (row, t·h·w), True keeps; each row keeps equally many, none at the least.
        rows: which clip each row is a version of; by default row i is one of clip i.
        head_mask: as for the model's forward, for the clips.
        interpolate_pos_encoding: whether clips of another size are taken; None is yes, and says so once.

    Returns:
        The model's ordinary output for each row; ``last_hidden_state`` is (row, 1 + kept, d_model).

    Raises:
        InputError: the clips, ``keep``, ``rows`` or the mask do not fit the model or each other.
        GridError: ``keep`` has not as many tubelets as the clips.

    Example:
        >>> tokens = embed_clips(model, pixel_values)  # one clip
        >>> halves = torch.tensor([[True] * 4 + [False] * 4, [False] * 4 + [True] * 4])
        >>> forward_kept_tokens(model, tokens, halves, rows=[0, 0]).logits
    """
    require_droppable(model.config)
    tokens = clips
    if clips.ndim == 5:
        tokens = embed_clips(model, clips, interpolate_pos_encoding=interpolate_pos_encoding)
    width = model.config.hidden_size
    if tokens.ndim != 3 or tokens.shape[-1] != width:
        raise InputError(
            "clips must be pixel values (batch, frames, channels, height, width) or tokens from embed_clips (batch, "
            f"token, {width}), got {tuple(clips.shape)}"
        )
    index = _clip_of_rows(rows, len(keep), len(tokens), tokens.device)
    mask = expand_head_mask(
        head_mask, len(model.blocks), len(tokens), model.config.num_attention_heads, like=model.embed.position
    )
    if mask is not None and mask.shape[1] > 1:
        mask = mask.index_select(1, index)
    kept = take_tokens(tokens.index_select(0, index), keep.flatten(1), offset=model.embed.grid.offset)
    return forward_tokens(model, kept, mask)


def take_tokens(
    tokens: Float[Tensor, "row token d_model"], keep: Bool[Tensor, "row tubelet"], offset: int = 1
) -> Float[Tensor, "row kept d_model"]:
    """Return the first ``offset`` tokens (CLS) and the kept ones, in their order.

    Args:
        tokens: (row, token, d_model).
        keep: (row, tubelet), True keeps; each row keeps equally many.
        offset: how many tokens stand before the tubelets and stay.

    Raises:
        InputError: ``keep`` is not boolean, or its rows keep different numbers.
        GridError: it has not as many tubelets as there are.
    """
    if keep.dtype != torch.bool:
        raise InputError(f"keep must be boolean, True where a tubelet stays; got {keep.dtype}")
    tubelets = tokens.shape[1] - offset
    if keep.shape[1] != tubelets:
        raise GridError(f"keep must have {tubelets} tubelets a row (CLS always stays), got {keep.shape[1]}")
    keep = keep.to(tokens.device)
    counts = keep.sum(dim=1)
    if len(counts.unique()) > 1:
        raise InputError(
            f"each row must keep equally many tubelets, got {int(counts.min())} to {int(counts.max())}: "
            "call once for each number"
        )
    # a stable sort puts the kept ones first, in their order
    places = keep.to(torch.uint8).argsort(dim=1, descending=True, stable=True).narrow(1, 0, int(counts.max()))
    first = torch.arange(offset, device=tokens.device).expand(len(tokens), -1)
    index = torch.cat((first, places + offset), dim=1)
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def _clip_of_rows(rows: Sequence[int] | Tensor | None, count: int, clips: int, device: torch.device) -> Tensor:
    """Return the clip of each row, (row,)."""
    if count < 1:
        raise InputError("keep has no rows: give at least one set of tubelets to keep")
    if rows is None:
        if count != clips:
            raise InputError(f"keep has {count} rows for {clips} clips: name each row's clip, rows=[…]")
        return torch.arange(clips, device=device)
    index = torch.as_tensor(rows, device=device)
    if index.shape != (count,) or index.is_floating_point() or bool(((index < 0) | (index >= clips)).any()):
        raise InputError(f"rows must name one of the clips 0..{clips - 1} for each of the {count} rows, got {rows}")
    return index


#: What can be read off a model: the target's own value, or its class's probability; auto prefers the latter.
QUANTITIES = ("auto", "probability", "score")


@dataclass(frozen=True, eq=False)
class Readings:
    """What was read off the model for some versions of clips, float32 on the CPU.

    Args:
        score: the target's value, e.g. a logit.
        probability: the probability of the target's class, of the same shape; None where the target is not about one
            class (a difference, a cosine, a function) or the model gives no probabilities.
    """

    score: Tensor
    probability: Tensor | None

    def of(self, quantity: str) -> Tensor:
        """Return one of both; ``"auto"`` is the probability where there is one, else the score.

        Raises:
            InputError: the quantity is not known, or the probability was asked for and there is none.
        """
        check_quantity(quantity)
        if quantity == "score" or (quantity == "auto" and self.probability is None):
            return self.score
        if self.probability is None:
            raise InputError("the target is not the class of a classifier and has no probability; ask for 'score'")
        return self.probability


@dataclass(frozen=True, eq=False)
class CleanClips:
    """Clips that were embedded and run once as they are, which fixes the target; shared by maps and measures.

    Args:
        model: a ViViT.
        pixels: (batch, frames, channels, height, width) on the model's device.
        tokens: (batch, token, d_model), their embedding.
        grid: their token grid.
        target: what is explained, its classes fixed on the clean clips.
        probability: the probability of the target's class, or None; see ``Readings``.
        clean: what was read off the clean clips, (batch,).
        numbers: the clips' numbers in their data set, from which each gets its own randomness.
        head_mask: (layers, batch or 1, heads, 1, 1), or None.
        interpolate_pos_encoding: whether clips of another size are taken; None is yes, and says so once.
    """

    model: VivitModel | VivitForVideoClassification
    pixels: Tensor
    tokens: Tensor
    grid: TokenGrid
    target: BoundTarget
    probability: BoundTarget | None
    clean: Readings
    numbers: tuple[int, ...]
    head_mask: Tensor | None = None
    interpolate_pos_encoding: bool | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    @classmethod
    def of(
        cls,
        model: VivitModel | VivitForVideoClassification,
        pixel_values: Tensor | Clip | Sequence[Clip],
        target: TargetLike = None,
        *,
        numbers: Sequence[int] | None = None,
        head_mask: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
    ) -> CleanClips:
        """Embed and run the clean clips.

        Args:
            model: a ViViT.
            pixel_values: (batch, frames, channels, height, width), or prepared clips.
            target: see ``bind_target``; None for the predicted class.
            numbers: (batch,) the clips' numbers in their data set; by default their places in the batch. Name them
                where a data set comes in batches, so that no two clips share their random order and none depends on
                how the set was cut.
            head_mask: as for the model's forward.
            interpolate_pos_encoding: whether clips of another size are taken; None is yes, and says so once.

        Raises:
            InputError: the clips, target, numbers or mask do not fit.
        """
        values = as_pixel_values(pixel_values).values
        pixels = (values.clone() if values.is_inference() else values.detach()).to(model.device)
        grid = model.grid_of(pixels, interpolate_pos_encoding)
        given = tuple(range(len(pixels)) if numbers is None else numbers)
        if len(given) != len(pixels) or min(given, default=0) < 0:
            raise InputError(f"numbers must be {len(pixels)} integers from 0, one a clip; got {list(given)}")
        heads, like = model.config.num_attention_heads, model.embed.position
        mask = expand_head_mask(head_mask, len(model.blocks), len(pixels), heads, like=like)
        with torch.no_grad():
            tokens = embed_clips(model, pixels, interpolate_pos_encoding=interpolate_pos_encoding)
            output = forward_tokens(model, tokens, mask, grid)
            bound = bind_target(target, output, model.config)
            if bound.num_clips != len(pixels):
                raise InputError(f"the target is bound to {bound.num_clips} clips, {len(pixels)} were given")
            probability = _probability(bound, output, model.config)
            clean = _read(bound, probability, output, torch.arange(len(pixels), device=tokens.device))
        return cls(model, pixels, tokens, grid, bound, probability, clean, given, mask, interpolate_pos_encoding)

    def read(
        self,
        keep: Bool[Tensor, "batch version tubelet"],
        baseline: str,
        *,
        blur_sigma: float = 0.1,
        batch_size: int = 8,
        bar: Any = None,
    ) -> Readings:
        """Read the target off versions of each clip in which only some tubelets are kept.

        Tubelets are whole cells of the embedding's convolution, so painting over a tubelet's pixels and then embedding
        gives the same token as taking the token of the painted clip. Clips and baselines are therefore embedded once,
        not once a version.

        Args:
            keep: (batch, version, t·h·w), True keeps.
            baseline: ``"blur"`` or ``"mean"`` (see ``baseline_clips``) paint over what is not kept; ``"drop"`` takes
                its tokens out of the sequence, so that versions of equal size run together.
            blur_sigma: see ``blurred_still``.
            batch_size: versions a forward pass.
            bar: a progress bar, moved on by the versions that are done.

        Returns:
            Readings (batch, version).

        Raises:
            InputError: an argument is wrong, or tokens of a factorised model are to be dropped.

        Cost: one pass through the blocks a version. Memory: ``batch_size`` clips' activations.
        """
        check_positive(batch_size=batch_size)
        check_removal(baseline, blur_sigma)
        if baseline == "drop":
            require_droppable(self.model.config)
        wanted = (len(self), self.grid.num_tubelets)
        fits = keep.ndim == 3 and (keep.shape[0], keep.shape[2]) == wanted and keep.shape[1] > 0
        if not fits or keep.dtype != torch.bool:
            raise InputError(
                f"keep must be boolean ({wanted[0]} clips, versions, {wanted[1]} tubelets), got {keep.dtype} "
                f"{tuple(keep.shape)}"
            )
        flat = keep.flatten(0, 1).to(self.tokens.device)
        order, parts = [], []
        with evaluating(self.model), torch.no_grad():
            blank = None
            if baseline != "drop":
                painted = baseline_clips(self.pixels, baseline, blur_sigma)
                blank = embed_clips(self.model, painted, interpolate_pos_encoding=self.interpolate_pos_encoding)
            for rows in _batches(flat, batch_size, equal=blank is None):
                clips = rows // keep.shape[1]
                parts.append(self._read_rows(flat.index_select(0, rows), clips, blank))
                order.append(rows.cpu())
                if bar is not None:
                    bar.update(len(rows))
        place = torch.cat(order).argsort()
        scores, probabilities = zip(*((part.score, part.probability) for part in parts), strict=True)
        shape = tuple(keep.shape[:2])
        score = torch.cat(scores)[place].reshape(shape)
        return Readings(score, torch.cat(probabilities)[place].reshape(shape) if self.probability else None)

    def _read_rows(self, keep: Tensor, clips: Tensor, blank: Tensor | None) -> Readings:
        tokens = self.tokens.index_select(0, clips)
        if blank is None:
            tokens = take_tokens(tokens, keep, self.grid.offset)
        else:
            tokens = torch.where(self._with_cls(keep).unsqueeze(-1), tokens, blank.index_select(0, clips))
        mask = self.head_mask
        if mask is not None and mask.shape[1] > 1:
            mask = mask.index_select(1, clips)
        return _read(self.target, self.probability, forward_tokens(self.model, tokens, mask, self.grid), clips)

    def _with_cls(self, keep: Tensor) -> Tensor:
        """Return (row, token) of (row, tubelet), True where a CLS stands: in front, or in front of each time."""
        if self.model.config.variant == "factorized_encoder":
            frames = keep.unflatten(1, (self.grid.t, -1))
            return torch.cat((frames.new_ones(*frames.shape[:2], 1), frames), dim=2).flatten(1)
        return torch.cat((keep.new_ones(len(keep), self.grid.offset), keep), dim=1)


def check_quantity(quantity: str) -> None:
    """Refuse what cannot be read off a model.

    Raises:
        InputError: it is none of ``QUANTITIES``.
    """
    if quantity not in QUANTITIES:
        raise InputError(f"quantity={quantity!r} is not known; choose one of {', '.join(QUANTITIES)}")


def _probability(target: BoundTarget, output: Any, config: VivitConfig) -> BoundTarget | None:
    """Return the probability of the target's class, or None where there is none."""
    if target.classes is None or config.problem_type == "regression":
        return None
    if config.num_labels == 1 and config.problem_type != "multi_label_classification":
        return None  # a softmax over one class is always 1
    return Probability(target.classes).bind(output, config)


def _read(target: BoundTarget, probability: BoundTarget | None, output: Any, clips: Tensor) -> Readings:
    values = None if probability is None else probability(output, clips).float().cpu()
    return Readings(target(output, clips).float().cpu(), values)


def _batches(keep: Tensor, batch_size: int, *, equal: bool) -> Iterator[Tensor]:
    """Yield the rows' indices in batches; where wanted, each of rows that keep equally many."""
    counts = keep.sum(dim=1) if equal else keep.new_zeros(len(keep), dtype=torch.int64)
    for count in counts.unique():
        yield from (counts == count).nonzero().squeeze(1).split(batch_size)


Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class MaskingMeasure(ABC, Generic[Result]):
    """Base of the measures that take tubelets away. A subclass says what it measures by ``measure``.

    Args:
        baseline: how tubelets are taken away: ``"blur"``, ``"mean"`` or ``"drop"``; see ``CleanClips.read``.
        blur_sigma: of the blur, as a fraction of the image's side.
        seed: of what is random.
    """

    baseline: str = "mean"
    blur_sigma: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_removal(self.baseline, self.blur_sigma)
        check_seed(self.seed)

    def __call__(
        self,
        model: VivitModel | VivitForVideoClassification,
        pixel_values: Tensor | Clip | Sequence[Clip],
        relevance: AttributionMap | Tensor,
        target: TargetLike = None,
        *,
        batch_size: int = 8,
        interpolate_pos_encoding: bool | None = None,
        progress: bool | None = None,
    ) -> Result:
        """Measure a map of some clips. For several maps of the same clips, share ``CleanClips`` and call ``measure``.

        Args:
            model: a ViViT.
            pixel_values: (batch, frames, channels, height, width), or prepared clips.
            relevance: the map, or its values (batch, t, h, w); signed values are ranked as they are.
            target: see ``bind_target``; None for the class predicted on the clean clip.
            batch_size: versions a forward pass.
            interpolate_pos_encoding: whether clips of another size are taken; None is yes, and says so once.
            progress: whether to show a bar; None shows it where standard error is a terminal.

        Raises:
            InputError: the clips, the target or the batch size do not fit.
            GridError: the map lies on another grid.
        """
        clips = CleanClips.of(model, pixel_values, target, interpolate_pos_encoding=interpolate_pos_encoding)
        return self.measure(clips, relevance, batch_size=batch_size, progress=progress)

    @abstractmethod
    def measure(
        self,
        clips: CleanClips,
        relevance: AttributionMap | Tensor,
        *,
        batch_size: int = 8,
        progress: bool | None = None,
    ) -> Result:
        """Measure a map of clips that were run clean; the arguments are those of a call."""


@dataclass(frozen=True, eq=False)
class SubsetFalls:
    """How far the target falls without random sets of tubelets. Knows no map, so one serves every map of its clips.

    Args:
        removed: (batch, size, subset, t·h·w) boolean, True where a tubelet was taken away.
        sizes: how many tubelets the sets of each size hold.
        clean: what was read off the clean clips, (batch,).
        read: what was read without the sets, (batch, size · subset).
        grid: the clips' token grid.
    """

    removed: Tensor
    sizes: tuple[int, ...]
    clean: Readings
    read: Readings
    grid: TokenGrid

    def __len__(self) -> int:
        return len(self.removed)

    def falls(self, quantity: str) -> Float64[Tensor, "batch size subset"]:
        """Return clean less read; the arguments and errors are those of ``Readings.of``."""
        falls = self.clean.of(quantity).unsqueeze(1) - self.read.of(quantity)
        return falls.double().reshape(self.removed.shape[:3])

    def sums(self, relevance: AttributionMap | Tensor) -> Float64[Tensor, "batch size subset"]:
        """Return the sum of a map over each set.

        Raises:
            InputError: the map has another number of clips, or values that are not finite.
            GridError: it lies on another grid.
        """
        values = tubelet_relevance(relevance, len(self), self.grid).flatten(1)
        return torch.einsum("bksn,bn->bks", self.removed.double(), values)


@dataclass(frozen=True, kw_only=True)
class SubsetMeasure(MaskingMeasure[Result]):
    """Base of the measures that compare a map's sums over random sets with the falls of the target.

    Args:
        sizes: how many tubelets a set holds, as fractions of all, each in (0, 1); rounded to whole tubelets, at least
            one and not all.
        subsets: how many sets of each size; at least 2.
        quantity: which value falls; see ``Readings.of``.
        baseline: see ``MaskingMeasure``; likewise blur_sigma and seed.
    """

    sizes: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4)
    subsets: int = 50
    quantity: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_quantity(self.quantity)
        check_whole("subsets", self.subsets, 2)  # there is nothing to compare with one
        if not isinstance(self.sizes, Sequence) or not self.sizes or not all(0 < size < 1 for size in self.sizes):
            raise InputError(f"sizes must be fractions of the tubelets, each in (0, 1); got {self.sizes!r}")
        object.__setattr__(self, "sizes", tuple(self.sizes))

    def sample(self, clips: CleanClips, *, batch_size: int = 8, progress: bool | None = None) -> SubsetFalls:
        """Take the random sets away and read the target: all that costs forward passes, and for all maps alike.

        Args:
            clips: clips that were run clean.
            batch_size: versions a forward pass.
            progress: whether to show a bar; None shows it where standard error is a terminal.
        """
        units = clips.grid.num_tubelets
        counts = tuple(min(max(round(size * units), 1), max(units - 1, 1)) for size in self.sizes)
        removed = random_subsets(counts, self.subsets, units, self.seed, clips.numbers)
        keep = ~removed.flatten(1, 2)
        with progress_bar(None, progress, type(self).__name__, "version", keep.shape[0] * keep.shape[1]) as bar:
            read = clips.read(keep, self.baseline, blur_sigma=self.blur_sigma, batch_size=batch_size, bar=bar)
        return SubsetFalls(removed, counts, clips.clean, read, clips.grid)

    def measure(
        self,
        clips: CleanClips,
        relevance: AttributionMap | Tensor,
        *,
        batch_size: int = 8,
        progress: bool | None = None,
    ) -> Result:
        """See ``MaskingMeasure.measure``. For several maps call ``sample`` once and ``compare`` for each."""
        return self.compare(self.sample(clips, batch_size=batch_size, progress=progress), relevance)

    @abstractmethod
    def compare(self, falls: SubsetFalls, relevance: AttributionMap | Tensor) -> Result:
        """Return what the measure says of a map, given the falls.

        Args:
            falls: from ``sample``, of this measure or another.
            relevance: the map of the same clips, or its values (batch, t, h, w).
        """


def random_subsets(counts: Sequence[int], subsets: int, units: int, seed: int, numbers: Sequence[int]) -> Tensor:
    """Return random sets, boolean (clip, size, subset, unit), drawn from the seed and each clip's number.

    Args:
        counts: how many units the sets of each size hold.
        subsets: how many sets of each size.
        units: how many units there are.
        seed: of the draws.
        numbers: of the clips; see ``clip_generator``.
    """
    drawn = []
    for number in numbers:
        generator = clip_generator(seed, number)
        places = [generator.random((subsets, units)).argsort(axis=1).argsort(axis=1) < count for count in counts]
        drawn.append(torch.from_numpy(np.stack(places)))
    return torch.stack(drawn)
