"""``vivit-lab bench``: what this machine makes of a ViViT, beside published figures."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from vivit_lab.cli.options import Debug, Json, Seed, print_json, print_table, say
from vivit_lab.errors import InputError

if TYPE_CHECKING:
    from vivit_lab.bench.table import BenchTable

__all__ = ["bench"]


class _Bench(StrEnum):
    inference = "inference"
    training = "training"
    attention = "attention"
    decode = "decode"
    rollout = "rollout"
    cost = "cost"


def bench(
    what: Annotated[_Bench, typer.Argument(help="Which table.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Take the shape of this model; ViViT-B/16x2 by default.")
    ] = None,
    field: Annotated[
        list[str] | None, typer.Option("--config", help="A whole number of the shape: --config num_hidden_layers=2.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, …; auto takes CUDA where there is one.")] = "auto",
    dtype: Annotated[
        list[str] | None, typer.Option(help="float32, bfloat16, float16; may repeat for inference, which takes two.")
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Clips of a batch; may repeat for inference: 1, 2, 4, 8.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Timed steps, batches or repeats: 100 in training, 20 in inference.")
    ] = None,
    backend: Annotated[list[str] | None, typer.Option(help="For attention: only these; may repeat.")] = None,
    backward: Annotated[bool, typer.Option("--backward", help="For attention: with the backward pass.")] = False,
    video: Annotated[Path | None, typer.Option(help="For decode: a file of your own.")] = None,
    frames: Annotated[int, typer.Option(min=1, help="For decode: frames of a clip.")] = 32,
    stride: Annotated[int, typer.Option(min=1, help="For decode: take one frame in so many.")] = 2,
    out: Annotated[Path | None, typer.Option(help="Also write the table as JSON to this file.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure time and memory on this machine: the tables of the documentation, and the published figures beside."""
    from vivit_lab.bench import decode, suites
    from vivit_lab.bench.workload import Workload

    progress = False if as_json else None
    count: dict[str, Any] = {} if steps is None else {"repeats": steps}
    if what is _Bench.decode:
        return _show(
            decode.bench_decode(video, num_frames=frames, stride=stride, progress=progress, **count), out, as_json
        )
    shape = _shape(model, field or [])
    if what is _Bench.cost:
        return _show(suites.bench_cost(shape if model or field else None), out, as_json)
    if what is not _Bench.inference and (len(dtype or []) > 1 or len(batch or []) > 1):
        raise InputError(f"bench {what} takes one --dtype and one --batch; only inference takes several")
    first = {"dtype": (dtype or ["float32"])[0], "batch": (batch or [1])[0]}
    workload = Workload(shape, device, seed=seed, **first)
    if what is _Bench.inference:
        given = {"batch_sizes": batch, "dtypes": dtype, "batches": steps}
        options = {name: value for name, value in given.items() if value}
        return _show(suites.bench_inference(workload, progress=progress, **options), out, as_json)
    if what is _Bench.training:
        return _show(suites.bench_training(workload, steps=steps or 100, progress=progress), out, as_json)
    if what is _Bench.attention:
        count |= {"backends": backend} if backend else {}
        return _show(suites.bench_attention(workload, backward=backward, progress=progress, **count), out, as_json)
    _show(suites.bench_rollout(workload, progress=progress, **count), out, as_json)


def _shape(model: str | None, fields: list[str]) -> Any:
    """Return the configuration of a model, or of ViViT-B, with some whole numbers changed."""
    from vivit_lab.model.config import VivitConfig

    shape = VivitConfig(num_labels=400) if model is None else VivitConfig.from_pretrained(model)
    changes: dict[str, Any] = {}
    for text in fields:
        name, _, value = text.partition("=")
        numbers = [part.strip() for part in value.split(",")]
        if not all(part.isdecimal() for part in numbers):
            raise InputError(f"--config wants name=number, or three for tubelet_size=2,16,16; got {text!r}")
        changes[name] = tuple(map(int, numbers)) if len(numbers) > 1 else int(value)
    return shape.replace(**changes)


def _show(table: BenchTable, out: Path | None, as_json: bool) -> None:
    if out is not None:
        table.to_json(out)
    if as_json:
        return print_json(table.to_dict())
    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(table.columns):
        shown.add_column(column.title, justify="right" if place else "left", overflow="fold")
    for cells in table.cells():
        shown.add_row(*cells)
    say(table.title)
    print_table(shown)
    for line in table.remarks():
        say(line)
    if out is not None:
        say(f"written: {out}")
