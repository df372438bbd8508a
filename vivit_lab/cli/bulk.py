"""``vivit-lab bulk``: explain a dataset, say how far that is, try failures again, export, render, sweep heads."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from vivit_lab.cli.options import Debug, Json, Seed, errors, print_json, print_table, say, say_found, seed_all
from vivit_lab.errors import InputError

__all__ = ["FAILED_CLIPS", "bulk"]

FAILED_CLIPS = 3
"""Exit code of a run that is complete, but in which clips failed."""

bulk = typer.Typer(
    rich_markup_mode="markdown",  # in which [ray] is text
    name="bulk",
    help="Explain thousands of clips, resumably. Exit codes: 0 done, 1 stopped by an error, 2 wrong usage, "
    f"{FAILED_CLIPS} done but clips failed, 130 interrupted, 143 ended by SIGTERM.",
    no_args_is_help=True,
)

Out = Annotated[str, typer.Option("--out", help="The run's folder or URL; what is done there stays done.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="The folder of a run.")]
Model = Annotated[str | None, typer.Option("--model", "-m", help="Directory, Hub id, 'bundled' or 'planted'.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")]
Sampling = Annotated[str | None, typer.Option(help="window (with --stride), or uniform over the segment.")]
Stride = Annotated[
    int | None, typer.Option(min=1, help="Take one frame in so many; by default as the model was trained.")
]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16, float16 or auto.")]
Autocast = Annotated[str | None, typer.Option(help="bfloat16 or float16: torch.autocast.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Clips in a forward pass; found here by default.")]
ShardSize = Annotated[int | None, typer.Option(min=1, help="Clips of a part; 64.")]
Engine = Annotated[str, typer.Option(help="local: processes of this machine; ray: a cluster (extra [ray]).")]
Address = Annotated[str | None, typer.Option("--ray-address", help="Of a running Ray cluster, or auto.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Decoding processes; as many as there are cores.")]
Devices = Annotated[str, typer.Option("--device", help="cpu, cuda:0, or several: cuda:0,cuda:1; auto takes every GPU.")]
Timeout = Annotated[float, typer.Option(min=0.001, help="Seconds that decoding one clip may take.")]
Shards = Annotated[str | None, typer.Option(help="Only some, e.g. 0:100, for several machines that share a folder.")]


@bulk.command()
def run(
    videos: Annotated[
        str | None,
        typer.Argument(metavar="VIDEOS", help="A folder, pattern, CSV or Parquet table, or URL. None resumes OUT."),
    ] = None,
    out: Out = "vivit-lab-bulk",
    model: Model = None,
    revision: Revision = None,
    method: Annotated[
        list[str] | None, typer.Option(help="A method, e.g. rollout:start_layer=8;head_fusion=max; may repeat.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="The class to explain; each clip's prediction by default.")] = None,
    sampling: Sampling = None,
    stride: Stride = None,
    dtype: Dtype = None,
    autocast: Autocast = None,
    head_statistics: Annotated[str | None, typer.Option(help="sampled, all or none.")] = None,
    hidden_states: Annotated[str | None, typer.Option(help="none, cls or tokens.")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="How many best classes a row names.")] = None,
    batch_size: BatchSize = None,
    shard_size: ShardSize = None,
    compile: Annotated[bool | None, typer.Option("--compile", help="Use torch.compile.")] = None,
    engine: Engine = "local",
    ray_address: Address = None,
    workers: Workers = None,
    device: Devices = "auto",
    timeout: Timeout = 120.0,
    shards: Shards = None,
    retry_errors: Annotated[bool, typer.Option("--retry-errors", help="Also try failed clips again.")] = False,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Explain every clip of VIDEOS into RUN, or go on where that stopped."""
    given = {
        "model": model, "revision": revision, "methods": tuple(method) if method else None, "target": target,
        "sampling": sampling, "stride": stride, "dtype": dtype, "autocast": autocast, "top_k": top_k,
        "head_statistics": head_statistics, "hidden_states": hidden_states, "batch_size": batch_size,
        "shard_size": shard_size, "compile": compile,
    }  # fmt: skip
    from vivit_lab.bulk.engine import run_bulk

    seed_all(seed)
    job = _job({name: value for name, value in given.items() if value is not None}, out, resumes=videos is None)
    chosen = _engine(engine, ray_address, workers, device, timeout)
    with _interruptible(out, quiet=as_json):
        results = run_bulk(
            job, videos, out, executor=chosen, shards=shards, retry_errors=retry_errors,
            progress=False if as_json else None, on_found=say_found,
        )  # fmt: skip
    _finish(results, as_json=as_json)


@bulk.command()
def status(run: Run, as_json: Json = False, debug: Debug = False) -> None:
    """Say how far a run is: parts, errors, clips a second, time left."""
    from vivit_lab.bulk.results import BulkResults

    _show(BulkResults.open(run), as_json=as_json)


