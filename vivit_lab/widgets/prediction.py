"""Two predictions of one clip beside each other: what was likely before, and what is now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from vivit_lab.explain import top_labels

if TYPE_CHECKING:
    from vivit_lab.model.config import VivitConfig

__all__ = ["compare_logits"]


def compare_logits(before: Tensor, now: Tensor, config: VivitConfig, count: int = 5) -> dict[str, Any]:
    """Return the highest classes of ``now``, and the one that was highest before, with both numbers.

    Args:
        before: (num_labels,) logits.
        now: likewise.
        config: names the classes, and says whether they exclude each other.
        count: how many classes.

    Returns:
        ``kind`` (``"probability"``, or ``"value"`` for a regression) and ``rows``: ``label``, ``index``, ``before``,
        ``now``, the highest now first; ``top`` and ``top_before``: the two indices.
    """
    all_before, all_now = (top_labels(logits, config, len(logits)) for logits in (before, now))
    key = "probability" if "probability" in all_now[0] else "logit"
    was = {row["index"]: row[key] for row in all_before}
    first = all_before[0]["index"]
    shown = [row for place, row in enumerate(all_now) if place < count or row["index"] == first]
    rows = [
        {"label": row["label"], "index": row["index"], "before": was[row["index"]], "now": row[key]} for row in shown
    ]
    kind = "probability" if key == "probability" else "value"
    return {"kind": kind, "rows": rows, "top": rows[0]["index"], "top_before": first}
