"""Widgets for notebooks: explore a clip, its heads and its maps in the browser."""

from vivit_lab._index import public_index

__all__, __getattr__, __dir__ = public_index(__name__)
