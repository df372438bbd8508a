"""What one forward pass leaves to be read: attention, values, gradients, and the target they are about."""

from vivit_lab._index import public_index

__all__, __getattr__, __dir__ = public_index(__name__)
