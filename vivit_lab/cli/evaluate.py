"""``vivit-lab evaluate``: which map to trust."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vivit_lab.cli.options import (
    Debug,
    Device,
    Dtype,
    Json,
    Model,
    Seed,
    Stride,
    errors,
    frame_step,
    load,
    print_json,
    say,
    say_found,
    seed_all,
)

__all__ = ["evaluate"]

_SHOWN = ("joint_ap", "spatial_ap", "when_auc", "srg", "deletion", "insertion", "saco", "sensitivity", "infidelity")


def evaluate(
    model: Model = "planted",
    data: Annotated[
        str,
        typer.Option(help="'planted' or 'planted:LEVEL', a directory of videos, a CSV of path and label, or a video."),
    ] = "planted",
    methods: Annotated[
        str,
        typer.Option(
            help="'all' (that suit the model), or names with settings: raw,rollout:start_layer=8;head_fusion=max,chefer"
        ),
    ] = "all",
    out: Annotated[Path, typer.Option(help="Where parts and report go; a run that was cut off goes on there.")] = Path(
        "vivit-lab-evaluation"
    ),
    clips: Annotated[int | None, typer.Option(min=1, help="How many clips; 256 planted ones, or all.")] = None,
    every_clip: Annotated[bool, typer.Option("--every-clip", help="Keep clips that the model names wrongly.")] = False,
    sanity: Annotated[int, typer.Option(min=0, help="Clips for the sanity checks of each method; 0 for none.")] = 8,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips of a part, and versions in a forward pass.")] = 8,
    workers: Annotated[int, typer.Option(min=1, help="Processes, for a small model on the CPU.")] = 1,
    stride: Stride = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Judge attribution methods on clips: localisation, perturbation and sanity, beside controls, with intervals."""
    from vivit_lab.evaluation import methods_by_name, open_data, suitable_methods, write_report
    from vivit_lab.faithfulness.evaluation import EvaluationPlan
    from vivit_lab.faithfulness.evaluation import evaluate as judge

    seed_all(seed)
    chosen = methods_by_name(methods)
    loaded, processor = load(model, device, dtype, quiet=as_json)
    if methods.strip().lower() == "all":
        chosen, reasons = suitable_methods(chosen, loaded)
        for reason in reasons:
            errors.print(f"left out: {reason}")
    stride = frame_step(loaded, processor, stride, quiet=as_json or data.startswith("planted"))
    found = open_data(data, loaded.config, processor, count=clips, stride=stride)
    say_found(getattr(found, "found", ""))
    plan = EvaluationPlan(sanity_clips=sanity, batch_size=batch_size, only_correct=not every_clip)
    plan = plan.for_model(loaded)
    progress = False if as_json else None
    report = judge(loaded, found, chosen, plan=plan, out=out / "parts", workers=workers, progress=progress)
    files: dict[str, Any] = {kind: str(path) for kind, path in write_report(report, out).items()}
    if as_json:
        return print_json({"files": files, "settings": report.settings, "verdicts": report.verdicts()})
    shown = report.only([metric for metric in _SHOWN if metric in report.metrics])
    say(shown)
    for line in shown.verdicts():
        say(f"- {line}")
    judged, seen = report.settings["clips_judged"], report.settings["clips_seen"]
    errors.print(f"{judged} of {seen} clips judged")
    for failure in report.settings.get("clips_failed", []):
        errors.print(f"left out: {failure}", soft_wrap=True)
    for kind, path in files.items():
        say(f"{kind}: {path}")
