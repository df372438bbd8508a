"""What the methods share that only call the model: many versions of each clip, in batches, about one fixed target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.attribution.reading import parameters_of
from vivit_lab.errors import InputError
from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel, expand_head_mask
from vivit_lab.grid import TokenGrid
from vivit_lab.model.outputs import VideoClassifierOutput
from vivit_lab.numbers import check_whole, is_number
from vivit_lab.records.attention import evaluating, full_precision, record_provenance
from vivit_lab.records.inputs import Pixels, as_pixel_values, half_dtype
from vivit_lab.records.targets import BoundTarget, ClassLogit, TargetLike, bind_target
from vivit_lab.records.values import frozen
from vivit_lab.video.clip import Clip

__all__ = ["Problem", "baseline_pixels", "check_baseline", "check_positive", "tubelet_sum"]

_BASELINES = ("mean",)


@dataclass(frozen=True, eq=False)
class Problem:
    """A model, some clips and the target that is explained, fixed on the clean clips.

    Args:
        model: a ViViT.
        given: the clips and where they came from.
        pixels: (batch, frames, channels, height, width) on the model's device.
        grid: their token grid.
        target: what is explained.
        scores: (batch,) float32, the target's value for the clean clips.
        head_mask: (layers, batch or 1, heads, 1, 1), or None.
        interpolate_pos_encoding: whether clips of another size are taken; None is yes, and says so once.
    """

    model: VivitModel | VivitForVideoClassification
    given: Pixels
    pixels: Tensor
    grid: TokenGrid
    target: BoundTarget
    scores: Tensor
    head_mask: Tensor | None
    interpolate_pos_encoding: bool | None

    @classmethod
    def of(
        cls,
        model: VivitModel | VivitForVideoClassification,
        pixel_values: Tensor | Clip | Sequence[Clip],
        target: TargetLike,
        *,
        head_mask: Tensor | None,
        interpolate_pos_encoding: bool | None,
        default: type[Any] = ClassLogit,
    ) -> Problem:
        """Run the clean clips once, which fixes the target.

        Args:
            model: a ViViT.
            pixel_values: the clips.
            target: see ``bind_target``.
            head_mask: as for the model's forward.
            interpolate_pos_encoding: whether clips of another size are taken; None is yes, and says so once.
            default: what a bare class means.

        Raises:
            InputError: the clips, mask or target do not fit the model.
        """
        given = as_pixel_values(pixel_values)
        values = given.values.clone() if given.values.is_inference() else given.values.detach()
        pixels = values.to(model.device)
        grid = model.grid_of(pixels, interpolate_pos_encoding)
        heads, like = model.config.num_attention_heads, model.embed.position
        mask = expand_head_mask(head_mask, len(model.blocks), len(pixels), heads, like=like)
        with evaluating(model), torch.no_grad():
            output = _forward(model, pixels, mask, interpolate_pos_encoding)
            bound = bind_target(target, output, model.config, default)
            scores = bound(output).float()
        return cls(model, given, pixels, grid, bound, scores, mask, interpolate_pos_encoding)

    def values(self, versions: Float[Tensor, "row frame channel height width"], clip: int) -> Float[Tensor, " row"]:
        """Return the target's value, float32, for versions of one of the clips."""
        with evaluating(self.model), torch.no_grad():
            return self._scores(versions, [clip] * len(versions)).float()

    def gradients(
        self, versions: Float[Tensor, "row frame channel height width"], clips: Sequence[int]
    ) -> Float[Tensor, "row frame channel height width"]:
        """Return the gradient of each version's value with respect to its pixels, float32.

        Args:
            versions: pixels.
            clips: which clip each is a version of.

        Raises:
            InputError: the target does not depend on the pixels by a function with a gradient.
        """
        with evaluating(self.model), frozen(self.model), torch.inference_mode(False), torch.enable_grad():
            pixels = versions.clone().requires_grad_()
            scores = self._scores(pixels, clips)
            if not scores.requires_grad:
                raise InputError(
                    f"the target, {self.target.name}, does not depend on the output by a function with a gradient"
                )
            return torch.autograd.grad(scores.float().sum(), pixels)[0].float()

    def _scores(self, versions: Tensor, clips: Sequence[int]) -> Tensor:
        mask = self.head_mask
        if mask is not None and mask.shape[1] > 1:
            mask = mask.index_select(1, torch.tensor(list(clips), device=mask.device))
        return self.target(_forward(self.model, versions, mask, self.interpolate_pos_encoding), clips)

    def over_clips(self, explain: Callable[[Tensor, int], Tensor]) -> Tensor:
        """Return (batch, …), what a function of (pixels (frame, channel, height, width), clip index) gives for each."""
        return torch.stack([explain(clip, index) for index, clip in enumerate(self.pixels.unbind())])

    def map(self, relevance: Tensor, method: Any, scale: str, *, signed: bool) -> AttributionMap:
        """Return the map of a relevance (batch, t, h, w)."""
        return AttributionMap(
            relevance,
            self.grid,
            method=type(method).__name__,
            parameters=parameters_of(method),
            scale=scale,
            signed=signed,
            targets=self.target.names,
            model_id=self.model.name_or_path or type(self.model).__name__,
            frame_indices=self.given.frame_indices,
            sources=self.given.sources,
            provenance=record_provenance(self.model, self.model.dtype),
        )


def _forward(model: Any, pixels: Tensor, mask: Tensor | None, interpolate: bool | None) -> Any:
    """Return the output without patterns or states, whatever the checkpoint's configuration asks for."""
    encoded = model.encode(pixels, mask, False, False, interpolate)
    if half_dtype(model) is None or not isinstance(model, VivitForVideoClassification):
        return model.outputs_of(encoded)
    # The last product in float32: methods subtract nearly equal logits, and rounding those to half precision was the
    # largest part of the error of their differences in float16.
    with full_precision(model.device):
        logits = deepcopy(model.classifier).float()(model.summary_of(encoded).float())
    return VideoClassifierOutput(None, logits, encoded.hidden_states, encoded.attentions)


def tubelet_sum(
    values: Float[Tensor, "*row frame channel height width"], grid: TokenGrid
) -> Float[Tensor, "*row t h w"]:
    """Return the sum over each tubelet's pixels and channels."""
    frames, rows, columns = grid.tubelet
    pattern = "... (t f) c (h r) (w k) -> ... t h w"
    return reduce(values, pattern, "sum", f=frames, r=rows, k=columns)


def check_positive(**sizes: int) -> None:
    """Refuse counts that are not positive integers.

    Raises:
        InputError: one is not; names it.
    """
    for name, size in sizes.items():
        check_whole(name, size)


def check_baseline(baseline: float | str) -> None:
    """Refuse a baseline that is neither a number nor a known name.

    Raises:
        InputError: it is not.
    """
    if not is_number(baseline) and baseline not in _BASELINES:
        raise InputError(f"baseline={baseline!r} is not known; give a number (a pixel value) or 'mean'")


def baseline_pixels(
    pixels: Float[Tensor, "*row frame channel height width"], baseline: float | str
) -> Float[Tensor, "*row frame channel height width"]:
    """Return pixels without information.

    Args:
        pixels: normalised pixels.
        baseline: one pixel value everywhere, or ``"mean"`` for the mean colour of each clip.
    """
    if isinstance(baseline, str):
        return pixels.mean(dim=(-4, -2, -1), keepdim=True).expand_as(pixels)
    return torch.full_like(pixels, baseline)
