"""Figures that others published, to stand beside what a machine measures.

The two tables of an A100 are those of the transformers documentation, docs/source/en/model_doc/vivit.md (commit
0248c4d4dd18f1e56d613213ef54068d3b8ee161): A100-40GB, PyTorch 2.3.0, Ubuntu 22.04, float32,
google/vivit-b-16x2-kinetics400. It gives no times and no rows in half precision. Speed-up is (eager / sdpa - 1) · 100
of the times and memory saved is the same of the peaks, in percent. In its training table the two peaks stand under each
other's headings, as the percentage beside them shows (5932.54 / 2575.28 - 1 = 130.36 %); here they are put right.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

__all__ = ["A100", "A100_SOURCE", "PAPER_COST", "PAPER_SOURCE", "a100_row"]

A100_SOURCE = "transformers documentation, model_doc/vivit.md: A100-40GB, PyTorch 2.3.0, float32, ViViT-B/16x2"


def _row(batch: int, speedup: float, eager_mb: float, sdpa_mb: float, saved: float) -> MappingProxyType[str, Any]:
    return MappingProxyType(
        {
            "batch": batch,
            "dtype": "float32",
            "speedup_percent": speedup,
            "eager_peak_mb": eager_mb,
            "sdpa_peak_mb": sdpa_mb,
            "memory_saved_percent": saved,
        }
    )


#: Table → its rows. Training is 100 steps, inference 20 batches a row.
A100 = MappingProxyType(
    {
        "training": (_row(1, 7.122, 5932.54, 2575.28, 130.364),),
        "inference": (
            _row(1, 15.422, 715.807, 317.079, 125.75),
            _row(2, 17.146, 1234.75, 447.175, 176.122),
            _row(4, 18.093, 2275.82, 709.864, 220.6),
            _row(8, 19.284, 4358.19, 1233.24, 253.393),
        ),
    }
)

PAPER_SOURCE = "Arnab et al. 2021, table of the variants of ViViT-B/16x2 at 32×224² (its GFLOPs are multiply-adds)"

#: Variant → (G multiply-adds, M parameters) that the paper prints.
PAPER_COST = MappingProxyType(
    {
        "spacetime": (455.2, 88.9),
        "factorized_encoder": (284.4, 115.1),
        "factorized_self_attention_block": (372.3, 117.3),
        "factorized_dot_product_attention": (277.1, 88.9),
    }
)


def a100_row(table: str, batch: int, dtype: str) -> dict[str, Any] | None:
    """Return the row that an A100 was published with, or None.

    Args:
        table: ``"training"`` or ``"inference"``.
        batch: clips of a batch.
        dtype: such as ``"float32"``.
    """
    found = [row for row in A100[table] if (row["batch"], row["dtype"]) == (batch, dtype)]
    return dict(found[0]) if found else None
