"""From a video file to pictures of what a model attended to: the command line's steps, for scripts and notebooks."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.attribution.raw import RawAttention
from vivit_lab.attribution.reading import refuse_target
from vivit_lab.attribution.registry import METHODS, class_by_name, make_method
from vivit_lab.attribution.rollout import AttentionRollout
from vivit_lab.checkpoints.checkpoint import Checkpoint
from vivit_lab.errors import CheckpointNotFoundError, ConfigError, GridError, InputError
from vivit_lab.families.auto import load_model
from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
from vivit_lab.grid import TokenGrid
from vivit_lab.html import facts_table, report_html
from vivit_lab.model.config import VivitConfig
from vivit_lab.numbers import checked_numbers
from vivit_lab.processing.processor import VivitImageProcessor
from vivit_lab.processing.sampling import sampling_of
from vivit_lab.records.attention import AttentionRecord, record_attention
from vivit_lab.records.targets import TargetLike
from vivit_lab.render.movie import render_movie
from vivit_lab.render.sheet import contact_sheet
from vivit_lab.video.clip import Clip
from vivit_lab.video.read import read_clip

__all__ = [
    "DEMO_METHOD",
    "METHODS",
    "Explanation",
    "explain_video",
    "is_movie",
    "load_pair",
    "make_method",
    "movie_path",
    "prepared_grid",
    "top_labels",
]

_MOVIES = (".mp4", ".m4v", ".mov", ".mkv")
_OTHER_MEDIA = (".avi", ".gif", ".jpg", ".json", ".mpg", ".png", ".safetensors", ".webm")

#: What the demo shows: on the bundled image model a rollout over all twelve layers is diffuse, from layer 8 it is not.
DEMO_METHOD = AttentionRollout(start_layer=8)


@dataclass(frozen=True, eq=False)
class Explanation:
    """What one video gave.

    Args:
        clip: the prepared clip.
        map: relevance of its tubelets.
        record: the attention record it was read from, for further questions; None where the method ran the model
            itself.
        files: what was written: ``"movie"``, and ``"sheet"`` and ``"map"`` where asked for.
    """

    clip: Clip
    map: AttributionMap
    record: AttentionRecord | None
    files: dict[str, Path]

    def _repr_html_(self) -> str:
        """Show the map over the clip's frames, and say where the files are."""
        files = {name: str(path) for name, path in self.files.items()}
        return self.clip._repr_html_() + self.map._repr_html_() + report_html(facts_table(files))


