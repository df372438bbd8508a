"""``vivit-lab convert``: a JAX checkpoint becomes a directory that everything here opens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vivit_lab.cli.options import Debug, Json, print_json, say, status
from vivit_lab.errors import InputError

__all__ = ["convert"]

_ORDERS = "time_space or space_time: which axis a block of factorized_self_attention_block attends along first."


def convert(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="A checkpoint of scenic: flax's msgpack file, its directory, or .npz.")
    ],
    out: Annotated[Path, typer.Option(help="The directory to write: config.json, weights, preprocessor_config.json.")],
    frames: Annotated[int | None, typer.Option(help="Frames of a clip, where the parameters do not tell.")] = None,
    size: Annotated[int | None, typer.Option(help="Height and width in pixels, where they do not tell.")] = None,
    variant: Annotated[str | None, typer.Option(help="The variant, where two look alike.")] = None,
    order: Annotated[str | None, typer.Option(help=_ORDERS)] = None,
    groups: Annotated[
        str | None, typer.Option(help="Classes of several classifiers side by side, e.g. noun=300,verb=97.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Convert a published JAX checkpoint (google-research/scenic), of any of the four variants."""
    from vivit_lab.families.cost import model_cost
    from vivit_lab.families.scenic import from_scenic
    from vivit_lab.processing.processor import VivitImageProcessor

    given = {"num_frames": frames, "image_size": size, "variant": variant, "attention_order": order}
    fields: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if groups is not None:
        fields["label_groups"] = _groups(groups)
    with status(f"converting {source}", quiet=as_json):
        model = from_scenic(source, **fields)
        files = model.save_pretrained(out)
        side = model.config.image_size
        # scenic's range [-1, 1], and its centre crop of 224 out of 256
        processor = VivitImageProcessor.trained_range(
            size={"shortest_edge": round(side * 256 / 224)}, crop_size={"height": side, "width": side}
        )
        processor.save_pretrained(out)
    config, cost = model.config, model_cost(model.config)
    if as_json:
        facts = {"variant": config.variant, "macs": cost.macs, "parameters": cost.parameters}
        return print_json({"out": str(out), "files": [str(path) for path in files], **facts})
    say(
        f"{config.variant}: {config.num_frames} frames of {config.image_size}×{config.image_size}, "
        f"{config.num_labels} classes, {cost}"
    )
    say(f"written: {out}")


def _groups(text: str) -> dict[str, int]:
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return {name.strip(): int(count) for name, count in pairs}
    except ValueError as error:
        raise InputError(f"--groups wants name=classes,name=classes, got {text!r}") from error
