"""Changing the inside of a model, or its clips, for one forward pass, and measuring what that does."""

from vivit_lab._index import public_index

__all__, __getattr__, __dir__ = public_index(__name__)
