"""From pixels to tokens that know their place."""

from __future__ import annotations

import warnings

import torch
from jaxtyping import Float
from torch import Tensor, cat, contiguous_format, nn
from torch.nn import functional

from vivit_lab.errors import GridError, InputError, ResizedPositionsWarning
from vivit_lab.grid import TokenGrid
from vivit_lab.model.config import VivitConfig
from vivit_lab.model.hooks import HookPoint

__all__ = ["Embeddings", "interpolate_positions"]


def interpolate_positions(
    position: Float[Tensor, "1 old_tokens d_model"],
    old: tuple[int, int, int],
    new: tuple[int, int, int],
    *,
    cls: bool = True,
) -> Float[Tensor, "1 new_tokens d_model"]:
    """Resize learned positions on their space-time grid: bicubic in space, linear in time.

    Positions are folded to (t, h, w) first, so that time is never mixed into space. A size that does not change is not
    touched, so the same grid gives the same numbers back.

    Args:
        position: (1, cls + t·h·w, d_model).
        old: the (t, h, w) that the positions were learned on.
        new: the (t, h, w) wanted.
        cls: whether the first entry belongs to a CLS token; it is carried over.

    Returns:
        (1, cls + t'·h'·w', d_model), in the dtype of ``position``.

    Raises:
        GridError: ``position`` does not have the tokens of ``old``.
    """
    if tuple(old) == tuple(new):
        return position
    count, extra = old[0] * old[1] * old[2], int(cls)
    if position.shape[1] != count + extra:
        raise GridError(f"wanted {count + extra} positions for the grid {tuple(old)}, got {position.shape[1]}")
    width = position.shape[-1]
    volume = position.narrow(1, extra, count).float().reshape(*old, width)  # (t, h, w, d_model)
    if old[1:] != new[1:]:
        images = functional.interpolate(
            volume.permute(0, 3, 1, 2).clone(memory_format=contiguous_format),
            size=tuple(new[1:]),
            mode="bicubic",
            align_corners=False,
        )
        volume = images.permute(0, 2, 3, 1)
    if old[0] != new[0]:
        series = volume.permute(1, 2, 3, 0).reshape(1, -1, old[0])  # each place and channel is a series in time
        series = functional.interpolate(series, size=new[0], mode="linear", align_corners=False)
        volume = series.reshape(new[1], new[2], width, new[0]).permute(3, 0, 1, 2)
    resized = volume.reshape(1, -1, width).to(position.dtype)
    return cat((position.narrow(1, 0, extra), resized), dim=1)


class Embeddings(nn.Module):
    """Cut a clip into tubelets, project each, put CLS in front where the model has one, and add the positions.

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: VivitConfig) -> None:
        super().__init__()
        self.grid = config.grid
        self.num_channels = config.num_channels
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size)) if self.grid.cls else None
        self.position = nn.Parameter(torch.zeros(1, self.places.num_tokens, config.hidden_size))
        self.projection = nn.Conv3d(
            config.num_channels, config.hidden_size, kernel_size=config.tubelet_size, stride=config.tubelet_size
        )
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.hook_embed = HookPoint()
        self.hook_pos_embed = HookPoint()
        self._told: set[tuple[int, int, int]] = set()  # sizes whose resized positions were warned of

    @property
    def places(self) -> TokenGrid:
        """The grid that the positions were learned on."""
        return self.grid

    def grid_of(self, pixel_values: Tensor, interpolate_pos_encoding: bool | None = False) -> TokenGrid:
        """Return the token grid that a batch of clips will have, or say what is wrong with the batch.

        Args:
            pixel_values: (batch, frames, channels, height, width), floating point, normalised.
            interpolate_pos_encoding: whether sizes other than the configuration's are allowed; None allows them
                and says so once for each size.

        Raises:
            InputError: the tensor is not such a batch.
            GridError: its frames or pixels are no whole number of tubelets; names the nearest sizes.

        Warns:
            ResizedPositionsWarning: the size is another one, and ``interpolate_pos_encoding`` is None.
        """
        wanted = self.grid
        height, width = wanted.image_size
        shape = tuple(pixel_values.shape)
        form = f"(batch, {wanted.num_frames} frames, {self.num_channels} channels, {height}, {width})"
        if pixel_values.ndim != 5:
            hint = "; one clip needs a batch axis: pixel_values[None]" if pixel_values.ndim == 4 else ""
            raise InputError(f"pixel_values must be {form}, got {pixel_values.ndim} axes {shape}{hint}")
        if not pixel_values.is_floating_point():
            raise InputError(
                f"pixel_values must be normalised floating point, got {pixel_values.dtype}: "
                "pass the frames through a VivitImageProcessor first"
            )
        if shape[2] != self.num_channels:
            raise InputError(
                f"pixel_values must be {form}, got {shape}: axis 2 holds {shape[2]} channels; "
                "channels come before height and width, after frames"
            )
        grid = wanted.resized(shape[1], shape[3], shape[4])
        if grid != wanted and interpolate_pos_encoding is None:
            self._tell(grid, shape)
        elif grid != wanted and not interpolate_pos_encoding:
            raise InputError(
                f"pixel_values must be {form}, got {shape}: use a processor and sampling of that size, or pass "
                "interpolate_pos_encoding=True to resize the positions in space and time"
            )
        return grid

    def _tell(self, grid: TokenGrid, shape: tuple[int, ...]) -> None:
        if grid.shape in self._told:
            return
        self._told.add(grid.shape)
        own = self.grid
        warnings.warn(
            f"the model was trained on {own.num_frames} frames of {own.image_size[0]}×{own.image_size[1]} pixels, the "
            f"clip has {shape[1]} of {shape[3]}×{shape[4]}: the positions are resized from {_by(own)} to {_by(grid)} "
            "(t×h×w); said once for each size. interpolate_pos_encoding=False refuses such clips, True is silent",
            ResizedPositionsWarning,
            stacklevel=2,
        )

    def forward(self, pixel_values: Tensor, interpolate_pos_encoding: bool | None = False) -> Tensor:
        """Return the tokens (batch, token, d_model) of clips (batch, frames, channels, height, width)."""
        grid = self.grid_of(pixel_values, interpolate_pos_encoding)
        video = pixel_values.to(self.projection.weight.dtype).transpose(1, 2)  # (batch, channels, frames, ...)
        tokens = self.projection(video).flatten(2).transpose(1, 2)
        tokens = self.hook_embed(self.sequence_of(tokens, grid))
        positions = self.positions_of(grid)
        if self.hook_pos_embed.hooked:  # one for each clip, which a hook may write into without changing the parameter
            positions = self.hook_pos_embed(positions.repeat(len(tokens), 1, 1))
        return self.dropout(tokens + positions)

    def sequence_of(self, tubelets: Tensor, grid: TokenGrid) -> Tensor:
        """Return the model's sequence (batch, token, d_model) of tubelets (batch, t·h·w, d_model)."""
        if self.cls_token is None:
            return tubelets
        return torch.cat((self.cls_token.expand(tubelets.shape[0], -1, -1), tubelets), dim=1)

    def positions_of(self, grid: TokenGrid) -> Tensor:
        """Return the positions (1, token, d_model) of the sequence of a grid."""
        return interpolate_positions(self.position, self.grid.shape, grid.shape, cls=self.grid.cls)


def _by(grid: TokenGrid) -> str:
    return "×".join(map(str, grid.shape))
