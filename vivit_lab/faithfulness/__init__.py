"""How far a map can be believed: what happens to the model when what the map points at is taken away."""

from vivit_lab._index import public_index

__all__, __getattr__, __dir__ = public_index(__name__)
