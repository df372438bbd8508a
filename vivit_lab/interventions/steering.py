"""Adding a direction to the residual stream, or to any other hook point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vivit_lab.errors import InputError
from vivit_lab.grid import TokenGrid
from vivit_lab.interventions.base import Intervention, check_batch_size, read_points
from vivit_lab.interventions.points import Point, TokensLike, chosen_points, grid_or_own, token_mask, tokens_text
from vivit_lab.numbers import checked_numbers
from vivit_lab.records.inputs import as_pixel_values
from vivit_lab.video.clip import Clip

__all__ = ["SteeringVector", "steer", "steering_vector"]


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """A direction at a hook point.

    Args:
        vector: what is added, the shape of one token there: (d_model,), or (head, d_head) at q, k, v and z; with
            a token axis before it where it was taken token by token.
        point: the hook's name.
        clips: how many clips it is the difference of, (positive, negative).
        tokens: at which tokens it was read, in words.
    """

    vector: Tensor
    point: str
    clips: tuple[int, int] = (0, 0)
    tokens: str = "all tokens"

    @property
    def norm(self) -> float:
        """Its Euclidean length."""
        return float(self.vector.float().norm())

    @property
    def unit(self) -> SteeringVector:
        """The same direction with length 1.

        Raises:
            InputError: it has no length.
        """
        if not self.norm > 0:
            raise InputError("a steering vector of length 0 has no direction: the two sets of clips do not differ here")
        return replace(self, vector=self.vector / self.norm)

    def __mul__(self, factor: float) -> SteeringVector:
        return replace(self, vector=self.vector * factor)

    __rmul__ = __mul__

    def __neg__(self) -> SteeringVector:
        return self * -1.0

    def __repr__(self) -> str:
        shape, (positive, negative) = "×".join(map(str, self.vector.shape)), self.clips
        return (
            f"SteeringVector({self.point}, {shape}, length {self.norm:.3g}, {positive} clips less {negative}, "
            f"read at {self.tokens})"
        )


@checked_numbers(batch_size=(1, None))
def steering_vector(
    model: Any,
    positive: Tensor | Clip | Sequence[Clip],
    negative: Tensor | Clip | Sequence[Clip],
    point: str,
    *,
    tokens: TokensLike = None,
    per_token: bool = False,
    batch_size: int = 8,
    grid: TokenGrid | None = None,
) -> SteeringVector:
    """Return the mean activation of one set of clips less that of another (Turner et al. 2023; Rimsky et al. 2024).

    Args:
        model: a ViViT.
        positive: clips that have what is steered towards, pixel values or prepared clips.
        negative: clips that do not.
        point: the hook's name, such as ``"blocks.3.hook_resid_post"``.
        tokens: at which tokens it is read, see ``ablate``; the mean is over them and the clips.
        per_token: keep each token's own difference instead; tokens that are not read have none, 0.
        batch_size: clips in one pass.
        grid: see ``ablate``.

    Raises:
        InputError: there is no such hook, or it has no token that a vector could be added to.
        GridError: the tokens do not fit the grid.
    """
    place = _steerable(model, point)
    check_batch_size(batch_size)
    own = grid_or_own(model, grid, positive)
    mask = token_mask(tokens, own)
    means, counts = [], []
    for clips in (positive, negative):
        pixels = as_pixel_values(clips).values
        total: Tensor | None = None
        options = {"batch_size": batch_size, "interpolate_pos_encoding": None}
        for _, kept, _ in read_points(model, pixels, [point], **options):
            own.check(kept[point].shape[1])
            part = kept[point].float().sum(dim=0)
            total = part if total is None else total + part
        assert total is not None, "a batch of no clips is refused by the model"
        means.append(total / len(pixels))
        counts.append(len(pixels))
    inside = mask.to(means[0].device)
    difference = means[0] - means[1]
    vector = (
        difference * inside.reshape(-1, *[1] * (difference.ndim - 1)) if per_token else difference[inside].mean(dim=0)
    )
    return SteeringVector(vector, place.name, (counts[0], counts[1]), tokens_text(tokens))


@checked_numbers()
def steer(
    model: Any,
    vector: SteeringVector | Tensor,
    coefficient: float = 1.0,
    *,
    point: str | None = None,
    tokens: TokensLike = None,
    grid: TokenGrid | None = None,
) -> Intervention:
    """Add a direction where it was read, or at another hook.

    Args:
        model: a ViViT.
        vector: a ``SteeringVector``, or a tensor of the shape of one token (or of all tokens) at ``point``.
        coefficient: how much of it; 1 adds the whole difference, a negative one steers away.
        point: the hook's name; by default that of the ``SteeringVector``.
        tokens: to which tokens, see ``ablate``.
        grid: see ``ablate``.

    Returns:
        The intervention: ``with steer(…): model(x)``, or ``steer(…)(x)``.

    Raises:
        InputError: no hook was named, there is none of that name, or the vector does not fit it.
        GridError: the tokens do not fit the grid.
    """
    given = vector.vector if isinstance(vector, SteeringVector) else vector
    name = vector.point if point is None and isinstance(vector, SteeringVector) else point
    if name is None:
        raise InputError("steer wants to know where: pass point='blocks.3.hook_resid_post' or a SteeringVector")
    place = _steerable(model, name)
    mask = None if tokens is None else token_mask(tokens, grid_or_own(model, grid))

    def add(tensor: Tensor, hook: Any) -> Tensor:
        one, all_tokens = tuple(tensor.shape[2:]), tuple(tensor.shape[1:])
        if tuple(given.shape) not in (one, all_tokens):
            raise InputError(f"a vector at {name} must be {one} or {all_tokens}, got {tuple(given.shape)}")
        delta = (coefficient * given).to(device=tensor.device, dtype=tensor.dtype)
        return torch.where(place.where(tensor, mask), tensor + delta, tensor)

    return Intervention(model, [(name, add)], f"{coefficient:g} × a vector at {name}, added to {tokens_text(tokens)}")


def _steerable(model: Any, name: str) -> Point:
    (point,) = chosen_points(model, points=[name])
    if point.token_axis != 1 or point.part == "scale":
        raise InputError(f"{name} holds no vector a token; steer the residual stream, an output, q, k, v or z")
    return point