@bulk.command()
def retry(
    run: Run,
    engine: Engine = "local",
    ray_address: Address = None,
    workers: Workers = None,
    device: Devices = "auto",
    timeout: Timeout = 120.0,
    shards: Shards = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Finish a run and try the clips that failed again; what comes of them lies over the parts, which stay."""
    from vivit_lab.bulk.engine import run_bulk

    chosen = _engine(engine, ray_address, workers, device, timeout)
    with _interruptible(run, quiet=as_json):
        progress = False if as_json else None
        results = run_bulk(None, None, run, executor=chosen, shards=shards, retry_errors=True, progress=progress)
    _finish(results, as_json=as_json)


@bulk.command()
def export(
    run: Run,
    to: Annotated[Path, typer.Option("--to", help="What to write; its ending says the form.")],
    kind: Annotated[str | None, typer.Option("--format", help="parquet, csv, npz or zarr.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write all rows as one Parquet or CSV file, npz arrays or a Zarr group, with retries in their place."""
    from vivit_lab.bulk.results import BulkResults
    from vivit_lab.bulk.results import export as write

    path = write(BulkResults.open(run), to, kind)
    print_json({"file": path}) if as_json else say(path)


@bulk.command()
def render(
    run: Run,
    out: Annotated[Path, typer.Option("--out", help="A folder for index.html, movies and thumbnails.")],
    clips: Annotated[
        list[str] | None, typer.Option("--clip", help="An id; may repeat. Else --by, or the first.")
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="The clips with the highest entropy, peak, time, confidence, margin or loss.")
    ] = None,
    lowest: Annotated[bool, typer.Option("--lowest", help="With --by: the lowest instead.")] = False,
    count: Annotated[int, typer.Option(min=1, help="How many clips.")] = 100,
    method: Annotated[str | None, typer.Option(help="Whose maps; the run's first method by default.")] = None,
    percentile: Annotated[float, typer.Option(help="Where the colour scale ends, which all clips share.")] = 99.0,
    layout: Annotated[str, typer.Option(help="overlay, side_by_side or heat.")] = "overlay",
    zoom: Annotated[int, typer.Option(min=1, help="Enlarge small videos by a whole number.")] = 1,
    legend: Annotated[bool, typer.Option("--legend", help="Draw scale and time strip into each movie, too.")] = False,
    workers: Workers = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Render overlay movies of clips in parallel, on one colour scale, and a page of them that needs no network."""
    from vivit_lab.bulk.render import render_clips
    from vivit_lab.bulk.results import BulkResults

    if clips and by:
        raise InputError("give either --clip or --by")
    results = BulkResults.open(run)
    chosen = clips or None
    if by:
        chosen = [clip for clip, _ in results.extremes(by, count, largest=not lowest, method=method)]
        if not chosen:
            raise InputError(f"no clip of {run} has a score {by} yet{' (it wants labels)' if by == 'loss' else ''}")
    page = render_clips(
        results, out, chosen, method=method, count=count, percentile=percentile, layout=layout, zoom=zoom,
        legend=legend, workers=workers, progress=False if as_json else None,
    )  # fmt: skip
    print_json({"page": str(page)}) if as_json else say(page)


@bulk.command()
def heads(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The folder of a run; with --data it is made.")],
    data: Annotated[
        str | None, typer.Option("--data", help="Labelled clips: a folder, pattern, CSV or Parquet table, or URL.")
    ] = None,
    model: Model = None,
    revision: Revision = None,
    sampling: Sampling = None,
    stride: Stride = None,
    dtype: Dtype = None,
    autocast: Autocast = None,
    batch_size: BatchSize = None,
    shard_size: ShardSize = None,
    masks: Annotated[
        str, typer.Option(help="single; random:REMOVED:COUNT; or a JSON file: a list of [layer, head], or masks.")
    ] = "single",
    name: Annotated[str | None, typer.Option(help="Of the sweep; that of the masks by default.")] = None,
    block_size: Annotated[int, typer.Option(min=1, help="Masks of a part.")] = 16,
    engine: Engine = "local",
    ray_address: Address = None,
    workers: Workers = None,
    device: Devices = "auto",
    timeout: Timeout = 120.0,
    shards: Shards = None,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run clips under head masks: accuracy, margin and KL of each; the same command resumes.

    The clips are those of RUN, or with --data any labelled ones, for which RUN is made.
    """
    given = {
        "model": model, "revision": revision, "sampling": sampling, "stride": stride, "dtype": dtype,
        "autocast": autocast, "batch_size": batch_size, "shard_size": shard_size,
    }  # fmt: skip
    from vivit_lab.bulk.sweep import sweep_heads

    job = _job(
        {key: value for key, value in given.items() if value is not None}, run, resumes=data is None, videos="--data"
    )
    with _interruptible(run, quiet=as_json):
        found = sweep_heads(
            run, partial(_masks, masks, seed), job=job, videos=data, name=name, block_size=block_size, shards=shards,
            progress=False if as_json else None, executor=_engine(engine, ray_address, workers, device, timeout),
            on_found=say_found,
        )  # fmt: skip
    _show_sweep(found, as_json=as_json)


def _show_sweep(found: Any, *, as_json: bool) -> None:
    done, parts = found.parts
    if as_json:
        return print_json(
            {"sweep": found.task.name, "parts_done": done, "parts": parts, "masks": found.summary.to_pylist()}
        )
    table = Table(title=f"{found.task.name}: {done} of {parts} parts; the masks that change most", title_justify="left")
    for column in ("mask", "removed", "clips", "accuracy", "margin", "KL"):
        table.add_column(column, justify="left" if column == "mask" else "right")
    for row in [found.summary.to_pylist()[0], *found.worst(15)]:
        numbers = (f"{row[key]:.4g}" for key in ("accuracy", "margin", "kl"))
        table.add_row(row["mask"], str(row["removed"]), str(row["clips"]), *numbers)
    print_table(table)


def _masks(text: str, seed: int, layers: int, heads: int) -> Any:
    """Return the masks that ``--masks`` names."""
    from vivit_lab.bulk.sweep import MaskList

    if text == "single":
        return MaskList.single(layers, heads)
    kind, *numbers = text.split(":")
    if kind == "random":
        if len(numbers) != 2 or not all(number.isdigit() for number in numbers):
            raise InputError(f"--masks wants random:REMOVED:COUNT, e.g. random:9:50, got {text!r}")
        return MaskList.random(layers, heads, removed=int(numbers[0]), count=int(numbers[1]), seed=seed)
    return MaskList.load(text, layers, heads)


def _job(given: dict[str, Any], out: str, *, resumes: bool, videos: str = "the VIDEOS") -> Any:
    """Return the job of the options; those of a run that is there stand where an option is left out."""
    from vivit_lab.bulk.job import BulkJob
    from vivit_lab.bulk.run import open_run
    from vivit_lab.bulk.store import Store

    there = Store.at(out).exists("run.json")
    if resumes and not there:
        raise InputError(f"{out} holds no run to resume; name {videos} to begin one")
    stored = open_run(out).job.to_dict() if there else {}
    return BulkJob.from_dict({**(stored or {"methods": ["rollout"]}), **given})


def _engine(name: str, address: str | None, workers: int | None, device: str, timeout: float) -> Any:
    from vivit_lab.bulk.engine import make_executor

    if name == "ray":
        if device != "auto":
            raise InputError(f"--device {device} is of the local engine; Ray itself gives each model a GPU of its node")
        return make_executor("ray", address=address, workers=workers, timeout=timeout)
    if address is not None:
        raise InputError("--ray-address wants --engine ray")
    devices = device if device == "auto" else tuple(filter(None, device.split(",")))
    return make_executor(
        name, **({"workers": workers, "devices": devices, "timeout": timeout} if name == "local" else {})
    )


@contextmanager
def _interruptible(out: str, *, quiet: bool) -> Iterator[None]:
    """End with 130 on Ctrl-C, and say how to go on: with the same command. SIGTERM and SIGHUP come here too."""
    try:
        yield
    except KeyboardInterrupt:
        command = shlex.join(["vivit-lab", *sys.argv[1:]])
        text = f"interrupted; the parts of {out} that are done stay done. Go on with: {command}"
        if quiet:
            print_json({"error": text})
        errors.print(text, style="yellow", soft_wrap=True)
        sys.stdout.flush()
        raise typer.Exit(130) from None


def _finish(results: Any, *, as_json: bool) -> None:
    if _show(results, as_json=as_json):
        raise typer.Exit(FAILED_CLIPS)


def _show(results: Any, *, as_json: bool) -> int:
    """Print how far a run is; return how many clips failed."""
    status = results.status()
    failures = results.failures(20 if as_json else 5) if status.errors else []
    if as_json:
        print_json({"run": results.run.store.root, **status.to_dict(), "failed": failures})
        return status.errors
    table = Table(show_header=False, title=results.run.store.root, title_justify="left")
    for name, value in results.summary(status).items():
        table.add_row(name, value)
    print_table(table)
    for failure in failures:
        errors.print(f"{failure['stage']}: {failure['error']}", style="yellow", soft_wrap=True)
    if status.errors > 5:
        errors.print(f"… and {status.errors - 5} more; --json lists them", style="yellow")
    if status.errors:
        errors.print(f"try these again with: vivit-lab bulk retry {results.run.store.root}")
    return status.errors
