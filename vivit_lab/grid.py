"""The typed token grid: which token stands for which frames and pixels.

A ViViT cuts a clip into tubelets of ``tubelet = (frames, rows, columns)`` and numbers them in the order t, y, x, after
one CLS token where the model has one. Everything that turns a row of numbers back into a picture goes through this
class, so that 3136 tokens are always 16×14×14 and never mistaken for a 56×56 image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vivit_lab.errors import GridError
from vivit_lab.numbers import check_whole, checked_numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["TokenGrid"]


def _is_size(size: object) -> bool:
    # not numbers.is_whole: a grid is also made inside a compiled forward pass, which knows no abstract classes
    return isinstance(size, (int, np.integer)) and not isinstance(size, bool)


def _tubelet(sizes: Sequence[int]) -> tuple[int, int, int]:
    if isinstance(sizes, str) or len(sizes) != 3 or not all(_is_size(size) and size >= 1 for size in sizes):
        raise GridError(f"tubelet must be three positive sizes (frames, rows, columns), got {tuple(sizes)}")
    frames, rows, columns = (int(size) for size in sizes)
    return frames, rows, columns


@dataclass(frozen=True)
class TokenGrid:
    """A grid of ``t × h × w`` tubelet tokens, with or without a CLS token in front.

    Args:
        t: tubelets along time.
        h: tubelets along height.
        w: tubelets along width.
        tubelet: what one token covers, in (frames, pixel rows, pixel columns) of the model's input.
        cls: whether token 0 is a CLS token, which has no place in the grid.

    Raises:
        GridError: a size is not a positive integer.

    Example:
        >>> grid = TokenGrid(16, 14, 14, tubelet=(2, 16, 16))
        >>> grid.token(1, 0, 3), grid.position(200), grid.frame_span(1), grid.pixel_box(0, 3)
        (200, (1, 0, 3), (2, 4), (0, 48, 16, 64))
    """

    t: int
    h: int
    w: int
    tubelet: tuple[int, int, int] = (2, 16, 16)
    cls: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "tubelet", _tubelet(self.tubelet))
        for name, size in zip("thw", self.shape, strict=True):
            if not _is_size(size) or size < 1:
                raise GridError(f"the grid's {name} must be a positive integer, got {size!r}")
            object.__setattr__(self, name, int(size))

    @classmethod
    def from_video(
        cls, frames: int, height: int, width: int, tubelet: Sequence[int] = (2, 16, 16), *, cls_token: bool = True
    ) -> TokenGrid:
        """Return the grid of a video of that many frames and pixels.

        Raises:
            GridError: a size is not a whole number of tubelets. (A strided convolution would drop the rest silently.)
        """
        depth, rows, columns = _tubelet(tubelet)
        for name, size, unit in (("frames", frames, depth), ("height", height, rows), ("width", width, columns)):
            if not _is_size(size):
                raise GridError(f"{name} must be a positive integer, got {size!r:.100}")
            if size < unit or size % unit:
                near = sorted({max(unit, size // unit * unit), max(unit, (size // unit + 1) * unit)})
                raise GridError(
                    f"{name}={size} is not a positive multiple of the tubelet's {unit} (tubelet {tuple(tubelet)}): "
                    f"the rest would be dropped silently; use {' or '.join(map(str, near))}"
                )
        return cls(frames // depth, height // rows, width // columns, (depth, rows, columns), cls_token)

    def resized(self, frames: int, height: int, width: int) -> TokenGrid:
        """Return the grid of a video of another length or size, cut into the same tubelets.

        Raises:
            GridError: a size is not a whole number of tubelets.
        """
        return self.from_video(frames, height, width, self.tubelet, cls_token=self.cls)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The sizes (t, h, w)."""
        return (self.t, self.h, self.w)

    @property
    def num_tubelets(self) -> int:
        """How many tubelet tokens there are, t·h·w."""
        return self.t * self.h * self.w

    @property
    def num_tokens(self) -> int:
        """How many tokens a sequence has, CLS included."""
        return self.num_tubelets + self.offset

    @property
    def offset(self) -> int:
        """Index of the first tubelet token: 1 with a CLS token, else 0."""
        return int(self.cls)

    @property
    def num_frames(self) -> int:
        """How many frames the grid covers."""
        return self.t * self.tubelet[0]

    @property
    def image_size(self) -> tuple[int, int]:
        """Pixel (height, width) of the model's input that the grid covers."""
        return (self.h * self.tubelet[1], self.w * self.tubelet[2])

    def check(self, num_tokens: int) -> None:
        """Refuse a sequence length that is not this grid's.

        Raises:
            GridError: ``num_tokens`` is not ``self.num_tokens``.
        """
        if num_tokens != self.num_tokens:
            extra = " + 1 CLS" if self.cls else ""
            raise GridError(
                f"{num_tokens} tokens do not fit the grid {self.t}×{self.h}×{self.w}{extra} = {self.num_tokens}; "
                "give the grid of the model that made them (a square root of a token count is no grid)"
            )

    @checked_numbers(error=GridError)
    def token(self, t: int, y: int, x: int) -> int:
        """Return the sequence index of the tubelet at (t, y, x); negative positions count from the end.

        Raises:
            GridError: the position is outside the grid.
        """
        place = []
        for name, value, size in zip(("t", "y", "x"), (t, y, x), self.shape, strict=True):
            if not -size <= value < size:
                raise GridError(f"{name}={value} is outside the grid {self.shape}: wanted {-size}..{size - 1}")
            place.append(value % size)
        return self.offset + (place[0] * self.h + place[1]) * self.w + place[2]

    @checked_numbers(error=GridError)
    def position(self, token: int) -> tuple[int, int, int] | None:
        """Return (t, y, x) of a sequence index, or None for the CLS token.

        Raises:
            GridError: there is no such token.
        """
        if not -self.num_tokens <= token < self.num_tokens:
            raise GridError(f"token {token} is outside the sequence of {self.num_tokens} tokens")
        index = token % self.num_tokens - self.offset
        if index < 0:
            return None
        return (index // (self.h * self.w), index // self.w % self.h, index % self.w)

    @checked_numbers(error=GridError)
    def frame_span(self, t: int) -> tuple[int, int]:
        """Return the half-open span of clip frames (start, stop) that tubelet row ``t`` covers."""
        start = (self.token(t, 0, 0) - self.offset) // (self.h * self.w) * self.tubelet[0]
        return (start, start + self.tubelet[0])

    @checked_numbers(error=GridError)
    def pixel_box(self, y: int, x: int) -> tuple[int, int, int, int]:
        """Return the half-open box (top, left, bottom, right) of model pixels that place (y, x) covers."""
        index = self.token(0, y, x) - self.offset
        top, left = index // self.w * self.tubelet[1], index % self.w * self.tubelet[2]
        return (top, left, top + self.tubelet[1], left + self.tubelet[2])

    @checked_numbers(error=GridError)
    def token_at(self, frame: int, row: float, column: float) -> int:
        """Return the token that covers a clip frame and a model pixel.

        Raises:
            GridError: the frame or pixel is outside what the grid covers.
        """
        height, width = self.image_size
        if not (0 <= frame < self.num_frames and 0 <= row < height and 0 <= column < width):
            raise GridError(
                f"frame {frame}, pixel ({row}, {column}) is outside the {self.num_frames} frames of {height}×{width} "
                "pixels that the grid covers"
            )
        return self.token(frame // self.tubelet[0], int(row // self.tubelet[1]), int(column // self.tubelet[2]))

    @checked_numbers(error=GridError)
    def unflatten(self, tokens: Any, axis: int = -1) -> Any:
        """Fold an axis of tokens into (t, h, w); a CLS entry is left out.

        Args:
            tokens: a tensor or array whose ``axis`` has ``num_tokens`` entries, or ``num_tubelets`` (CLS already gone).
            axis: the axis to fold.

        Raises:
            GridError: the axis has another length.
        """
        check_whole("axis", axis, -tokens.ndim, tokens.ndim - 1, error=GridError)
        axis %= tokens.ndim
        length = tokens.shape[axis]
        if length != self.num_tubelets:
            self.check(length)
            start, count = self.offset, self.num_tubelets
            narrow = getattr(tokens, "narrow", None)  # a tensor's; an array is sliced
            tokens = narrow(axis, start, count) if narrow else tokens[(slice(None),) * axis + (slice(start, None),)]
        return tokens.reshape(*tokens.shape[:axis], *self.shape, *tokens.shape[axis + 1 :])

    def flatten(self, values: Any) -> Any:
        """Turn (..., t, h, w) into (..., t·h·w) in token order, without CLS.

        Raises:
            GridError: the last three axes are not this grid's.
        """
        if tuple(values.shape[-3:]) != self.shape:
            raise GridError(f"wanted (..., {self.t}, {self.h}, {self.w}), got {tuple(values.shape)}")
        return values.reshape(*values.shape[:-3], self.num_tubelets)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return {"t": self.t, "h": self.h, "w": self.w, "tubelet": list(self.tubelet), "cls": self.cls}
