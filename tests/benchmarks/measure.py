"""Time and memory of a call: the package's own meters, by the name that the benchmarks know."""

from vivit_lab.bench.measure import interleaved, one_thread, peak_bytes, report

__all__ = ["interleaved", "one_thread", "peak_bytes", "report"]
