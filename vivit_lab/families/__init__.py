"""One file an architecture: how the parts of a video transformer are put together."""

from vivit_lab._index import public_index

__all__, __getattr__, __dir__ = public_index(__name__)
