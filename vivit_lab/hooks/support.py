"""Products of queries and keys along one axis: for each row, only the keys that the row attends to."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from vivit_lab.model.variants import AttentionLayout

__all__ = ["axial_scores", "head_axes", "score_blocks", "support_values"]


def head_axes(layout: AttentionLayout, heads: int) -> list[tuple[str, slice]]:
    """Return each axis of a layer with the heads that attend along it."""
    if layout.axis == "both":
        return [("time", slice(0, heads // 2)), ("space", slice(heads // 2, heads))]
    return [(layout.axis, slice(0, heads))]


def axial_scores(
    left: Tensor, right: Tensor, layout: AttentionLayout, axis: str, time: int, places: Tensor | None = None
) -> Tensor:
    """Return the products of the tokens of one time with those of their support along an axis.

    Args:
        left: (…, token, d_head), such as queries.
        right: (…, token, d_head), such as keys.
        layout: of the layer.
        axis: ``"time"`` or ``"space"``.
        time: whose tokens are the rows.
        places: which of its tokens; None for all.

    Returns:
        (…, row, key): a key for each time, or for each place.
    """
    left, right = (side.unflatten(-2, (layout.times, -1)) for side in (left, right))  # (…, time, place, d_head)
    left = left.select(-3, time)
    left = left if places is None else left.index_select(-2, places)
    if axis == "space":
        return torch.matmul(left, right.select(-3, time).transpose(-1, -2))
    right = right if places is None else right.index_select(-2, places)
    return torch.einsum("...pd,...tpd->...pt", left, right)


def support_values(
    left: Tensor,
    right: Tensor,
    layout: AttentionLayout,
    time: int,
    places: Tensor | None,
    finish: Callable[[Tensor, slice], Tensor],
) -> tuple[Tensor, Tensor]:
    """Return the values of some rows of one time on their support, and where that is.

    Args:
        left: (…, head, token, d_head).
        right: (…, head, token, d_head).
        layout: of the layer; not a joint one.
        time: whose tokens are the rows.
        places: which of its tokens; None for all.
        finish: (products (…, head, row, key) of some heads, which heads) → values, such as a softmax.

    Returns:
        (…, head, row, key) values, and (row, key) tokens. A row of a layer with both axes has the keys of its time
        first, and then those of its place at other times; a head has zeros on the other axis.
    """
    parts = {}
    for axis, heads in head_axes(layout, left.shape[-3]):
        start, count = heads.start, heads.stop - heads.start
        mine, other = left.narrow(-3, start, count), right.narrow(-3, start, count)
        parts[axis] = finish(axial_scores(mine, other, layout, axis, time, places), heads)
    rows = torch.arange(layout.places, device=left.device) if places is None else places
    keys = {
        "time": rows.unsqueeze(1) + torch.arange(layout.times, device=left.device) * layout.places,
        "space": torch.arange(layout.places, device=left.device).expand(len(rows), -1) + time * layout.places,
    }
    if layout.axis != "both":
        return parts[layout.axis], keys[layout.axis]
    times = torch.arange(layout.times, device=left.device)
    others = times.masked_select(times != time)
    early, late = parts["time"], parts["space"]
    own = early.new_zeros(*early.shape[:-1], layout.places)
    own.scatter_(-1, rows.unsqueeze(1).expand(*early.shape[:-1], 1), early.narrow(-1, time, 1))
    early = torch.cat((own, early.index_select(-1, others)), dim=-1)
    late = torch.cat((late, late.new_zeros(*late.shape[:-1], len(others))), dim=-1)
    return torch.cat((early, late), dim=-3), torch.cat((keys["space"], keys["time"].index_select(1, others)), dim=1)


def score_blocks(
    query: Tensor, key: Tensor, layout: AttentionLayout, reduce: Callable[[Tensor], Tensor]
) -> Iterator[Tensor]:
    """Apply a function of (head, row, key) scores to every row of some heads, and yield it for each axis's heads."""
    for axis, heads in head_axes(layout, len(query)):
        start, count = heads.start, heads.stop - heads.start
        mine, other = query.narrow(0, start, count), key.narrow(0, start, count)
        done = [reduce(axial_scores(mine, other, layout, axis, time)) for time in range(layout.times)]
        yield torch.cat(done, dim=1)
