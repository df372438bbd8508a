"""``vivit-lab train``: fine-tune a model on your own labelled clips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from vivit_lab.cli.options import Debug, Json, Model, Seed, load, print_json, say, say_found, seed_all
from vivit_lab.errors import InputError

__all__ = ["train"]


def train(
    data: Annotated[
        str, typer.Option(help="A folder of class folders (maybe in train/ and val/), or a CSV: path,label[,split,…].")
    ],
    out: Annotated[Path, typer.Option(help="Directory of the run; the model goes there, the best one to OUT/best.")],
    model: Model = "planted",
    preset: Annotated[
        str, typer.Option(help="small, kinetics400, epic_kitchens or something_something_v2: where settings come from.")
    ] = "small",
    epochs: Annotated[float | None, typer.Option(help="How often each clip is seen.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Updates, instead of epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Clips in a forward pass.")] = None,
    accumulate: Annotated[int | None, typer.Option(min=1, help="Forward passes of an update.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The highest.")] = None,
    layer_decay: Annotated[float | None, typer.Option(help="Share of the next layer's learning rate.")] = None,
    freeze_backbone: Annotated[bool, typer.Option("--freeze-backbone", help="Train the classifier alone.")] = False,
    freeze_embeddings: Annotated[bool, typer.Option("--freeze-embeddings", help="Keep filters and positions.")] = False,
    freeze_layers: Annotated[int | None, typer.Option(min=0, help="Keep so many blocks from the first on.")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Frames of a clip; positions are interpolated.")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Height and width in pixels; likewise.")] = None,
    validation: Annotated[float, typer.Option(help="Share of each class, where the data has no split.")] = 0.2,
    views: Annotated[int, typer.Option(min=1, help="Windows of a validation clip; their logits are averaged.")] = 4,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Any field of training or augmentation: --set flip=0 --set stride=1,4 --set mixup=.1"
        ),
    ] = None,
    mixed_precision: Annotated[str | None, typer.Option(help="no, bf16 or fp16.")] = None,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, one more forward pass.")
    ] = False,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read clips.")] = 0,
    on_error: Annotated[str, typer.Option(help="Clips that cannot be read: skip (and list) or raise.")] = "skip",
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was cut off, or begin.")] = False,
    cpu: Annotated[bool, typer.Option("--cpu", help="Stay on the CPU although there is a GPU.")] = False,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Fine-tune a model on your own labelled clips; the directory it writes is a model for every other command."""
    from dataclasses import replace

    from vivit_lab.clips.listing import list_clips
    from vivit_lab.training.config import preset_by_name
    from vivit_lab.training.finetuning import finetune

    seed_all(seed)
    chosen = preset_by_name(preset)
    training, augmenting = _settings(setting or [])
    given = {
        "steps": steps, "batch_size": batch_size, "accumulate": accumulate, "learning_rate": learning_rate,
        "layer_decay": layer_decay, "freeze_layers": freeze_layers, "mixed_precision": mixed_precision,
        "freeze_backbone": freeze_backbone or None, "freeze_embeddings": freeze_embeddings or None,
        "gradient_checkpointing": gradient_checkpointing or None, "num_workers": workers, "seed": seed,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    if twice := sorted(set(training) & set(given)):
        option = {"num_workers": "--workers"}.get(twice[0], "--" + twice[0].replace("_", "-"))
        raise InputError(f"--set {twice[0]} is an option of its own; give {option} alone")
    found = list_clips(data)
    say_found(found)
    loaded, processor = load(model, "cpu", "float32", quiet=as_json)
    result = finetune(
        loaded, processor, found, out, preset=preset, augmentation=replace(chosen.augmentation, **augmenting),
        num_frames=frames, image_size=size, epochs=epochs, validation=validation, views=views, on_error=on_error,
        resume=resume, cpu=cpu, progress=False if as_json else None, **training, **given,
    )  # fmt: skip
    if as_json:
        return print_json(
            {
                "model": str(result.last),
                "best": str(result.best),
                "steps": result.training.steps,
                "accuracy": None if result.report is None else result.report.accuracy,
                "accuracy_interval": None if result.report is None else list(result.report.accuracy_interval),
                "changes": list(result.changes),
                "skipped": [{"path": str(clip.path), "error": why} for clip, why in result.skipped],
            }
        )
    for line in result.summary():
        say(f"- {line}")
    say(f"model: {result.last}")
    if result.best != result.last:
        say(f"best: {result.best}")


def _settings(texts: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields of training and those of augmentation that ``--set name=value`` names."""
    from vivit_lab.training.augment import Augmentation
    from vivit_lab.training.config import TrainingConfig

    fields: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    known = (TrainingConfig.__dataclass_fields__, Augmentation.__dataclass_fields__)
    for text in texts:
        name, separator, value = text.partition("=")
        place = next((place for place, names in enumerate(known) if name in names), None)
        if not separator or place is None:
            names = ", ".join(sorted({*known[0], *known[1]}))
            raise InputError(f"--set wants name=value with a field of training or augmentation ({names}), got {text!r}")
        fields[place][name] = _value(value)
        if isinstance(fields[place][name], str) and (
            not isinstance(known[place][name].default, str) or (name == "flip" and value != "auto")
        ):
            raise InputError(f"--set {name} wants such as {known[place][name].default}, got {value!r}")
    return fields


def _value(text: str) -> Any:
    """Return a number, several, true, false or none, or else the text itself."""
    if "," in text:
        return tuple(_value(part) for part in text.split(","))
    lower = text.strip().lower()
    if lower in ("none", "null"):
        return None
    try:
        # JSON knows no .5
        return json.loads("0" + lower if lower.startswith(".") else lower)
    except json.JSONDecodeError:
        return text
