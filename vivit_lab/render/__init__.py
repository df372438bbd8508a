"""Pictures and movies of attribution maps over the frames of their own clip."""

from vivit_lab._index import public_index

__all__, __getattr__, __dir__ = public_index(__name__)
