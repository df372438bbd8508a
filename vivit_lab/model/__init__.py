"""The ViViT model: Hugging Face names outside, hook points inside."""

from vivit_lab._index import public_index

__all__, __getattr__, __dir__ = public_index(__name__)
