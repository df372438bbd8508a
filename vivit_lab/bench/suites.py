"""The benchmarks: each returns a table of this machine, with published figures beside it where there are some.

Times come from one process that takes what is compared in turn; each peak of memory comes from a process of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, quantiles
from typing import Any

from vivit_lab.bench.table import (
    A100,
    A100_SOURCE,
    PAPER_COST,
    PAPER_SOURCE,
    BenchTable,
    Column,
    a100_row,
    describe_machine,
)
from vivit_lab.bench.workload import BACKENDS, Workload, half_dtype, run_task
from vivit_lab.checkpoints.files import parse_dtype
from vivit_lab.errors import BackendError, InputError
from vivit_lab.families.cost import model_cost
from vivit_lab.memory import format_bytes, free_bytes
from vivit_lab.model.config import VivitConfig
from vivit_lab.model.load import parse_device
from vivit_lab.numbers import checked_numbers
from vivit_lab.progress import progress_bar

__all__ = ["bench_attention", "bench_cost", "bench_inference", "bench_rollout", "bench_training"]

_IMPLEMENTATIONS = ("eager", "sdpa")
_PEAK_NOTE = (
    "Peaks are the rise above model and clips, of resident memory on the CPU and of PyTorch's allocator on CUDA; times "
    "are medians. Faster is (eager / sdpa - 1) · 100 of the times, saved the same of the peaks."
)


@checked_numbers(batch_sizes=(1, 65_536), batches=(1, 10_000))
def bench_inference(
    workload: Workload | None = None,
    *,
    batch_sizes: Sequence[int] = (1, 2, 4, 8),
    dtypes: Sequence[str] | None = None,
    batches: int = 20,
    progress: bool | None = None,
) -> BenchTable:
    """Compare eager and fused attention in forward passes, as the transformers documentation does.

    Args:
        workload: shape and device; None is ViT-B on the CPU.
        batch_sizes: clips of a batch.
        dtypes: of parameters and pixels; None is float32 and the half precision of the device.
        batches: timed for each row, after one to warm up.
        progress: show a bar; None shows it on a terminal.
    """
    workload = workload or Workload()
    dtypes = ("float32", half_dtype(workload.device)) if dtypes is None else dtypes
    each = [workload.with_(batch=batch, dtype=dtype) for dtype in dtypes for batch in batch_sizes]
    rows = [
        _pair("inference", item, batches, "forward_seconds", "forward_peak", "batches")
        for item in progress_bar(each, progress, "inference", "row")
    ]
    settings = {"batches": batches, "batch_sizes": list(batch_sizes), "dtypes": list(dtypes), **workload.describe()}
    title = f"Inference, eager against sdpa, medians of {batches} batches a row"
    return BenchTable(
        "inference", title, _pair_columns("batches"), tuple(rows), describe_machine(workload.device), settings,
        _a100("inference"), (_PEAK_NOTE, f"A100: {A100_SOURCE}, 20 batches."),
    )  # fmt: skip


@checked_numbers(steps=(1, 1_000_000))
def bench_training(workload: Workload | None = None, *, steps: int = 100, progress: bool | None = None) -> BenchTable:
    """Compare eager and fused attention in training steps: forward, cross entropy, backward, AdamW.

    Args:
        workload: shape, batch, dtype and device; None is ViT-B, one clip, float32, on the CPU.
        steps: timed, after one to warm up.
        progress: show a bar; None shows it on a terminal.
    """
    workload = workload or Workload()
    with progress_bar(None, progress, "training", "row", 1) as bar:
        row = _pair("training", workload, steps, "training_seconds", "training_peak", "steps")
        bar.update()
    return BenchTable(
        "training", f"Training, eager against sdpa, medians of {steps} steps", _pair_columns("steps"), (row,),
        describe_machine(workload.device), {"steps": steps, **workload.describe()}, _a100("training"),
        (_PEAK_NOTE, f"A100: {A100_SOURCE}, 100 steps. Gradients and AdamW's averages count in the peaks here."),
    )  # fmt: skip


def _pair_columns(unit: str) -> tuple[Column, ...]:
    """Return the columns of a table that compares eager and sdpa, this machine's beside an A100's."""
    return (
        Column("batch", "batch"), Column("dtype", "dtype"), Column(unit, f"{unit} timed"),
        Column("eager_seconds", "eager s", 3), Column("sdpa_seconds", "sdpa s", 3),
        Column("speedup_percent", "faster %"), Column("a100_speedup_percent", "A100: faster %"),
        Column("eager_peak_mb", "eager peak MB", 0), Column("sdpa_peak_mb", "sdpa peak MB", 0),
        Column("memory_saved_percent", "saved %"), Column("a100_memory_saved_percent", "A100: saved %"),
    )  # fmt: skip


def _pair(table: str, workload: Workload, count: int, seconds: str, peak: str, unit: str) -> dict[str, Any]:
    """Return a row that compares eager and sdpa; what one of them cannot do costs its own figures alone."""
    row: dict[str, Any] = {"batch": workload.batch, "dtype": workload.dtype, unit: count}
    known = a100_row(table, workload.batch, workload.dtype) or {}
    row |= {f"a100_{name}": value for name, value in known.items() if name not in row}
    fits, troubles = [], []
    for name in _IMPLEMENTATIONS:
        wanted = workload.pattern_bytes(name, training=table == "training")
        free = free_bytes(parse_device(workload.device))
        if free is not None and wanted > free:
            troubles.append(f"{name} wants {format_bytes(wanted)} of patterns, {format_bytes(free)} are free")
            continue
        try:
            row[f"{name}_peak_mb"] = _mb(run_task(peak, workload, implementation=name))
            fits.append(name)
        except BackendError as error:
            troubles.append(f"{name}: {error}")
    row["samples"] = _times(seconds, workload, fits, troubles, **{unit: count})
    row |= {f"{name}_seconds": median(times) for name, times in row["samples"].items()}
    row["speedup_percent"] = _percent(row.get("eager_seconds"), row.get("sdpa_seconds"))
    row["memory_saved_percent"] = _percent(row.get("eager_peak_mb"), row.get("sdpa_peak_mb"))
    return {**row, "error": "; ".join(troubles) or None}


def _times(
    task: str, workload: Workload, names: list[str], troubles: list[str], **count: int
) -> dict[str, list[float]]:
    """Time implementations in turn in one process; each alone where that fails."""
    times: dict[str, list[float]] = {}
    groups = [names] if names else []
    while groups:
        group = groups.pop()
        try:
            times |= run_task(task, workload, implementations=group, **count)
        except BackendError as error:
            if len(group) > 1:
                groups = [[name] for name in reversed(group)]
            else:
                troubles.append(f"{group[0]}: {error}")
    return times


@checked_numbers(repeats=(1, 10_000))
def bench_attention(
    workload: Workload | None = None,
    *,
    backends: Sequence[str] = BACKENDS,
    repeats: int = 5,
    backward: bool = False,
    progress: bool | None = None,
) -> BenchTable:
    """Compare the kernels that attention can be computed with, for one layer of the model's shape.

    Args:
        workload: shape, batch, dtype and device.
        backends: names of ``BACKENDS``; one that is missing here gets a row that says so.
        repeats: timed, after one to warm up (and to compile).
        backward: with the backward pass.
        progress: show a bar; None shows it on a terminal.

    Raises:
        InputError: a backend is unknown, or the model is factorised: its layers are many small attentions.
    """
    workload = workload or Workload()
    if workload.config.variant != "spacetime":
        raise InputError(f"kernels are compared on joint attention, and this model's is {workload.config.variant}")
    if unknown := [name for name in backends if name not in BACKENDS]:
        raise InputError(f"backends {', '.join(unknown)} are not known; choose of {', '.join(BACKENDS)}")
    answers = run_task("attention_seconds", workload, backends=list(backends), repeats=repeats, backward=backward)
    rows: list[dict[str, Any]] = []
    for name in progress_bar(backends, progress, "attention", "backend"):
        answer = answers[name]
        if isinstance(answer, str):
            rows.append({"backend": name, "error": f"not on this machine ({answer.rstrip('.')})"})
            continue
        try:
            peak = run_task("attention_peak", workload, backend=name, backward=backward)
        except BackendError as error:
            rows.append({"backend": name, "error": str(error)})
            continue
        row = {"backend": name, "milliseconds": 1000 * median(answer["seconds"]), "peak_mb": _mb(peak)}
        rows.append({**row, "difference": answer["error"], "samples": answer["seconds"], "error": None})
    base = next((row["milliseconds"] for row in rows if row["backend"] == "sdpa" and not row["error"]), None)
    for row in rows:
        row["relative"] = row["milliseconds"] / base if base and not row["error"] else None
    columns = (
        Column("backend", "backend"), Column("milliseconds", "ms"), Column("relative", "× sdpa", 2),
        Column("peak_mb", "peak MB"), Column("difference", "off from eager", 8),
    )  # fmt: skip
    settings = {"repeats": repeats, "backward": backward, "batch": workload.batch, **workload.describe()}
    what = "forward and backward" if backward else "forward"
    return BenchTable(
        "attention",
        f"Attention of one layer, {what}, batch {workload.batch}, {workload.dtype}, medians of {repeats}",
        columns, tuple(rows), describe_machine(workload.device), settings, None,
        (_verdict(rows), _PEAK_NOTE.split(";")[0] + "."),
    )  # fmt: skip


def _verdict(rows: Sequence[dict[str, Any]]) -> str:
    """Say which backend is fastest here, and whether the default is as good, as far as the spread of the runs tells."""
    runs = {row["backend"]: row["samples"] for row in rows if not row["error"]}
    if not runs:
        return "No backend could be measured."
    best = min(runs, key=lambda name: median(runs[name]))
    if "sdpa" not in runs:
        return f"Fastest here: {best}."
    if best == "sdpa":
        return "The default, sdpa, is the fastest here."
    share = f"{median(runs[best]) / median(runs['sdpa']):.2f} of"
    if _quartiles(runs[best])[-1] >= _quartiles(runs["sdpa"])[0]:
        return f"The default, sdpa, is not told apart from {best}, which took {share} its time: less than runs differ."
    return f"Fastest here: {best}, {share} the time of the default, sdpa."


def _quartiles(values: Sequence[float]) -> list[float]:
    return quantiles(values, n=4, method="inclusive") if len(values) > 1 else list(values)


@checked_numbers(repeats=(1, 10_000))
def bench_rollout(workload: Workload | None = None, *, repeats: int = 3, progress: bool | None = None) -> BenchTable:
    """Compare a forward pass with a record of attention, and with an exact rollout over all layers.

    Args:
        workload: shape, batch, dtype and device.
        repeats: timed, after one to warm up.
        progress: show a bar; None shows it on a terminal.
    """
    workload = workload or Workload()
    times = run_task("rollout_seconds", workload, repeats=repeats)
    base, rows = median(times["forward"]), []
    for name in progress_bar(times, progress, "rollout", "row"):
        seconds = median(times[name])
        row = {"what": name, "seconds": seconds, "relative": seconds / base, "samples": times[name], "error": None}
        rows.append({**row, "peak_mb": _mb(run_task("rollout_peak", workload, what=name))})
    pattern = sum(workload.pattern_entries()) * parse_dtype(workload.dtype).itemsize
    columns = (
        Column("what", "what"), Column("seconds", "s", 3), Column("relative", "× forward", 2),
        Column("peak_mb", "peak MB"),
    )  # fmt: skip
    note = f"All patterns of a clip as tensors would be {format_bytes(pattern)}."
    return BenchTable(
        "rollout", f"Record and rollout, batch {workload.batch}, {workload.dtype}, medians of {repeats}",
        columns, tuple(rows),
        describe_machine(workload.device), {"repeats": repeats, "batch": workload.batch, **workload.describe()},
        None, (note, _PEAK_NOTE.split(";")[0] + "."),
    )  # fmt: skip


def bench_cost(config: VivitConfig | None = None) -> BenchTable:
    """Return multiply-adds and parameters of the four variants, beside the paper's. Nothing is run.

    Args:
        config: the shape; None is ViViT-B/16x2 with 400 classes, the paper's.
    """
    shape = config or VivitConfig(num_labels=400)
    rows = []
    for variant, (macs, parameters) in PAPER_COST.items():
        # models 3 and 4 have no CLS token
        classifier = "token" if variant in ("spacetime", "factorized_encoder") else "gap"
        cost = model_cost(shape.replace(variant=variant, classifier=classifier))
        ours = {"gmacs": cost.macs / 1e9, "parameters_m": cost.parameters / 1e6}
        paper = {"paper_gmacs": macs, "paper_parameters_m": parameters} if config is None else {}
        rows.append({"variant": variant, **ours, **paper, "parts": cost.parts, "error": None})
    columns = (
        Column("variant", "variant"), Column("gmacs", "G MACs"), Column("parameters_m", "M parameters"),
        Column("paper_gmacs", "paper: G MACs"), Column("paper_parameters_m", "paper: M parameters"),
    )  # fmt: skip
    grid = shape.grid
    settings = {"num_frames": shape.num_frames, "image_size": shape.image_size, "tokens": grid.num_tokens}
    note = (
        "Counted are matrix products and the convolution; the paper's counts are 0.3 to 0.8 % higher. It calls "
        "multiply-adds GFLOPs."
    )
    published = {"source": PAPER_SOURCE, "rows": {name: list(values) for name, values in PAPER_COST.items()}}
    return BenchTable(
        "cost", "Multiply-adds of one clip, and parameters", columns, tuple(rows), describe_machine(), settings,
        published, (note, PAPER_SOURCE + "."),
    )  # fmt: skip


def _a100(table: str) -> dict[str, Any]:
    return {"source": A100_SOURCE, "rows": [dict(row) for row in A100[table]]}


def _mb(count: int | None) -> float | None:
    return None if count is None else count / 1e6


def _percent(slow: float | None, fast: float | None) -> float | None:
    return None if not slow or not fast else 100 * (slow / fast - 1)