def load_pair(
    name: str | os.PathLike[str] | Checkpoint = "bundled",
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    **options: Any,
) -> tuple[VivitModel | VivitForVideoClassification, VivitImageProcessor]:
    """Load a model and the processor that its pixels need.

    Args:
        name: a directory, a Hub id, ``"bundled"`` or ``"planted"``, or an opened `Checkpoint`.
        device: where the model goes; ``"auto"`` takes CUDA where there is one, else the CPU; None is the CPU.
        dtype: dtype of the parameters; None is float32.
        **options: as for ``from_pretrained``.

    Raises:
        CheckpointError: see ``from_pretrained``.
        ConfigError: what the processor makes is no whole number of the model's tubelets.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    places = ("revision", "cache_dir", "local_files_only", "token", "force_download")
    where = {key: options.pop(key) for key in places if key in options}
    checkpoint = Checkpoint.open(name, **where)  # model and processor come from one commit, also while a branch moves
    model = load_model(checkpoint, device=device, dtype=dtype, **options)
    try:
        processor = VivitImageProcessor.from_pretrained(checkpoint)
    except CheckpointNotFoundError as error:
        raise CheckpointNotFoundError(
            f"{checkpoint.name} has a model but no preprocessor_config.json, so how its pixels were normalised is not "
            "known; save one beside it, e.g. VivitImageProcessor.trained_range().save_pretrained(directory)"
        ) from error
    try:
        prepared_grid(model.config, processor)
    except GridError as error:
        raise ConfigError(
            f"the processor of {checkpoint.name} makes pixels that the model cannot be given: {error}; correct size or "
            "crop_size in its preprocessor_config.json"
        ) from error
    return model, processor


def prepared_grid(config: VivitConfig, processor: VivitImageProcessor) -> TokenGrid:
    """Return the token grid of the clips that a processor prepares for a model, which may have another size than its.

    Where the processor does not crop, the shape of a video decides; this is the grid of square ones.

    Args:
        config: of the model.
        processor: prepares its clips.

    Raises:
        GridError: they are no whole number of tubelets.
    """
    made = processor.geometry(config.image_size, config.image_size).model_size
    return config.grid.resized(config.num_frames, *made)


@checked_numbers()
def explain_video(
    path: str | os.PathLike[str],
    model: VivitModel | VivitForVideoClassification,
    processor: VivitImageProcessor,
    method: Any = DEMO_METHOD,
    *,
    target: TargetLike | str = None,
    out: str | os.PathLike[str] = ".",
    stride: int | None = None,
    start: int | float = 0,
    queries: Sequence[Sequence[int]] | None = None,
    sheet: bool = False,
    save_map: bool = False,
    percentile: float | None = 99.0,
    progress: bool = False,
    movie: dict[str, Any] | None = None,
) -> Explanation:
    """Read a window of a video, explain it, and draw the relevance over its own frames.

    Args:
        path: a video file.
        model: a ViViT.
        processor: what prepares its pixels, also to another size than the model's.
        method: any method of the package, or another callable as (model, clip, target).
        target: what a class-specific method explains: a class's index or label, or a ``Target``; None for the
            predicted class. Class-agnostic methods take none.
        out: a directory, or a path ending in a movie's suffix; the other files go beside it.
        stride: take one frame in so many; None takes the model's own, see ``sampling_of``.
        start: first frame (int), or time in seconds (float).
        queries: places (t, y, x) that are explained instead of CLS, averaged, by methods that can.
        sheet: also write a contact sheet, PNG.
        save_map: also write the map, safetensors.
        percentile: the colour scale ends at this percentile of the clip's relevance, which keeps a few outlying tokens
            from hiding all others, and the picture says so. None ends it at the maximum. Not used where ``movie`` has
            its own ``limits`` or one scale a frame.
        progress: show progress bars while an expensive method runs and while the movie is drawn.
        movie: further arguments of ``render_movie``.

    Raises:
        VideoError: the file cannot be read.
        InputError: an argument does not fit.
        GridError: a query lies outside the clip's token grid, or its pixels are no whole number of tubelets.
    """
    file = movie_path(out, path, method)  # refuses before anything is computed
    _check_target(method, model, target)
    wanted = class_by_name(target, model.config) if isinstance(target, str) else target
    options = _options(method, queries, progress=progress)
    stride = sampling_of(processor, model.config.num_frames, stride).stride
    clip = read_clip(path, model.config.num_frames, stride, start, processor=processor)
    if queries is not None:
        assert clip.pixel_values is not None, "a processor prepared the clip"
        grid = model.grid_of(clip.pixel_values, None)
        options["queries"] = [grid.token(*_place(query)) for query in queries]
    reads_record = isinstance(method, (RawAttention, AttentionRollout))
    record = record_attention(model, clip) if reads_record else None
    relevance = method(*((model, clip) if record is None else (record, None)), wanted, **options)
    file.parent.mkdir(parents=True, exist_ok=True)
    drawing = {"percentile": percentile, **(movie or {})}
    if drawing.get("limits") is not None or drawing.get("normalize", "clip") == "frame":
        drawing["percentile"] = None  # the scale is given already
    files = {"movie": render_movie(clip, relevance, file, progress=progress, **drawing)}
    if sheet:
        files["sheet"] = file.with_suffix(".png")
        shared = {
            key: drawing[key]
            for key in ("colormap", "alpha", "normalize", "limits", "percentile", "interpolation")
            if key in drawing
        }
        contact_sheet(clip, relevance, files["sheet"], **shared)
    if save_map:
        files["map"] = file.with_suffix(".safetensors")
        relevance.save(files["map"])
    return Explanation(clip, relevance, record, files)


def _options(method: Any, queries: Any, *, progress: bool) -> dict[str, Any]:
    """Return those arguments of a method's call that it has and that are needed, but the queries, which it may lack."""
    known = inspect.signature(method).parameters
    options: dict[str, Any] = {"progress": progress} if "progress" in known else {}
    if queries is not None:
        if "queries" not in known:
            can = [name for name, kind in METHODS.items() if "queries" in inspect.signature(kind.__call__).parameters]
            raise InputError(
                f"{type(method).__name__} explains the clip as a whole and takes no queries; those that do are "
                f"{', '.join(can)}"
            )
        for query in queries:
            _place(query)
    return options


