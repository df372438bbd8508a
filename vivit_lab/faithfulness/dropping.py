"""Token dropping: tubelets leave the sequence after the embedding, so the model never sees them and does less work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vivit_lab.errors import GridError, InputError
from vivit_lab.grid import TokenGrid
from vivit_lab.hooks.recorder import evaluating
from vivit_lab.model.classifier import VivitForVideoClassification, VivitModel
from vivit_lab.model.config import VivitConfig
from vivit_lab.model.encoder import Encoded, expand_head_mask
from vivit_lab.numbers import checked_numbers

__all__ = ["embed_clips", "forward_kept_tokens", "forward_tokens", "require_droppable", "take_tokens"]


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
