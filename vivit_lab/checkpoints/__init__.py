"""Weights from and to disk, the Hub, image models, and the bundled files."""

from vivit_lab._index import public_index

__all__, __getattr__, __dir__ = public_index(__name__)
