"""``vivit-lab heads``: which heads matter, what they look at, and what is left without them."""

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
    frame_step,
    load,
    print_json,
    say,
    say_found,
    seed_all,
)

__all__ = ["heads"]

heads = typer.Typer(
    rich_markup_mode="markdown",
    name="heads",
    help="Score, describe and prune attention heads.",
    no_args_is_help=True,
)

_LISTED = 10  # heads that are named with their intervals

Data = Annotated[
    str, typer.Option(help="'planted' or 'planted:LEVEL', a directory of videos, a CSV of path and label, or a video.")
]
Clips = Annotated[int | None, typer.Option(min=1, help="How many clips; 256 planted ones, or all.")]
Method = Annotated[
    str,
    typer.Option(
        help="michel, fisher, confidence, gradient_activation, ablation, ablation_zero, ablation_resample or l0."
    ),
]
Batch = Annotated[int, typer.Option(min=1, help="Clips in a forward pass.")]


def _open(model: str, data: str, clips: int | None, stride: int | None, device: str, dtype: str, quiet: bool) -> Any:
    from vivit_lab.evaluation import open_data

    loaded, processor = load(model, device, dtype, quiet=quiet)
    stride = frame_step(loaded, processor, stride, quiet=quiet or data.startswith("planted"))
    found = open_data(data, loaded.config, processor, count=clips, stride=stride)
    say_found(getattr(found, "found", ""))
    return loaded, processor, found


def _method(name: str, batch_size: int) -> Any:
    from dataclasses import replace

    from vivit_lab.heads.registry import make_importance

    return replace(make_importance(name), batch_size=batch_size)


def _cells(matrix: Any) -> str:
    """Return a table of layers × heads whose columns stay apart, however long the numbers are."""
    rows = [[f"{value:.3g}" for value in row] for row in matrix]
    width = max(len(cell) for row in rows for cell in row)
    return "\n".join(
        "  ".join([f"layer {layer:2d}", *(cell.rjust(width) for cell in row)]) for layer, row in enumerate(rows)
    )


def _intervals(scores: Any) -> str:
    """Return the most important heads, a line each: score and 95 % interval."""
    low, high = scores.interval()
    return "\n".join(
        f"layer {layer:2d} head {head:2d}  {scores.values[layer, head]:.3g} "
        f"[{low[layer, head]:.3g}, {high[layer, head]:.3g}]"
        for layer, head in scores.ranking()[:_LISTED]
    )


