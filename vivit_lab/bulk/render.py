"""Movies of chosen clips in parallel, on one colour scale, and a page that shows them without a network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vivit_lab.bulk.clips import Failure
from vivit_lab.bulk.decode import start_worker
from vivit_lab.bulk.results import SCORES, scores
from vivit_lab.colormap import choose_colormap, value_limits
from vivit_lab.errors import InputError
from vivit_lab.files import plain_name
from vivit_lab.html import render
from vivit_lab.numbers import checked_numbers
from vivit_lab.processes import usable_cores, working
from vivit_lab.progress import progress_bar
from vivit_lab.render.movie import render_movie
from vivit_lab.render.painter import make_painter

if TYPE_CHECKING:
    from vivit_lab.bulk.results import BulkResults

__all__ = ["Card", "Gallery", "render_clips", "write_page"]


@dataclass(frozen=True)
class Card:
    """What the page says of a clip.

    Args:
        clip: its id; the files are ``movies/<clip>.mp4`` and ``thumbnails/<clip>.jpg``.
        title: the video's name.
        path: the video.
        start: first second that was read.
        prediction: the class's name, or None.
        probability: of it, or None.
        label: the right class's name, or None.
        correct: whether they agree, or None.
        scores: name → number, to sort by.
        error: why there is no movie, or None.
    """

    clip: str
    title: str
    path: str
    start: float | None
    prediction: str | None
    probability: float | None
    label: str | None
    correct: bool | None
    scores: dict[str, float]
    error: str | None = None


@dataclass(frozen=True)
class Gallery:
    """A page.

    Args:
        title: what it shows.
        scale: what the relevance is, in words.
        limits: of the colour scale, shared by all clips.
        percentile: of all relevance, where the scale ends.
        colours: RGB levels 0–255 along the scale.
        cards: the clips.
    """

    title: str
    scale: str
    limits: tuple[float, float]
    percentile: float
    colours: list[tuple[int, ...]]
    cards: list[Card]


def write_page(gallery: Gallery, path: Path) -> Path:
    """Write the page.

    Args:
        gallery: what it shows.
        path: of the HTML file, beside ``movies/`` and ``thumbnails/``.

    Returns:
        The path.
    """
    path.write_text(render("gallery.html", title=gallery.title, data=asdict(gallery)), encoding="utf-8")
    return path


_THUMBNAIL = 240  # pixels of the longer side


@checked_numbers(zoom=(1, 64))
def render_clips(
    results: BulkResults,
    out: str | os.PathLike[str],
    clips: Sequence[str | int] | None = None,
    *,
    method: str | None = None,
    count: int = 100,
    percentile: float = 99.0,
    layout: str = "overlay",
    zoom: int = 1,
    legend: bool = False,
    workers: int | None = None,
    progress: bool | None = None,
) -> Path:
    """Render overlay movies of clips in parallel, and a page of them that needs no network.

    All movies share one colour scale, so that they can be compared. The page has for each clip a thumbnail, which plays
    while the pointer is on it, the prediction, the label and scores; it filters by text and by right and wrong, and
    sorts by score.

    Args:
        results: the run.
        out: a folder: ``index.html``, ``movies/`` and ``thumbnails/`` go there.
        clips: ids or places; None takes the first ``count`` that have a map.
        method: which maps; the first by default.
        count: how many, where ``clips`` is None.
        percentile: of all relevance that is shown, where the colour scale ends.
        layout: as for ``render_movie``.
        zoom: as for ``render_movie``.
        legend: whether each movie has the scale and a time strip below; the page prints the scale in any case.
        workers: processes; as many as there are usable cores where None.
        progress: show a bar; None shows it on a terminal.

    Returns:
        The path of ``index.html``.

    Raises:
        InputError: no clip has a map, there is no such clip or method, or an argument is out of range.
        BackendError: a process was ended from outside.
    """
    if not 0 < percentile <= 100 or (workers is not None and workers < 1) or count < 1:
        raise InputError(
            f"wanted 0 < percentile <= 100, workers and count above 0, got {percentile}, {workers}, {count}"
        )
    chosen = _chosen(results, clips, count)
    folder = Path(out)
    for name in ("movies", "thumbnails"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    limits = _limits(results, chosen, method, percentile)
    drawing = {"limits": limits, "layout": layout, "zoom": zoom, "colorbar": legend, "strip": legend}
    failed = _draw(results, chosen, folder, method, drawing, min(workers or usable_cores(), len(chosen)), progress)
    gallery = _gallery(results, chosen, failed, method, limits, percentile)
    return write_page(gallery, folder / "index.html")


def _chosen(results: BulkResults, clips: Sequence[str | int] | None, count: int) -> list[str]:
    if clips is not None:
        rows = results.reader.rows(list(clips), ["clip_id", "status"])
        wrong = [row["clip_id"] for row in rows if row["status"] != "ok"]
        if wrong or not rows:
            raise InputError(f"{', '.join(wrong[:5]) or 'no clip'} has no map; choose clips whose status is ok")
        return _named(results, [row["clip_id"] for row in rows])
    found: list[str] = []
    for table in results.tables(["clip_id", "status"]):
        found += [row["clip_id"] for row in table.to_pylist() if row["status"] == "ok"]
        if len(found) >= count:
            break
    if not found:
        raise InputError(f"no clip of {results.run.store.root} has a map yet")
    return _named(results, found[:count])


def _named(results: BulkResults, found: list[str]) -> list[str]:
    """Return clips once each; their ids come from files and become names of files."""
    return [plain_name(clip, f"a row of {results.run.store.root}") for clip in dict.fromkeys(found)]


def _limits(results: BulkResults, chosen: list[str], method: str | None, percentile: float) -> tuple[float, float]:
    """Return one colour scale for all clips: from 0 (or minus the end, if signed) to a percentile of all relevance."""
    maps = results.maps(chosen, method)
    values = maps.relevance.numpy()
    if maps.signed:
        end = float(np.percentile(np.abs(values), percentile)) or float(np.abs(values).max()) or 1.0
        return (-end, end)
    low, high = value_limits(values, signed=False)
    end = float(np.percentile(values, percentile))
    return (low, end if end > low else high)


def _draw(
    results: BulkResults,
    chosen: list[str],
    folder: Path,
    method: str | None,
    drawing: dict[str, Any],
    workers: int,
    progress: bool | None,
) -> dict[str, Failure]:
    """Draw all movies and thumbnails; return why some could not be."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["vivit_lab.bulk.decode"])
    failed: dict[str, Failure] = {}
    with ProcessPoolExecutor(workers, context, initializer=start_worker) as pool:
        jobs = {pool.submit(_draw_one, results.run.store.root, clip, folder, method, drawing): clip for clip in chosen}
        with working(pool, "render fewer clips at a time (workers=1), or larger ones apart"):
            for job in progress_bar(as_completed(jobs), progress, "movies", "clip", len(jobs)):
                failure = job.result()
                if failure is not None:
                    failed[jobs[job]] = failure
    return failed


