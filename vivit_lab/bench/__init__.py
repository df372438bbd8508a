"""Benchmarks that users run on their own machine: the tables of the documentation, and what the README quotes."""

from vivit_lab._index import public_index

__all__, __getattr__, __dir__ = public_index(__name__)
