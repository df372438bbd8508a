"""Training: a plain loop on Hugging Face Accelerate, its regularisation, and the recipe of the bundled classifier."""

from vivit_lab._index import public_index

__all__, __getattr__, __dir__ = public_index(__name__)
