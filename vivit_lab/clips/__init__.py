"""Which clips a data set holds: one reader for training, evaluation, heads and bulk runs."""

from vivit_lab._index import public_index

__all__, __getattr__, __dir__ = public_index(__name__)