def _check_target(method: Any, model: VivitModel | VivitForVideoClassification, target: Any) -> None:
    """Refuse a class that the method does not look at or that the model has not, before a video is read."""
    if getattr(method, "class_agnostic", False):
        return refuse_target(method, target)
    about_a_class = target is None or isinstance(target, (int, str))
    is_classifier = isinstance(model, VivitForVideoClassification) and model.config.num_labels
    if isinstance(method, tuple(METHODS.values())) and about_a_class and not is_classifier:
        others = [name for name, kind in METHODS.items() if kind.class_agnostic]
        raise InputError(
            f"{type(method).__name__} explains a class, but {model.name_or_path or 'this model'} has no classifier: "
            f"choose a classifier, or a class-agnostic method ({', '.join(others)})"
        )


def _place(query: Sequence[int]) -> tuple[int, int, int]:
    if len(query) != 3:
        raise InputError(f"a query is a place (t, y, x) on the token grid, got {tuple(query)}")
    return (query[0], query[1], query[2])


def is_movie(path: str | os.PathLike[str]) -> bool:
    """Whether a path names a movie that ``render_movie`` can write, and so not a directory."""
    return Path(path).suffix.lower() in _MOVIES


def movie_path(out: str | os.PathLike[str], source: str | os.PathLike[str], method: Any) -> Path:
    """Return where the movie of a video goes: ``out`` itself if it names a movie, else a file in that directory.

    Raises:
        InputError: it would replace the video, or ``out`` names a file that is no such movie.
    """
    out, source = Path(out), Path(source)
    if out.suffix.lower() in _OTHER_MEDIA or (out.is_file() and not is_movie(out)):
        raise InputError(f"out={out} is neither a directory nor a movie to write ({', '.join(_MOVIES)})")
    words = re.sub(r"(?<!^)(?=[A-Z])", "_", type(method).__name__).lower()  # AttentionRollout → attention_rollout
    target = out if is_movie(out) else out / f"{source.stem}_{words}.mp4"
    if target.resolve() == source.resolve():
        raise InputError(f"out={out} is the video itself, which would be lost; choose another name")
    return target


def top_labels(logits: Tensor, config: VivitConfig, count: int = 5) -> list[dict[str, Any]]:
    """Return the highest classes of one clip: label, index, logit and, for a classifier, probability.

    Args:
        logits: (num_labels,).
        config: names the classes, and says whether they exclude each other (softmax) or not (sigmoid).
        count: how many.
    """
    logits = logits.float()
    probabilities = None
    if config.problem_type == "multi_label_classification":
        probabilities = logits.sigmoid()
    elif config.problem_type != "regression" and len(logits) > 1:
        probabilities = logits.softmax(dim=-1)
    names, rows = config.id2label or {}, []
    for index in logits.topk(min(count, len(logits))).indices.tolist():
        rows.append({"label": names[index], "index": index, "logit": float(logits[index])})
        if probabilities is not None:
            rows[-1]["probability"] = float(probabilities[index])
    return rows
