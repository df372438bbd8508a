"""Ranks over the rows of a tensor, and many tests at once."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from vivit_lab.errors import InputError

__all__ = ["average_precision", "benjamini_hochberg", "mid_ranks", "roc_auc", "spearman"]


def mid_ranks(values: Float[Tensor, "row n"]) -> Float64[Tensor, "row n"]:
    """Return each value's rank in its row, 1 for the smallest; equals share the mean of their ranks.

    Args:
        values: (row, n), no NaN.

    Cost: one sort a row.
    """
    ordered, order = values.sort(dim=-1)
    first, last = _ties(ordered)
    ranks = (first + last).double() / 2 + 1
    return torch.empty_like(ranks).scatter_(-1, order, ranks)


def _ties(ordered: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for each place of sorted rows, the first and last place that hold the same value."""
    n = ordered.shape[-1]
    places = torch.arange(n, device=ordered.device).expand(ordered.shape)
    edge = torch.ones_like(ordered[..., :1], dtype=torch.bool)
    new = ordered[..., 1:] != ordered[..., :-1]
    first = torch.where(torch.cat((edge, new), dim=-1), places, 0).cummax(dim=-1).values
    ends = torch.where(torch.cat((new, edge), dim=-1), places, n)
    return first, ends.flip(-1).cummin(dim=-1).values.flip(-1)


def spearman(a: Float[Tensor, "row n"], b: Float[Tensor, "row n"]) -> Float64[Tensor, " row"]:
    """Return Spearman's rank correlation of each pair of rows, in [-1, 1]: Pearson's correlation of the mid-ranks.

    Args:
        a: (row, n).
        b: (row, n).

    Returns:
        (row,) float64; NaN where one of the rows is constant and so has no order.

    Raises:
        InputError: the shapes differ.
    """
    if a.shape != b.shape or a.ndim != 2:
        raise InputError(f"spearman wants two tensors (row, n) of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    x, y = (ranks - ranks.mean(dim=-1, keepdim=True) for ranks in (mid_ranks(a), mid_ranks(b)))
    norm = (x.square().sum(dim=-1) * y.square().sum(dim=-1)).sqrt()
    return torch.where(norm > 0, (x * y).sum(dim=-1) / norm, torch.nan).clamp(-1, 1)


def roc_auc(scores: Float[Tensor, "row n"], labels: Bool[Tensor, "row n"]) -> Float64[Tensor, " row"]:
    """Return the area under the ROC curve of each row: the chance that a positive outranks a negative.

    Equals count half (the Mann–Whitney statistic with mid-ranks), so that constant scores give exactly 0.5.

    Args:
        scores: (row, n), signed; higher should mean positive.
        labels: (row, n), what is positive.

    Returns:
        (row,) float64 in [0, 1]; NaN where a row lacks positives or negatives.

    Raises:
        InputError: the shapes differ.
    """
    _check_labels(scores, labels)
    positive = labels.sum(dim=-1).double()
    negative = scores.shape[-1] - positive
    total = (mid_ranks(scores) * labels).sum(dim=-1)
    pairs = positive * negative
    return torch.where(pairs > 0, (total - positive * (positive + 1) / 2) / pairs, torch.nan)


def average_precision(scores: Float[Tensor, "row n"], labels: Bool[Tensor, "row n"]) -> Float64[Tensor, " row"]:
    """Return the average precision of each row, Σ_k (R_k - R_{k-1})·P_k over the distinct scores k, descending.

    Equals form one step of the precision-recall curve: no order among them is made up, and constant scores give
    exactly the share of positives.

    Args:
        scores: (row, n), signed; higher should mean positive.
        labels: (row, n), what is positive.

    Returns:
        (row,) float64 in (0, 1]; NaN where a row lacks positives or negatives.

    Raises:
        InputError: the shapes differ.
    """
    _check_labels(scores, labels)
    ordered, order = scores.sort(dim=-1, descending=True)
    hits = labels.gather(-1, order)
    _, last = _ties(ordered)
    found = hits.cumsum(dim=-1).gather(-1, last)
    precision = found.double() / (last + 1)
    positive = labels.sum(dim=-1)
    both = (positive > 0) & (positive < labels.shape[-1])
    return torch.where(both, (precision * hits).sum(dim=-1) / positive, torch.nan)


def _check_labels(scores: Tensor, labels: Tensor) -> None:
    if scores.shape != labels.shape or scores.ndim != 2 or labels.dtype != torch.bool:
        raise InputError(
            f"wanted scores and boolean labels (row, n) of one shape, got {tuple(scores.shape)} and "
            f"{tuple(labels.shape)} {labels.dtype}"
        )


def benjamini_hochberg(p_values: np.ndarray) -> np.ndarray:
    """Return q-values: keeping those at or below α holds the expected share of chance findings to α.

    Benjamini & Hochberg 1995: of m sorted p-values, q_(i) = min over j ≥ i of p_(j)·m/j, at most 1. It holds for
    independent tests and for the positively dependent ones that neighbouring heads give.

    Args:
        p_values: any shape, each in [0, 1]; NaN where there was no test, which counts for nothing.

    Returns:
        float64 of the same shape, NaN where the p-value is.

    Raises:
        InputError: a p-value lies outside [0, 1].
    """
    given = np.asarray(p_values, dtype=np.float64)
    flat = given.ravel()
    tested = np.flatnonzero(~np.isnan(flat))
    if tested.size and not (flat[tested].min() >= 0 and flat[tested].max() <= 1):
        raise InputError(f"p-values lie in [0, 1], got {flat[tested].min():g} … {flat[tested].max():g}")
    order = tested[np.argsort(flat[tested], kind="stable")]
    count = len(order)
    scaled = flat[order] * (count / np.arange(1, count + 1))
    found = np.full(flat.shape, np.nan)
    found[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return found.reshape(given.shape)
