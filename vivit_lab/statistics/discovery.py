"""Many tests at once: which findings to keep so that few of them are chance."""

from __future__ import annotations

import numpy as np

from vivit_lab.errors import InputError

__all__ = ["benjamini_hochberg"]


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
