"""How a run shows itself in a notebook."""

from __future__ import annotations

from vivit_lab.bulk.results import BulkResults
from vivit_lab.drawing import drawer
from vivit_lab.html import facts_table, report_html, rows_table, text_line, tiles

__all__ = ["results_html"]

_FAILURES = 5


@drawer(BulkResults)
def results_html(results: BulkResults) -> str:
    """Return what a run is of, how far it is, the first failures, and the mean map over time.

    Cost: one pass over the first column of maps.

    Args:
        results: the run.
    """
    parts = [facts_table({"bulk run": results.run.store.root, **results.summary()})]
    failures = results.failures(_FAILURES)
    if failures:
        rows = [(one["stage"], one["type"], one["error"]) for one in failures]
        parts.append(rows_table(("stage", "type", "error"), rows))
    if any(table["status"].to_pylist().count("ok") for table in results.tables(["status"])):
        mean = results.mean_map()
        depth = mean.grid.tubelet[0]
        labels = [f"frames {row * depth}–{(row + 1) * depth - 1}" for row in range(mean.grid.t)]
        title = f"Mean map of {mean.provenance['mean_of']} clips, {mean.method}; {mean.scale}."
        parts += [text_line(title), tiles(mean.relevance[0].numpy(), labels, signed=mean.signed)]
    return report_html(*parts)
