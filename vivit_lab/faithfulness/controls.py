"""Maps that know nothing of the model. A method is worth something where it beats them."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import reduce
from torch import Tensor

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.attribution.reading import parameters_of, refuse_target
from vivit_lab.errors import InputError
from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
from vivit_lab.grid import TokenGrid
from vivit_lab.numbers import checked_numbers
from vivit_lab.records.attention import record_provenance
from vivit_lab.records.inputs import Pixels, as_pixel_values
from vivit_lab.records.targets import TargetLike
from vivit_lab.video.clip import Clip

__all__ = ["CONTROLS", "CentreGaussian", "FrameDifference", "RandomMap"]


class _Control(ABC):
    """Base of the controls: the call of a method, without a forward pass. A subclass gives ``_relevance``."""

    class_agnostic: ClassVar[bool] = True
    _scale: ClassVar[str]

    def __call__(
        self,
        model: VivitModel | VivitForVideoClassification,
        pixel_values: Tensor | Clip | Sequence[Clip],
        target: TargetLike = None,
        *,
        interpolate_pos_encoding: bool | None = None,
    ) -> AttributionMap:
        """Return the control's map of a batch of clips.

        Args:
            model: a ViViT, which only gives the token grid.
            pixel_values: (batch, frames, channels, height, width), or prepared clips.
            target: must be None: a control is class-agnostic.
            interpolate_pos_encoding: whether clips of another size are taken; None is yes, and says so once.

        Raises:
            InputError: a target was given, or the clips do not fit the model.
            GridError: frames or pixels are no whole number of tubelets.
        """
        refuse_target(self, target)
        given = as_pixel_values(pixel_values)
        pixels = given.values.detach().to(model.device)
        grid = model.grid_of(pixels, interpolate_pos_encoding)
        return self._map(model, given, self._relevance(pixels.float(), grid), grid)

    @abstractmethod
    def _relevance(self, pixels: Tensor, grid: TokenGrid) -> Tensor:
        """Return (batch, t, h, w), nonnegative."""

    def _map(
        self, model: VivitModel | VivitForVideoClassification, given: Pixels, relevance: Tensor, grid: TokenGrid
    ) -> AttributionMap:
        return AttributionMap(
            relevance,
            grid,
            method=type(self).__name__,
            parameters=parameters_of(self),
            scale=self._scale,
            model_id=model.name_or_path or type(model).__name__,
            frame_indices=given.frame_indices,
            sources=given.sources,
            provenance=record_provenance(model, model.dtype),
        )


@checked_numbers()
@dataclass(frozen=True)
class RandomMap(_Control):
    """Relevance drawn at random for every tubelet, uniform in [0, 1).

    The draw depends on the seed and on the clip's own pixels. So each clip has another map, independent of the others,
    and the same one in whatever batch it comes.

    Args:
        seed: of the draws; another one gives independent maps.

    Cost: no forward pass.
    """

    _scale: ClassVar[str] = "random, uniform in 0–1"

    seed: int = 0

    def _relevance(self, pixels: Tensor, grid: TokenGrid) -> Tensor:
        maps = [torch.rand(grid.shape, generator=self._generator(clip)) for clip in pixels.unbind()]
        return torch.stack(maps).to(pixels.device)

    def _generator(self, clip: Tensor) -> torch.Generator:
        contents = clip.cpu().contiguous().numpy().tobytes()
        digest = hashlib.blake2b(contents, digest_size=8, key=str(self.seed).encode()[:64]).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)  # a seed has 63 bits


@checked_numbers()
@dataclass(frozen=True)
class CentreGaussian(_Control):
    """A Gaussian around the middle of the clip, exp(-½·Σ_axis ((x - ½)/sigma)²) with x in [0, 1] along each axis.

    Objects are filmed in the middle; a map that only points there says nothing about the model.

    Args:
        sigma: its standard deviation, as a fraction of the clip's height, width and duration.
        time: whether time is an axis too; False gives every tubelet row the same picture.

    Raises:
        InputError: ``sigma`` is not positive.

    Cost: no forward pass.
    """

    _scale: ClassVar[str] = "Gaussian around the middle, 1 at its peak"

    sigma: float = 0.25
    time: bool = True

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise InputError(f"sigma must be positive, a fraction of the clip's size, got {self.sigma}")

    def _relevance(self, pixels: Tensor, grid: TokenGrid) -> Tensor:
        t, h, w = ((self._profile(size, pixels)) for size in grid.shape)
        if not self.time:
            t = torch.ones_like(t)
        return torch.einsum("t,h,w->thw", t, h, w).expand(len(pixels), -1, -1, -1)

    def _profile(self, size: int, like: Tensor) -> Tensor:
        middles = (torch.arange(size, device=like.device, dtype=like.dtype) + 0.5) / size
        return torch.exp(-0.5 * ((middles - 0.5) / self.sigma) ** 2)


@dataclass(frozen=True)
class FrameDifference(_Control):
    """Where pixels change: the mean |frame i+1 - frame i| over a tubelet's pixels and channels.

    A tubelet's pairs of frames are those inside it and the two across its borders in time, as far as the clip has
    them. Motion saliency without a model. The camera's own motion is not taken out: a shaking camera lights up every
    textured place.

    Cost: no forward pass; one pass over the pixels.
    """

    _scale: ClassVar[str] = "mean absolute difference of consecutive frames, normalised pixels"

    def _relevance(self, pixels: Tensor, grid: TokenGrid) -> Tensor:
        depth, rows, columns = grid.tubelet
        if grid.num_frames < 2:
            raise InputError("FrameDifference wants at least two frames, the clip has one")
        change = (pixels[:, 1:] - pixels[:, :-1]).abs()
        change = reduce(change, "batch pair c (h r) (w k) -> batch pair h w", "mean", r=rows, k=columns)
        last = grid.num_frames - 1  # pair i is of the frames i and i + 1
        spans = [(max(start - 1, 0), min(start + depth, last)) for start in range(0, grid.num_frames, depth)]
        return torch.stack([change[:, start:stop].mean(dim=1) for start, stop in spans], dim=1)


CONTROLS = (RandomMap(), CentreGaussian(), FrameDifference())
"""The three that belong into every table."""
