"""Time and memory of a call: the package's own meters, by the name that the benchmarks know."""

from vivit_lab.bench.measure import interleaved, one_thread, peak_bytes, report

__all__ = ["FRAMES", "GOP", "interleaved", "one_thread", "peak_bytes", "report"]

FRAMES, GOP = 300, 30
"""Frames of the video that benchmarks read, and of them from one key frame to the next."""
