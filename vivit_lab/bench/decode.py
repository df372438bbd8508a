"""Reading clips of a video: seeking against decoding from the first frame."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np

from vivit_lab.bench.measure import sampled
from vivit_lab.bench.table import BenchTable, Column, describe_machine
from vivit_lab.errors import InputError
from vivit_lab.numbers import checked_numbers
from vivit_lab.progress import progress_bar
from vivit_lab.video.encode import MovieWriter
from vivit_lab.video.info import probe
from vivit_lab.video.read import read_clip

__all__ = ["bench_decode", "decode_from_start", "write_test_movie"]


def write_test_movie(
    path: str | os.PathLike[str], frames: int = 300, size: tuple[int, int] = (360, 640), *, progress: bool | None = None
) -> Path:
    """Write an H.264 movie of a scene that pans, under grain that is new in each frame; a key frame each 30 frames.

    Args:
        path: ending in .mp4.
        frames: how many.
        size: (height, width) in pixels.
        progress: show a bar; None shows it on a terminal.
    """
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[: size[0], : size[1]]
    scene = np.stack([128 + 90 * np.sin(columns / (19 + k)) * np.cos(rows / (23 + k)) for k in range(3)], axis=-1)
    grain = generator.normal(0, 6, (*size, 1))
    with MovieWriter(path, *size, end=frames / 30, preset="veryfast", crf=23) as movie:
        for number in progress_bar(range(frames), progress, "making a video", "frame"):
            moved = np.roll(scene, (2 * number, 5 * number), (0, 1))
            fresh = np.roll(grain, tuple(generator.integers(0, size)), (0, 1))
            movie.write((moved + fresh).clip(0, 255).astype(np.uint8), number / 30)
    return Path(path)


def decode_from_start(path: str | os.PathLike[str], indices: np.ndarray) -> np.ndarray:
    """Return frames (n, H, W, 3) uint8 by decoding every frame up to the last, as the documentation's helper does."""
    wanted, kept = {int(index) for index in indices}, {}
    with open(path, "rb") as file, av.open(file, "r") as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                kept[number] = frame.to_ndarray(format="rgb24")
            if len(kept) == len(wanted):
                break
    return np.stack([kept[int(index)] for index in indices])


@checked_numbers(num_frames=(1, None), stride=(1, None), repeats=(1, 10_000))
def bench_decode(
    video: str | os.PathLike[str] | None = None,
    *,
    num_frames: int = 32,
    stride: int = 2,
    repeats: int = 3,
    progress: bool | None = None,
) -> BenchTable:
    """Compare ``read_clip`` with decoding from the start, for windows at the beginning, middle and end of a video.

    Args:
        video: a file; None makes one of 300 frames of 360×640 (``write_test_movie``).
        num_frames: frames of a clip.
        stride: distance of its frames.
        repeats: timed, after one to warm up.
        progress: show a bar; None shows it on a terminal.

    Raises:
        InputError: the video is shorter than a window.
        VideoError: it cannot be read.
    """
    if video is None:
        with tempfile.TemporaryDirectory() as folder:
            return _decode(write_test_movie(Path(folder) / "test.mp4", progress=progress), num_frames, stride, repeats)
    return _decode(Path(video), num_frames, stride, repeats)


def _decode(path: Path, count: int, stride: int, repeats: int) -> BenchTable:
    info = probe(path)
    last = info.frames - stride * (count - 1) - 1
    if last < 0:
        raise InputError(
            f"{path} has {info.frames} frames, fewer than a window of {count} with stride {stride}; give fewer frames"
        )
    rows: list[dict[str, Any]] = []
    for name, start in (("beginning", 0), ("middle", last // 2), ("end", last)):
        wanted = start + stride * np.arange(count)
        same = np.array_equal(read_clip(path, count, stride, start).frames, decode_from_start(path, wanted))
        times = sampled(
            {
                "read_clip": lambda start=start: read_clip(path, count, stride, start),
                "from the start": lambda wanted=wanted: decode_from_start(path, wanted),
            },
            repeats,
        )
        ours, theirs = median(times["read_clip"]), median(times["from the start"])
        row = {"window": name, "start": start, "read_clip_per_second": 1 / ours, "from_start_per_second": 1 / theirs}
        rows.append({**row, "relative": theirs / ours, "same_frames": same, "samples": times, "error": None})
    columns = (
        Column("window", "window"), Column("start", "first frame"),
        Column("read_clip_per_second", "read_clip, clips/s"),
        Column("from_start_per_second", "from the start, clips/s"), Column("relative", "times as fast", 2),
        Column("same_frames", "same frames"),
    )  # fmt: skip
    settings = {"frames": info.frames, "height": info.height, "width": info.width, "codec": info.codec}
    title = (
        f"Reading {count} frames, stride {stride}, of {info.frames} of {info.height}×{info.width} {info.codec}, "
        f"medians of {repeats}"
    )
    settings |= {"num_frames": count, "stride": stride, "repeats": repeats}
    return BenchTable("decode", title, columns, tuple(rows), describe_machine(), settings)
