"""The command line: ``vivit-lab demo``, ``render``, ``predict``, ``info``, ``evaluate``."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from vivit_lab._version import __version__
from vivit_lab.cli.bench import bench
from vivit_lab.cli.bulk import bulk
from vivit_lab.cli.convert import convert
from vivit_lab.cli.evaluate import evaluate
from vivit_lab.cli.heads import heads
from vivit_lab.cli.lab import lab
from vivit_lab.cli.options import (
    Debug,
    Device,
    Dtype,
    Json,
    Model,
    Seed,
    Start,
    Stride,
    errors,
    frame_step,
    load,
    one_line,
    print_error,
    print_json,
    print_table,
    say,
    seed_all,
    status,
)
from vivit_lab.cli.train import train
from vivit_lab.errors import InputError, VivitLabWarning
from vivit_lab.processes import stopping_on_signals
from vivit_lab.text import visible
from vivit_lab.video.source import holds_pictures, is_video_name

__all__ = ["app", "main"]

app = typer.Typer(
    rich_markup_mode="markdown",  # in which [ray] is text
    name="vivit-lab",
    help="See why a video transformer decided what it did.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# written out, because importing the registry would load torch
_METHODS = (
    "raw, rollout, gradient_rollout, chefer, attention_gradient, legrad, transition, attcat, value_norm, "
    "input_x_gradient, integrated_gradients, smooth_grad, occlusion or rise."
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 an error, 2 wrong usage, 130 interrupted.

    SIGTERM and SIGHUP end a command as Ctrl-C does, with what it has started; the code is then 128 + the number of the
    signal.
    """
    given = sys.argv[1:] if arguments is None else arguments
    with stopping_on_signals() as came, warnings.catch_warnings():
        warnings.showwarning = _show_warning
        warnings.simplefilter("always", VivitLabWarning)
        try:
            app(given)
        except SystemExit as done:  # how the parser ends a run, good or bad
            if came:
                return 128 + came[0]
            return done.code if isinstance(done.code, int) else int(done.code is not None)
        except Exception as error:
            if "--debug" in given:
                raise
            if "--json" in given:
                print_json({"error": one_line(error)})
            print_error(error)
            return 1
    return 0


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        say(__version__)
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where the files go.")] = Path("vivit-lab-demo"),
    device: Device = "auto",
    dtype: Dtype = "float32",
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Render the attention rollout of the bundled model over the bundled clip: a movie, a sheet and the map."""
    from vivit_lab.checkpoints.hub import bundled_clip_path
    from vivit_lab.explain import DEMO_METHOD, explain_video

    seed_all(seed)
    model, processor = load("bundled", device, dtype, quiet=as_json)
    with status("reading, attending, drawing", quiet=as_json):
        result = explain_video(bundled_clip_path(), model, processor, DEMO_METHOD, out=out, sheet=True, save_map=True)
    if as_json:
        return print_json({"files": _paths(result.files), "map": result.map.metadata()})
    say(
        "An attention rollout from layer 8 to 11 of a ViT pretrained on images (DINOv2 ViT-S/14), started as a ViViT:\n"
        "where its CLS token looked in each frame. The model knows no motion and no classes; over all twelve layers\n"
        "the rollout is diffuse. Clip: CC-BY-SA-4.0, © 2019-2020 Joao Eriberto Mota Filho.\n"
    )
    _print_files(result.files)


@app.command()
def render(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Videos.")],
    model: Model = "bundled",
    method: Annotated[str, typer.Option(help=_METHODS)] = "rollout",
    target: Annotated[
        str | None, typer.Option(help="The class to explain, by index or label; the predicted one by default.")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="A field of the method, e.g. --set start_layer=8 --set head_fusion=max."),
    ] = None,
    query: Annotated[
        list[str] | None, typer.Option(help="A token t,y,x that is explained instead of CLS; may repeat.")
    ] = None,
    out: Annotated[Path, typer.Option(help="A directory, or for one FILE the movie's path.")] = Path("."),
    layout: Annotated[str, typer.Option(help="overlay, side_by_side or heat.")] = "overlay",
    colormap: Annotated[
        str | None, typer.Option(help="inferno, viridis, magma, …; for signed relevance coolwarm or RdBu_r.")
    ] = None,
    alpha: Annotated[float | None, typer.Option(help="Constant opacity of the heat; by default it follows it.")] = None,
    normalize: Annotated[str, typer.Option(help="One colour scale a clip, or one a frame.")] = "clip",
    percentile: Annotated[
        float, typer.Option(help="Where the colour scale of a clip ends; 100 is the maximum.")
    ] = 99.0,
    zoom: Annotated[int, typer.Option(min=1, help="Enlarge small videos by a whole number.")] = 1,
    stride: Stride = None,
    start: Start = "0",
    sheet: Annotated[bool, typer.Option("--sheet", help="Also write a contact sheet, PNG.")] = False,
    save_map: Annotated[bool, typer.Option("--map", help="Also write the map, safetensors.")] = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Render what a model attended to, or why it saw a class, over the frames of videos, one movie each."""
    from vivit_lab.explain import explain_video, is_movie, make_method, movie_path

    seed_all(seed)
    chosen = make_method(method, _settings(setting or []))
    queries = [_numbers(text) for text in query or []] or None
    targets = [movie_path(out, file, chosen).resolve() for file in files]
    if len(set(targets)) < len(targets):
        why = f"--out {out} names one file" if is_movie(out) else "some videos have the same name"
        raise InputError(f"{why}, so that {len(files)} videos would overwrite each other's movies; render them apart")
    loaded, processor = load(model, device, dtype, quiet=as_json)
    drawing = {"layout": layout, "colormap": colormap, "alpha": alpha, "normalize": normalize, "zoom": zoom}
    step = frame_step(loaded, processor, stride, quiet=as_json)
    results, failed = [], 0
    for file in files:
        try:
            first = _start(start, file, loaded.config.num_frames, step)
            result = explain_video(
                file, loaded, processor, chosen, target=target, out=out, stride=step, start=first, queries=queries,
                sheet=sheet, save_map=save_map, percentile=percentile, progress=not as_json, movie=drawing,
            )  # fmt: skip
        except Exception as error:
            if debug or len(files) == 1:
                raise
            print_error(error)
            results.append({"video": str(file), "error": one_line(error)})
            failed += 1
            continue
        results.append({"video": str(file), "files": _paths(result.files), "map": result.map.metadata()})
        if not as_json:
            _print_files(result.files)
    if as_json:
        print_json({"videos": results})
    if failed:
        raise typer.Exit(1)


