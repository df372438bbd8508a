"""Importance from gradients: one forward and one backward pass a clip, whatever the number of heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from vivit_lab.errors import InputError
from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
from vivit_lab.heads.clips import clip_set
from vivit_lab.heads.importance import (
    LOSS,
    HeadImportance,
    bind_measure,
    made_importance,
    mask_gradients,
    without_pruned,
)
from vivit_lab.numbers import checked_numbers
from vivit_lab.records.gradients import record_gradients

__all__ = ["FisherImportance", "GradientActivation", "MichelImportance"]


@checked_numbers(batch_size=(1, None))
@dataclass(frozen=True)
class MichelImportance:
    """Expected size of the loss's derivative by a head's mask (Michel, Levy & Neubig, NeurIPS 2019).

    I_h = E_x |∂L(x)/∂ξ_h| = E_x |⟨O_h, ∂L/∂O_h⟩| (https://arxiv.org/abs/1905.10650, eq. 2 and below): the absolute
    value is taken of each clip's number, after the sum over tokens. (Their code takes it token by token, see
    ``GradientActivation``; transformers' ``run_bertology`` takes it of a whole batch's sum, which depends on the batch
    size.) To first order it is how much removing the head changes the loss.

    Args:
        target: ``"loss"``, the cross entropy of each clip's label (of the predicted class where labels are not known);
            or a class, a ``Target`` or a function of the output, see ``bind_target``.
        layer_norm: divide each layer's values by their L2 norm, as the paper does to rank across layers.
        batch_size: clips in a pass; changes nothing but time and memory.

    Cost: a forward and a backward pass a clip; no pattern is formed.

    Example:
        >>> importance = MichelImportance()(model, (pixel_values, labels))
        >>> importance.ranking()[:3]
    """

    target: Any = LOSS
    layer_norm: bool = False
    batch_size: int = 8

    def __call__(
        self, model: VivitModel | VivitForVideoClassification, data: Any, *, progress: bool | None = None
    ) -> HeadImportance:
        """Score all heads of a model.

        Args:
            model: a ViViT.
            data: clips; see ``clip_set``.
            progress: whether to show a bar; None shows it on a terminal.

        Raises:
            InputError: the clips or the target do not fit the model.
        """
        rows, named, unit = mask_gradients(
            model, data, self.target, batch_size=self.batch_size, progress=progress, name="Michel importance"
        )
        return made_importance(self, model, rows.abs(), unit=f"|∂({unit})/∂(head mask)|", target=named)


@checked_numbers(batch_size=(1, None))
@dataclass(frozen=True)
class FisherImportance:
    """The empirical Fisher information of a head's mask, E_x[(∂L(x)/∂ξ_h)²].

    The diagonal second-order estimate of what removing a head costs (Kwon et al., NeurIPS 2022,
    https://arxiv.org/abs/2204.09656, eq. 7). Beside ``MichelImportance`` it weighs clips with large derivatives more.

    Args:
        target: as for ``MichelImportance``.
        layer_norm: as for ``MichelImportance``.
        batch_size: as for ``MichelImportance``.

    Cost: a forward and a backward pass a clip.
    """

    target: Any = LOSS
    layer_norm: bool = False
    batch_size: int = 8

    def __call__(
        self, model: VivitModel | VivitForVideoClassification, data: Any, *, progress: bool | None = None
    ) -> HeadImportance:
        """Score all heads of a model; see ``MichelImportance.__call__``."""
        rows, named, unit = mask_gradients(
            model, data, self.target, batch_size=self.batch_size, progress=progress, name="Fisher importance"
        )
        return made_importance(self, model, rows.square(), unit=f"(∂({unit})/∂(head mask))²", target=named)


@checked_numbers(batch_size=(1, None))
@dataclass(frozen=True)
class GradientActivation:
    """Gradient × activation of a head's context, token by token.

    With s_i = ⟨O_h,i, ∂y/∂O_h,i⟩ of token i: ``"size"`` is E_x Σ_i |s_i|, what the code of Michel et al. 2019 computes,
    where tokens that pull in opposite directions do not cancel; ``"signed"`` is E_x Σ_i s_i, to first order how much
    the target would lose without the head (attribution patching to zero), and its effects can be tested.

    Args:
        target: as for ``MichelImportance``; the loss by default. For ``"signed"`` the number is turned so that above 0
            the head helps.
        reduction: ``"size"`` or ``"signed"``.
        layer_norm: as for ``MichelImportance``.
        batch_size: as for ``MichelImportance``.

    Raises:
        InputError: the reduction is not known.

    Cost: a forward and a backward pass a clip, and 4·tokens·d_model numbers a layer and clip.
    """

    target: Any = LOSS
    reduction: str = "size"
    layer_norm: bool = False
    batch_size: int = 4

    def __post_init__(self) -> None:
        if self.reduction not in ("size", "signed"):
            raise InputError(f"reduction={self.reduction!r} is not known; choose 'size' or 'signed'")

    def __call__(
        self, model: VivitModel | VivitForVideoClassification, data: Any, *, progress: bool | None = None
    ) -> HeadImportance:
        """Score all heads of a model; see ``MichelImportance.__call__``."""
        clips, rows, seen = clip_set(data), [], []
        layers = range(len(model.blocks))
        for batch in clips.batches(self.batch_size, progress, "gradient × activation"):

            def score(output: Any, batch: Any = batch) -> Any:
                measured = bind_measure(self.target, output, batch, model)
                seen.append(measured)
                return measured.bound(output)

            record = record_gradients(model, batch.pixel_values, score)
            # (clip, head, token) each; the layers of a factorised encoder have different tokens
            products = [record.centres[layer] for layer in layers]
            helps = -seen[-1].worse
            parts = [part.abs() if self.reduction == "size" else helps * part for part in products]
            rows.append(torch.stack([part.sum(dim=-1) for part in parts], dim=1).cpu())
        signed = self.reduction == "signed"
        product = f"⟨context, ∂({seen[-1].bound.unit})/∂(context)⟩"
        return made_importance(
            self,
            model,
            without_pruned(torch.cat(rows), model),
            unit=f"Σ over tokens of {product}, above 0 the head helps" if signed else f"Σ over tokens of |{product}|",
            target=seen[-1].name,
            signed=signed,
        )
