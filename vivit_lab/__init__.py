"""Interpretability workbench for ViViT, the video vision transformer.

The names that most work begins with are here; all others are in its packages. ``__init__.pyi`` is the index.
"""

from vivit_lab._index import public_index

#: Who draws a result; see ``drawing.draw``. A result itself does not know.
DRAWN_BY = {
    "AttentionRecord": "show.attribution",
    "AttributionMap": "show.attribution",
    "BulkResults": "show.bulk",
    "EffectTable": "show.interventions",
    "FaithfulnessReport": "show.faithfulness",
    "PruningCurves": "show.heads",
}

__all__, __getattr__, __dir__ = public_index(__name__)