@app.command()
def predict(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A video.")],
    model: Model,
    top: Annotated[int, typer.Option(min=1, help="How many classes.")] = 5,
    stride: Stride = None,
    start: Start = "0",
    device: Device = "auto",
    dtype: Dtype = "float32",
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Classify a window of a video."""
    import torch

    from vivit_lab.explain import top_labels
    from vivit_lab.video.read import read_clip

    seed_all(seed)
    loaded, processor = load(model, device, dtype, quiet=as_json)
    if not hasattr(loaded, "classifier"):
        raise InputError(
            f"{model} has no classifier, so it predicts nothing; name a classifier with --model, "
            "e.g. google/vivit-b-16x2-kinetics400"
        )
    count, step = loaded.config.num_frames, frame_step(loaded, processor, stride, quiet=as_json)
    with status("reading and classifying", quiet=as_json):
        clip = read_clip(file, count, step, _start(start, file, count, step), processor=processor)
        assert clip.pixel_values is not None, "a processor prepared the clip"
        with torch.inference_mode():
            logits = loaded(clip.pixel_values.to(loaded.device), interpolate_pos_encoding=None).logits[0]
    best = top_labels(logits, loaded.config, top)
    if as_json:
        frames = {"indices": clip.indices.tolist(), "seconds": clip.seconds.tolist()}
        return print_json({"video": str(file), "model": model, "frames": frames, "classes": best})
    table = Table(title=f"{file.name}, {clip.seconds[0]:.2f}–{clip.end:.2f} s, {model}", title_justify="left")
    for column in ("class", "probability", "logit"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for row in best:
        likely = f"{row['probability']:.4f}" if "probability" in row else "-"
        table.add_row(row["label"], likely, f"{row['logit']:.3f}")
    print_table(table)


@app.command()
def info(
    name: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|FILE",
            help="A video, a folder of pictures, a model's directory, Hub id or 'bundled'.",
        ),
    ],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what a video or a model is."""
    is_model = (Path(name) / "config.json").exists()
    is_video = not is_model and (Path(name).is_file() or is_video_name(name) or holds_pictures(name))
    facts = _video_facts(name) if is_video else _model_facts(name, quiet=as_json)
    if as_json:
        return print_json(facts)
    table = Table(show_header=False, title=name, title_justify="left")
    for key, value in facts.items():
        table.add_row(key.replace("_", " "), str(value))
    print_table(table)


def _video_facts(name: str) -> dict[str, Any]:
    from vivit_lab.video.info import probe

    return probe(name).to_dict()


def _model_facts(name: str, *, quiet: bool) -> dict[str, Any]:
    model, processor = load(name, "cpu", "auto", quiet=quiet)
    config, grid = model.config, model.config.grid
    low, high = processor.value_range
    facts: dict[str, Any] = {
        "class": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
        "input": f"{config.num_frames} frames of {config.image_size}×{config.image_size}",
        "tubelet": "×".join(map(str, config.tubelet_size)),
        "variant": config.variant,
        "tokens": f"{grid.t}×{grid.h}×{grid.w}{' + CLS' if grid.cls else ''} = {grid.num_tokens}",
        "layers": config.num_attention_layers,
        "heads": config.num_attention_heads,
        "width": config.hidden_size,
        "pixel_range": f"{low:.4g} … {high:.4g}" + (" (normalised twice)" if processor.normalizes_twice else ""),
    }
    if hasattr(model, "classifier"):
        labels = list((config.id2label or {}).values())
        facts["classes"] = f"{len(labels)}: {', '.join(labels[:5])}{', …' if len(labels) > 5 else ''}"
    else:
        facts["classes"] = "none (no classifier)"
    return facts


def _settings(texts: list[str]) -> dict[str, str]:
    for text in texts:
        if "=" not in text:
            raise InputError(f"--set wants name=value, got {text!r}")
    return dict(text.split("=", 1) for text in texts)


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--query wants t,y,x (whole numbers), got {text!r}") from error


def _start(text: str, file: Path, count: int, stride: int) -> int | float:
    """Return the first frame (int) or its time (float) that ``--start`` names."""
    if text == "random":
        import torch

        from vivit_lab.video.info import probe

        last = max(probe(file).frames - count * stride, 0)
        return int(torch.randint(last + 1, ()))
    try:
        return float(text[:-1]) if text.endswith("s") else int(text)
    except ValueError as error:
        raise InputError(f"--start wants a frame (12), a time (1.5s) or 'random', got {text!r}") from error


def _paths(files: dict[str, Path]) -> dict[str, str]:
    return {kind: str(path) for kind, path in files.items()}


def _print_files(files: dict[str, Path]) -> None:
    for kind, path in files.items():
        say(f"{kind}: {visible(path, lines=False)}")


def _show_warning(message: Warning | str, category: type[Warning], *_place: Any, **_more: Any) -> None:
    errors.print(f"warning: {' '.join(str(message).split())}", style="yellow", soft_wrap=True)


app.command()(evaluate)
app.add_typer(bulk)
app.add_typer(heads)
app.command()(train)
app.command()(bench)
app.command()(convert)
app.command()(lab)
