"""Small runs on the tiny checkpoint: two dozen clips of noise, and files that are no videos."""

import wave
from pathlib import Path

import numpy as np

from vivit_lab.bulk import BulkJob, BulkResults, LocalExecutor, run_bulk
from vivit_lab.video import MovieWriter

LOCAL = LocalExecutor(workers=2)


def write_clips(folder: Path, count: int, frames: int = 12, size: tuple[int, int] = (36, 40)) -> list[Path]:
    """Movies of noise, ten frames a second, each its own."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"clip-{number:04d}.mp4" for number in range(count)]
    for number, path in enumerate(paths):
        rng = np.random.default_rng(number)
        with MovieWriter(path, *size, end=frames / 10) as movie:
            for index in range(frames):
                movie.write(rng.integers(0, 255, (*size, 3), dtype=np.uint8), index / 10)
    return paths


def write_bad(folder: Path, good: Path) -> list[Path]:
    """Files with a video's name that hold none: garbage, cut off, empty, sound alone, and a name without a file."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"bad-{kind}.mp4" for kind in ("garbage", "truncated", "empty", "audio", "missing")]
    paths[0].write_bytes(np.random.default_rng(0).bytes(4000))
    paths[1].write_bytes(good.read_bytes()[:200])
    paths[2].write_bytes(b"")
    with wave.open(str(paths[3]), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    return paths


def tiny_job(checkpoint: Path, **fields) -> BulkJob:
    return BulkJob(str(checkpoint), **{"stride": 1, "shard_size": 8, "batch_size": 4, **fields})


def tiny_run(checkpoint: Path, videos, out: Path, **fields) -> BulkResults:
    return run_bulk(tiny_job(checkpoint, **fields), videos, out, executor=LOCAL, progress=False)
