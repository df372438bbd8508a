"""Attribution methods: each reduces a model and a clip to an AttributionMap."""

from vivit_lab._index import public_index

__all__, __getattr__, __dir__ = public_index(__name__)
