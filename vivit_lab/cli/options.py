"""Options that several commands have, and how commands load, report and print."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vivit_lab.errors import VivitLabError
from vivit_lab.text import HIDDEN, visible

__all__ = [
    "Debug",
    "Device",
    "Dtype",
    "Json",
    "Model",
    "Seed",
    "Start",
    "Stride",
    "errors",
    "frame_step",
    "load",
    "one_line",
    "print_error",
    "print_json",
    "print_table",
    "say",
    "say_found",
    "seed_all",
    "status",
]


class _Console(Console):
    """Shows text as it is: names from files steer no terminal, make no lines, and are no markup or emoji."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a text as what is printed; rich asks for this of every str, in tables too."""
        return super().render_str(visible(text, lines=False), **{**options, "emoji": False, "markup": False})


errors = _Console(stderr=True, highlight=False)

Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …; auto takes CUDA where there is one.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16, float16, or auto for the checkpoint's own.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random: --start random, and weights drawn anew.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; no progress, no tables.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the whole trace of an error.")]
Model = Annotated[str, typer.Option("--model", "-m", help="Directory, Hub id, or 'bundled'.")]
Stride = Annotated[
    int | None, typer.Option(min=1, help="Take one frame in so many; by default as the model was trained.")
]
Start = Annotated[str, typer.Option(help="First frame (12), time (1.5s), or 'random'.")]


def load(name: str, device: str, dtype: str, *, quiet: bool) -> Any:
    """Return a model and its processor, with a spinner on a terminal."""
    from vivit_lab.explain import load_pair

    with status(f"loading {name}", quiet=quiet):
        return load_pair(name, device=device, dtype=dtype)


def frame_step(model: Any, processor: Any, stride: int | None, *, quiet: bool) -> int:
    """Return the stride of a model's clips, and say in one line where it comes from if it is assumed."""
    from vivit_lab.processing.sampling import sampling_of

    sampling = sampling_of(processor, model.config.num_frames, stride)
    if sampling.source == "assumed" and not quiet:
        errors.print(f"{sampling}; --stride takes another", style="dim", soft_wrap=True)
    return sampling.stride


def say_found(found: Any) -> None:
    """Say in one line on stderr which clips a name stands for, and where their labels come from."""
    if str(found):
        errors.print(str(found), style="dim", soft_wrap=True)


@contextmanager
def status(text: str, *, quiet: bool) -> Iterator[None]:
    """Show a spinner while something runs, where somebody looks."""
    if quiet or not errors.is_terminal:
        yield
        return
    with errors.status(Text(visible(text, lines=False))):
        yield


def seed_all(seed: int) -> None:
    """Seed everything random."""
    import torch

    torch.manual_seed(seed)


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object on stdout; NaN and infinity, which JSON does not know, are null."""
    text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)
    print(HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def say(text: Any) -> None:
    """Print a text on stdout; what would steer a terminal is written out."""
    print(visible(text))


def print_table(table: Table) -> None:
    """Print a table on stdout."""
    _Console().print(table)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_error(error: Exception) -> None:
    """Print an error on stderr, as one line."""
    errors.print(f"error: {one_line(error)}", style="red", soft_wrap=True)


def one_line(error: Exception) -> str:
    """Return an error's message as one line; its type too, where the package did not make it."""
    kind = "" if isinstance(error, VivitLabError) else f"{type(error).__name__}: "
    return kind + " ".join(str(error).split())
