"""What the measures share: clips run once clean, and what the target becomes when tubelets are taken away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from vivit_lab.attribution.forwards import check_positive
from vivit_lab.errors import InputError
from vivit_lab.faithfulness.baselines import baseline_clips, check_removal
from vivit_lab.faithfulness.dropping import embed_clips, forward_tokens, require_droppable, take_tokens
from vivit_lab.grid import TokenGrid
from vivit_lab.hooks.inputs import as_pixel_values
from vivit_lab.hooks.recorder import evaluating
from vivit_lab.hooks.targets import BoundTarget, Probability, TargetLike, bind_target
from vivit_lab.model.classifier import VivitForVideoClassification, VivitModel
from vivit_lab.model.config import VivitConfig
from vivit_lab.model.encoder import expand_head_mask
from vivit_lab.video.clip import Clip

__all__ = ["QUANTITIES", "CleanClips", "Readings", "check_quantity"]

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
