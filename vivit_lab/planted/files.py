"""Planted clips as ordinary movies, with their truth beside them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vivit_lab.errors import DamagedFileError, InputError
from vivit_lab.files import inside, read_json, read_npz, stored_fields
from vivit_lab.numbers import MOST, checked_numbers
from vivit_lab.planted.clip import COUNTERFACTUALS, PlantedClip, planted_clip
from vivit_lab.planted.scene import LABELS, PlantedConfig, mask_of_tokens, window_of_tokens
from vivit_lab.progress import progress_bar
from vivit_lab.text import csv_writer
from vivit_lab.video.encode import MovieWriter

if TYPE_CHECKING:
    import os

    from vivit_lab.grid import TokenGrid

__all__ = ["PlantedFile", "read_planted", "write_planted"]

_COLUMNS: tuple[str, ...] = (
    "path",
    "label",
    "label_name",
    "window_start",
    "window_stop",
    "index",
    "counterfactual",
    "level",
    "split",
    "rule",
    "seed",
)

_CRF = 6
"""Near lossless. At the usual 18 a frame shows traces of the frames before it, behind what moved, and so a hint of the
direction (0.8 grey levels more error behind a shape than ahead of it; at 6 it is 0.15)."""


_AGAIN = "write the set again into an empty directory"


@dataclass(frozen=True, eq=False)
class PlantedFile:
    """A movie that `write_planted` wrote, and the truth about it.

    Args:
        path: the movie.
        label: the class, 0 … 7.
        window: half-open span of frames (start, stop) between whose first and last the target moves.
        track: (T, 2) float64, the target's centre in each frame, (row, column) in edge coordinates.
        config: what the clip was drawn from.
        index: which clip of the configuration.
        counterfactual: None, or the one change to that clip: "reverse" or "window".
        packed_mask: the mask, eight pixels a byte.
    """

    path: Path
    label: int
    window: tuple[int, int]
    track: np.ndarray = field(repr=False)
    config: PlantedConfig
    index: int
    counterfactual: str | None
    packed_mask: np.ndarray = field(repr=False)

    @property
    def label_name(self) -> str:
        """The class's name."""
        return LABELS[self.label]

    @property
    def mask(self) -> np.ndarray:
        """(T, H, W) bool: the evidence, as ``PlantedClip.mask``."""
        shape = (self.config.frames, self.config.size, self.config.size)
        return np.unpackbits(self.packed_mask, count=int(np.prod(shape))).astype(bool).reshape(shape)

    def token_mask(self, grid: TokenGrid) -> np.ndarray:
        """Return the fraction of each tubelet that ``mask`` covers, (t, h, w) float32.

        Raises:
            GridError: the grid is of another number of frames or another size.
        """
        return mask_of_tokens(self.mask, grid)

    def token_window(self, grid: TokenGrid) -> np.ndarray:
        """Return the fraction of each tubelet row's frames that lie in ``window``, (t,) float32.

        Raises:
            GridError: the grid is of another number of frames.
        """
        return window_of_tokens(self.window, self.config.frames, grid)

    def redraw(self) -> PlantedClip:
        """Return the clip that the movie shows, with its exact pixels and whole truth."""
        clip = planted_clip(self.config, self.index)
        return clip if self.counterfactual is None else clip.counterfactual(self.counterfactual)


