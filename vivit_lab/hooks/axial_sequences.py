"""The states of a factorised encoder, whose layers read different tokens, and how they lie on the token grid.

States are the temporal CLS (where there are temporal layers), then for each time a CLS and the tubelets.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float32
from torch import Tensor

from vivit_lab.hooks.sequences import Sequences
from vivit_lab.model.variants import AttentionLayout

__all__ = ["FrameSequences"]


class FrameSequences(Sequences):
    """The answers of ``Sequences`` for factorised models; those without CLS have the tokens of the grid as states."""

    layouts: dict[int, AttentionLayout]

    @property
    def has_frames(self) -> bool:
        """Whether each time is a sequence with a CLS of its own: a factorised encoder."""
        return self.grid.cls

    @property
    def _above(self) -> int:
        """How many states stand before those of the times: the temporal CLS, if any."""
        return int(self.has_frames and any(layout.axis == "joint" for layout in self.layouts.values()))

    def _is_temporal(self, layer: int) -> bool:
        return self.layouts[layer % len(self.layouts)].axis == "joint"

    @property
    def num_states(self) -> int:
        """Places of the residual stream, over all layers."""
        return self._above + self.grid.t * (int(self.has_frames) + self.grid.h * self.grid.w)

    def layer_states(self, layer: int) -> Tensor | None:
        """Return which states make up a layer's sequence, in its order; None where all do, in order."""
        if not self._above:
            return None
        if not self._is_temporal(layer):
            return torch.arange(1, self.num_states, device=self.device)
        frames = torch.arange(self.grid.t, device=self.device) * (1 + self.grid.h * self.grid.w) + 1
        return torch.cat((frames.new_zeros(1), frames))

    def start_weights(self, tokens: Sequence[int]) -> Float32[Tensor, "batch state"]:
        """Return weights that average over some tokens of the grid; CLS is the one that the classifier reads."""
        weights = super().start_weights(tokens)
        if not self.has_frames:
            return weights
        if not self._above:
            return self._on_frames(weights)
        tubelets = self._framed(weights).flatten(1)
        return torch.cat((weights.narrow(1, 0, 1), tubelets), dim=1)

    def _framed(self, weights: Tensor) -> Tensor:
        """Return (batch, t, 1 + h·w) of weights on the grid's tokens, with 0 for the CLS of each time."""
        frames = weights.narrow(1, 1, self.grid.num_tubelets).unflatten(1, (self.grid.t, -1))
        return torch.cat((frames.new_zeros(*frames.shape[:2], 1), frames), dim=2)

    def _on_frames(self, weights: Tensor) -> Tensor:
        """Return (batch, t·(1 + h·w)) of weights on the grid's tokens, CLS spread over the CLS of all times."""
        frames = self._framed(weights)
        frames.select(2, 0).add_(weights.narrow(1, 0, 1) / self.grid.t)
        return frames.flatten(1)

    def on_grid(self, weights: Float32[Tensor, "batch state"]) -> Float32[Tensor, "batch token"]:
        """Return weights on states as weights on the tokens of the grid: every CLS counts as CLS."""
        if not self.has_frames:
            return weights
        above = weights.narrow(1, 0, self._above).sum(dim=1, keepdim=True)
        frames = weights.narrow(1, self._above, weights.shape[1] - self._above).unflatten(1, (self.grid.t, -1))
        cls = above + frames.select(2, 0).sum(dim=1, keepdim=True)
        return torch.cat((cls, frames.narrow(2, 1, frames.shape[2] - 1).flatten(1)), dim=1)

    def query_weights(self, layer: int, tokens: Sequence[int]) -> Float32[Tensor, "batch position"]:
        """Return weights on a layer's own sequence that average over what stands there for some tokens of the grid.

        For CLS that is the temporal CLS, or in a spatial layer the mean over the CLS of all times; for a tubelet in a
        temporal layer it is its time's token.
        """
        weights = super().start_weights(tokens)
        if not self.has_frames:
            return weights
        if not self._is_temporal(layer):
            return self._on_frames(weights)
        return torch.cat((weights.narrow(1, 0, 1), self._framed(weights).sum(dim=2)), dim=1)

    def keys_on_grid(self, layer: int, weights: Float32[Tensor, "*row position"]) -> Float32[Tensor, "*row token"]:
        """Return weights on a layer's sequence as weights on the grid; a time's token is spread over its tubelets."""
        if not self.has_frames:
            return weights
        if self._is_temporal(layer):
            places = self.grid.h * self.grid.w
            spread = weights.narrow(-1, 1, self.grid.t).repeat_interleave(places, dim=-1) / places
            return torch.cat((weights.narrow(-1, 0, 1), spread), dim=-1)
        frames = weights.unflatten(-1, (self.grid.t, -1))
        cls = frames.select(-1, 0).sum(dim=-1, keepdim=True)
        return torch.cat((cls, frames.narrow(-1, 1, frames.shape[-1] - 1).flatten(-2)), dim=-1)