@heads.command()
def importance(
    model: Model = "planted",
    data: Data = "planted",
    method: Method = "michel",
    out: Annotated[Path, typer.Option(help="Where the scores go, .safetensors.")] = Path("head-importance.safetensors"),
    clips: Clips = None,
    batch_size: Batch = 8,
    stride: Stride = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Score every head: one number each, with bootstrap intervals and how stable the ranking is."""
    seed_all(seed)
    loaded, _, found = _open(model, data, clips, stride, device, dtype, as_json)
    scores = _method(method, batch_size)(loaded, found, progress=False if as_json else None)
    out.parent.mkdir(parents=True, exist_ok=True)
    scores.save(out)
    stable = scores.rank_stability() if len(scores) > 1 else None
    if as_json:
        return print_json(
            {
                "file": str(out),
                "method": scores.method,
                "unit": scores.unit,
                "target": scores.target,
                "values": scores.values.tolist(),
                **{end: matrix.tolist() for end, matrix in zip(("low", "high"), scores.interval(), strict=True)},
                "ranking": scores.ranking(),
                "rank_stability": None if stable is None else stable.mean,
            }
        )
    say(scores)
    say(f"{scores.unit}; {scores.target or ''}")
    say(_cells(scores.values.tolist()))
    if len(scores) > 1:
        say(f"the most important, with 95 % intervals over {len(scores)} {scores.rows}s:")
        say(_intervals(scores))
    if stable is not None:
        say(f"rank stability {stable}")
    say(f"file: {out}")


@heads.command()
def prune(
    out: Annotated[Path, typer.Option(help="Directory of the smaller model.")],
    model: Model = "planted",
    removed: Annotated[
        str | None, typer.Option("--heads", help="Heads to remove, layer:head,head;layer:head, such as '0:1,3;5:0'.")
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="A mask, .json or .npz: 0 removes.")] = None,
    share: Annotated[float | None, typer.Option(min=0, max=1, help="Remove this share, least important first.")] = None,
    data: Data = "planted",
    method: Method = "michel",
    fold_mean: Annotated[bool, typer.Option("--fold-mean", help="Leave each head's mean in the output bias.")] = False,
    clips: Clips = None,
    batch_size: Batch = 8,
    stride: Stride = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Take heads out of a model for good and save what is left, for this package and transformers 4."""
    from vivit_lab.errors import InputError
    from vivit_lab.heads.mask import HeadMask
    from vivit_lab.heads.pruning import head_means, prune_heads

    if sum(option is not None for option in (removed, mask, share)) != 1:
        raise InputError("give exactly one of --heads, --mask and --share")
    seed_all(seed)
    progress = False if as_json else None
    needs_data = share is not None or fold_mean
    if needs_data:
        loaded, processor, found = _open(model, data, clips, stride, device, dtype, as_json)
    else:
        (loaded, processor), found = load(model, device, dtype, quiet=as_json), None
    if mask is not None:
        chosen = HeadMask.load(mask)
    elif removed is not None:
        config = loaded.config
        chosen = HeadMask.without(_parse(removed), config.num_attention_layers, config.num_attention_heads)
    else:
        scores = _method(method, batch_size)(loaded, found, progress=progress)
        chosen = scores.mask(fraction=1 - (share or 0.0))
    means = head_means(loaded, found, batch_size=batch_size, progress=progress) if fold_mean else None
    smaller = prune_heads(loaded, chosen, fold_mean=means)
    smaller.save_pretrained(out)
    processor.save_pretrained(out)
    told = {
        "directory": str(out),
        "pruned_heads": {str(layer): list(row) for layer, row in smaller.config.pruned_heads.items()},
        "parameters": [loaded.num_parameters(), smaller.num_parameters()],
    }
    if as_json:
        return print_json(told)
    before, after = told["parameters"]
    say(f"{chosen.share_removed:.0%} of the heads removed, {before:,} → {after:,} parameters")
    say(f"model: {out}")


def _parse(text: str) -> dict[int, list[int]]:
    """Read ``0:1,3;5:0``."""
    from vivit_lab.errors import InputError

    found: dict[int, list[int]] = {}
    try:
        for part in filter(None, text.split(";")):
            layer, _, row = part.partition(":")
            found.setdefault(int(layer), []).extend(int(head) for head in row.split(","))
    except ValueError as error:
        raise InputError(f"--heads wants 'layer:head,head;layer:head', such as '0:1,3;5:0'; got {text!r}") from error
    return found


@heads.command()
def curve(
    model: Model = "planted",
    data: Data = "planted",
    method: Method = "michel",
    out: Annotated[Path, typer.Option(help="Where points go; a run that was cut off goes on there.")] = Path(
        "head-pruning"
    ),
    iterative: Annotated[bool, typer.Option("--iterative", help="Score anew at each share.")] = False,
    random: Annotated[int, typer.Option(min=0, help="Random orders.")] = 5,
    shares: Annotated[str, typer.Option(help="Shares of the heads to remove.")] = "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9",
    fold_mean: Annotated[bool, typer.Option("--fold-mean", help="Leave each head's mean in the output bias.")] = False,
    clips: Clips = None,
    batch_size: Batch = 8,
    stride: Stride = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Prune step by step and measure what is left: accuracy, logits, agreement, speed and memory, with intervals."""
    from vivit_lab.errors import InputError, MissingExtraError
    from vivit_lab.heads.pruning import PruningExperiment

    seed_all(seed)
    try:
        wanted = tuple(float(share) for share in shares.split(","))
    except ValueError as error:
        raise InputError(f"--shares wants numbers and commas, such as '0.25,0.5'; got {shares!r}") from error
    loaded, _, found = _open(model, data, clips, stride, device, dtype, as_json)
    study = PruningExperiment(
        loaded,
        found,
        _method(method, batch_size),
        schedule="iterative" if iterative else "one-shot",
        random=random,
        shares=wanted,
        fold_mean=fold_mean,
        batch_size=batch_size,
        seed=seed,
    )
    curves = study.run(out, progress=False if as_json else None)
    files = {"curves": str(out / "curves.json")}
    try:
        curves.plot().savefig(out / "curves.png", dpi=110)
        files["figure"] = str(out / "curves.png")
    except MissingExtraError:  # the picture is a convenience
        pass
    if as_json:
        rows = curves.rows()
        return print_json({"files": files, "settings": curves.settings, "rows": rows})
    for row in curves.rows():
        say(
            f"{row['series']:<22} {row['share']:>4.0%}  top-1 {row['top1']:.3f} "
            f"[{row['top1_low']:.3f}, {row['top1_high']:.3f}]  agreement {row['agreement']:.3f}  KL {row['kl']:.3f}  "
            f"speed {row['speed']:.2f} ×"
        )
    for kind, path in files.items():
        say(f"{kind}: {path}")


@heads.command()
def stats(
    model: Model = "planted",
    data: Data = "planted",
    out: Annotated[Path, typer.Option(help="Where the numbers go, .safetensors.")] = Path(
        "head-statistics.safetensors"
    ),
    clips: Clips = None,
    queries: Annotated[int, typer.Option(min=0, help="Sampled queries a clip; 0 takes all.")] = 256,
    stride: Stride = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure where each head looks in space and time, as multiples of uniform attention, and name its kind."""
    from vivit_lab.heads.clips import clip_set
    from vivit_lab.heads.motion import motion_of
    from vivit_lab.heads.roles import Taxonomy
    from vivit_lab.heads.statistics import head_statistics

    seed_all(seed)
    loaded, _, found = _open(model, data, clips, stride, device, dtype, as_json)
    motion = motion_of(found, clip_set(found), loaded.config.grid)
    progress = False if as_json else None
    measured = head_statistics(loaded, found, queries=queries or None, seed=seed, motion=motion, progress=progress)
    out.parent.mkdir(parents=True, exist_ok=True)
    measured.save(out)
    kinds = Taxonomy()(measured)
    lifts = {name: measured.lift(name) for name in measured.names if name != "past_future"}
    if as_json:
        rows = {name: matrix.tolist() for name, matrix in lifts.items()}
        return print_json({"file": str(out), "lifts": rows, "kinds": [list(row) for row in kinds.kinds]})
    for name, matrix in lifts.items():
        error = float(measured.error(name).nan_to_num(0).max())
        say(f"{name}, × uniform (sampling error of the value up to {error:.2g})")
        say(_cells(matrix.tolist()))
    say(kinds)
    say(f"file: {out}")