@checked_numbers(count=(1, MOST), start=(0, None), fps=(None, 1000))
def write_planted(
    directory: str | os.PathLike[str],
    config: PlantedConfig,
    count: int,
    *,
    start: int = 0,
    fps: float = 8.0,
    exact: bool = False,
    counterfactuals: Sequence[str] = (),
    progress: bool | None = None,
) -> Path:
    """Write clips as movies, with labels and truth.

    The directory gets ``clips/00000.mp4`` … (a counterfactual is ``clips/00000-reverse.mp4``), and

    - ``manifest.csv``: a line a movie: path (relative to the directory), label (0 … 7), label_name, window_start and
      window_stop (half-open, frames), and what it was drawn from: index, counterfactual, level, split, rule, seed;
    - ``manifest.json``: the configuration, the class names and, for each movie, also the target's track and all actors;
    - ``masks.npz``: the evidence of each movie, packed eight pixels a byte.

    `read_planted` reads all of it.

    Args:
        directory: where to write; it is made if need be, and must hold no manifest yet.
        config: what to draw.
        count: how many clips.
        start: index of the first clip.
        fps: frame rate of the movies, in frames a second.
        exact: keep every pixel, by lossless RGB that browsers do not play. By default H.264 in yuv420p at high quality
            (crf 6), which halves the resolution of colours. An odd size gets one more row and column.
        counterfactuals: which changed versions of each clip to write beside it: "reverse", "window".
        progress: whether to show a bar; None shows it where standard error is a terminal.

    Returns:
        The path of ``manifest.json``, which is written last: where it is, all is there.

    Raises:
        InputError: count, start, fps or a counterfactual is out of range, or the directory holds a manifest already.
    """
    if count < 1 or start < 0 or not (isfinite(fps) and fps > 0):
        raise InputError(f"wanted count >= 1, start >= 0 and fps > 0, got count={count}, start={start}, fps={fps}")
    if isinstance(counterfactuals, str) or not set(counterfactuals) <= set(COUNTERFACTUALS):
        raise InputError(f"counterfactuals must be a list of {', '.join(COUNTERFACTUALS)}, got {counterfactuals!r}")
    directory = Path(directory)
    for name in ("manifest.json", "manifest.csv"):
        if (directory / name).exists():
            raise InputError(f"{directory / name} exists already; choose an empty directory, or remove it first")
    (directory / "clips").mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    arrays: dict[str, Any] = {"shape": np.array([config.frames, config.size, config.size])}
    for index in progress_bar(range(start, start + count), progress, "planted clips", "clip"):
        for kind in (None, *dict.fromkeys(counterfactuals)):
            clip, name = planted_clip(config, index), f"clips/{index:05d}{f'-{kind}' if kind else ''}.mp4"
            clip = clip.counterfactual(kind) if kind else clip
            _write_movie(directory / name, clip, fps, exact)
            rows.append({"path": name, "counterfactual": kind, **clip.describe()})
            arrays[name] = np.packbits(clip.mask)
    _write_csv(directory / "manifest.csv", rows, config)
    np.savez_compressed(directory / "masks.npz", **arrays)
    content = {"config": config.to_dict(), "labels": list(LABELS), "fps": fps, "clips": rows}
    manifest, draft = directory / "manifest.json", directory / ".manifest.json.part"
    draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return draft.replace(manifest)


def read_planted(directory: str | os.PathLike[str]) -> list[PlantedFile]:
    """Return the movies that `write_planted` wrote, with their truth, in the order of writing.

    Frames are read by ``read_clip(entry.path)``; ``entry.redraw().frames`` are those before encoding.
    Memory: H·W·T/8 bytes a movie (4.6 kB at the default size).

    Raises:
        InputError: the directory lacks a manifest, a mask or a movie, or its classes are not those of this version.
        DamagedFileError: the manifest or the masks are cut off or altered.
    """
    directory = Path(directory)
    manifest, masks = directory / "manifest.json", directory / "masks.npz"
    for path in (manifest, masks):
        if not path.is_file():
            raise InputError(f"there is no {path}; wanted a directory that write_planted wrote to the end")
    try:
        content = read_json(manifest)
        with stored_fields(manifest, "a manifest of write_planted"):
            labels, rows, config = content["labels"], content["clips"], PlantedConfig(**content["config"])
            for row in rows:
                inside(directory, row["path"], os.fspath(manifest))
    except InputError as error:
        raise DamagedFileError(
            f"{manifest} is damaged ({error}); write the set again into an empty directory"
        ) from error
    if labels != list(LABELS):
        raise InputError(f"the classes in {manifest} are {labels}, wanted {list(LABELS)}")
    mask_bytes = -(-config.frames * config.size**2 // 8) + 256  # and the header of each array
    try:
        packed = read_npz(masks, limit=(len(rows) + 1) * mask_bytes)
    except InputError as error:
        raise DamagedFileError(f"{masks} is damaged ({error}); {_AGAIN}") from error
    lost = [row["path"] for row in rows if row["path"] not in packed or not (directory / row["path"]).is_file()]
    if lost:
        raise InputError(f"{len(lost)} of {len(rows)} movies in {manifest} have no file or mask, such as {lost[0]}")
    return [
        PlantedFile(
            path=directory / row["path"],
            label=row["label"],
            window=(row["window"][0], row["window"][1]),
            track=np.array(row["track"]),
            config=config,
            index=row["index"],
            counterfactual=row["counterfactual"],
            packed_mask=packed[row["path"]],
        )
        for row in rows
    ]


def _write_movie(path: Path, clip: PlantedClip, fps: float, exact: bool) -> None:
    codec: dict[str, Any] = {"codec": "libx264rgb", "crf": 0} if exact else {"crf": _CRF}
    _, height, width, _ = clip.frames.shape
    with MovieWriter(path, height, width, end=len(clip.frames) / fps, **codec) as movie:
        for number, frame in enumerate(clip.frames):
            movie.write(frame, number / fps)


def _write_csv(path: Path, rows: list[dict[str, Any]], config: PlantedConfig) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv_writer(file)
        writer.writerow(_COLUMNS)
        for row in rows:
            start, stop = row["window"]
            line = {name: row[name] for name in ("path", "label", "label_name", "index", "counterfactual")}
            origin = {"level": config.level, "split": config.split, "rule": config.rule, "seed": config.seed}
            line |= {"window_start": start, "window_stop": stop, **origin}
            writer.writerow(line[name] for name in _COLUMNS)