def _draw_one(run: str, clip_id: str, folder: Path, method: str | None, drawing: dict[str, Any]) -> Failure | None:
    """Draw one clip, in a process of its own; a video that is gone or broken meanwhile is a failure, no error."""
    from PIL import Image

    from vivit_lab.bulk.results import BulkResults
    from vivit_lab.errors import VideoError

    results = BulkResults.open(run)
    heat = results.map(clip_id, method)
    try:
        clip = results.clip(clip_id)
    except (VideoError, OSError) as error:  # OSError: of a URL that is not there any more
        return Failure.of("decode", error)
    render_movie(clip, heat, folder / "movies" / f"{clip_id}.mp4", preset="veryfast", **drawing)
    options = {"limits": drawing["limits"], "layout": drawing["layout"]}
    painter = make_painter(
        clip, heat, **options, colormap=None, alpha=None, normalize="clip", percentile=None, interpolation="nearest"
    )
    peak = int(heat.over_time[0].abs().argmax()) * heat.grid.tubelet[0]
    picture = Image.fromarray(next(iter(painter.paint([peak]))))
    scale = _THUMBNAIL / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    resample = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    picture.resize(size, resample).save(folder / "thumbnails" / f"{clip_id}.jpg", quality=88)
    return None


def _gallery(
    results: BulkResults,
    chosen: list[str],
    failed: dict[str, Failure],
    method: str | None,
    limits: tuple[float, float],
    percentile: float,
) -> Gallery:
    """Return what the page shows."""
    names = ["clip_id", "path", "label", "label_index", "correct", "topk_label", "topk_probability", "start_seconds"]
    labels, places = results.run.labels, {clip: number for number, clip in enumerate(chosen)}
    known = _scores(results, places, method)
    cards = []
    for row in results.reader.rows(chosen, names):
        clip, best = row["clip_id"], (row["topk_label"] or [None])[0]
        label = labels.get(row["label_index"], row["label"]) if row["label_index"] is not None else row["label"]
        cards.append(
            Card(
                clip=clip,
                title=os.path.basename(row["path"]),
                path=row["path"],
                start=row["start_seconds"],
                prediction=best,
                probability=(row["topk_probability"] or [None])[0],
                label=label,
                correct=row["correct"],
                scores=known[clip],
                error=failed[clip].message if clip in failed else None,
            )
        )
    maps = results.map(chosen[0], method)
    colormap = choose_colormap(None, signed=maps.signed)
    return Gallery(
        title=f"{results.run.info['model_id']}, {maps.method}",
        scale=maps.scale,
        limits=limits,
        percentile=percentile,
        colours=[tuple(int(level) for level in colormap.table[index]) for index in range(0, 256, 15)],
        cards=cards,
    )


def _scores(results: BulkResults, places: dict[str, int], method: str | None) -> dict[str, dict[str, float]]:
    """Return the scores of the chosen clips that the run can give."""
    column = results.column_of(method)
    found: dict[str, dict[str, float]] = {clip: {} for clip in places}
    for name, (needs, _) in SCORES.items():
        if needs not in ("map", *results.columns):
            continue
        for ids, values in scores(results.reader, name, column):
            for clip, value in zip(ids, values, strict=True):
                if clip in found and np.isfinite(value):
                    found[clip][name] = float(value)
    return found
