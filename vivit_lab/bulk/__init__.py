"""Explanations of whole datasets: resumable runs on one machine or many, and what comes of them."""

from vivit_lab._index import public_index

__all__, __getattr__, __dir__ = public_index(__name__)
