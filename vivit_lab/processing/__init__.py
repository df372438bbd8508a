"""Frames to pixel values: the exact and the fast path, and the preprocessor files in use."""

from vivit_lab._index import public_index

__all__, __getattr__, __dir__ = public_index(__name__)
