"""Pairs of a clean and a corrupt clip, with the target fixed on the clean ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from vivit_lab.errors import InputError
from vivit_lab.grid import TokenGrid
from vivit_lab.hooks.inputs import as_pixel_values
from vivit_lab.hooks.precision import warn_of_differences
from vivit_lab.hooks.recorder import record_provenance
from vivit_lab.hooks.targets import BoundTarget, TargetLike, bind_target
from vivit_lab.hooks.values import without_graph
from vivit_lab.interventions.base import slices_of
from vivit_lab.interventions.patching_result import PatchingResult
from vivit_lab.interventions.runs import quiet
from vivit_lab.video.clip import Clip

__all__ = ["Pairs", "bound_scores", "plain_parameters"]

_PLAIN_FORWARD = {"output_attentions": False, "output_hidden_states": False}


@dataclass(frozen=True, eq=False)
class Pairs:
    """Clean and corrupt clips, and what the target says of both.

    Args:
        model: a ViViT.
        clean: (pair, frames, channels, height, width).
        corrupt: the same.
        grid: their token grid.
        target: bound to the clean clips.
        clean_scores: (pair,) float32.
        corrupt_scores: (pair,) float32.
        forward: further arguments of the model's forward.
    """

    model: Any
    clean: Tensor
    corrupt: Tensor
    grid: TokenGrid
    target: BoundTarget
    clean_scores: Tensor
    corrupt_scores: Tensor
    forward: dict[str, Any]

    @classmethod
    def of(
        cls,
        model: Any,
        clean: Tensor | Clip | Sequence[Clip],
        corrupt: Tensor | Clip | Sequence[Clip],
        target: TargetLike,
        *,
        batch_size: int,
        interpolate_pos_encoding: bool | None,
    ) -> Pairs:
        """Run both sides once.

        Raises:
            InputError: the two are not as many clips of one size, the target does not fit the model, or it is the same
                for every clean clip and its corrupt one, so that there is nothing to restore or to lose.
        """
        one, other = (as_pixel_values(clips).values for clips in (clean, corrupt))
        if one.shape != other.shape:
            raise InputError(
                f"wanted a corrupt clip for each clean one, of its size; got {tuple(one.shape)} and "
                f"{tuple(other.shape)}"
            )
        forward = {**_PLAIN_FORWARD, "interpolate_pos_encoding": interpolate_pos_encoding}
        grid = model.grid_of(one, interpolate_pos_encoding)
        bound, clean_scores = bound_scores(model, one, target, batch_size=batch_size, forward=forward)
        corrupt_scores = bound_scores(model, other, bound, batch_size=batch_size, forward=forward)[1]
        gap, size = (clean_scores - corrupt_scores).abs(), clean_scores.abs() + corrupt_scores.abs()
        if bool((gap <= 1e-6 * size).all()):
            raise InputError(
                f"the target ({bound.name}) is the same for every clean clip and its corrupt one: there is nothing to "
                "patch between them"
            )
        return cls(model, one, other, grid, bound, clean_scores, corrupt_scores, forward)

    def __len__(self) -> int:
        return len(self.clean)

    def sides(self, direction: str) -> tuple[Tensor, Tensor, Tensor]:
        """Return the pixels that are patched into, those that are patched from, and the scores of the former."""
        if direction == "denoising":
            return self.corrupt, self.clean, self.corrupt_scores
        return self.clean, self.corrupt, self.clean_scores

    def score(self, output: Any, rows: slice) -> Tensor:
        """Return the target's scores of some clips, float32."""
        return self.target(output, range(rows.start, rows.stop)).float()

    def result(
        self, method: Any, effect: Tensor, dims: tuple[str, ...], labels: dict[str, list[str]], direction: str
    ) -> PatchingResult:
        """Return effects (pair, *dims) as a result."""
        scores = self.clean_scores.abs().maximum(self.corrupt_scores.abs())
        warn_of_differences(self.model, type(method).__name__, effect, scores)
        base = "corrupt" if direction == "denoising" else "clean"
        return PatchingResult(
            effect,
            dims,
            labels,
            what=f"patched − {base}, {self.target.unit}",
            method=type(method).__name__,
            parameters=plain_parameters(method),
            targets=self.target.names,
            model_id=self.model.name_or_path or type(self.model).__name__,
            provenance=record_provenance(self.model, self.model.dtype),
            clean=self.clean_scores,
            corrupt=self.corrupt_scores,
            direction=direction,
            seed=getattr(method, "seed", 0),
        )


def bound_scores(
    model: Any, pixels: Tensor, target: TargetLike, *, batch_size: int, forward: dict[str, Any]
) -> tuple[BoundTarget, Tensor]:
    """Run clips in batches; return the target bound to them (or as it was bound), and their scores (clip,) float32.

    Raises:
        InputError: the target does not fit the model.
    """
    with quiet(model):
        outputs = [
            without_graph(model(pixels[rows].to(model.device), **forward))
            for rows in slices_of(len(pixels), batch_size)
        ]
    first = outputs[0]
    whole = first.like({name: torch.cat([output[name] for output in outputs]) for name in first})
    bound = bind_target(target, whole, model.config)
    return bound, bound(whole).detach().float()


def plain_parameters(method: Any) -> dict[str, Any]:
    """Return the fields of a method as JSON-able values; what has no such form is written as text."""
    return {entry.name: _plain(getattr(method, entry.name)) for entry in fields(method)}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return repr(value)
