"""Read broken files of every kind, and compare each frame with what decoding in order gives.

    python -m tests.video.fuzz --files 1000

Each file is made from a good one of some kind by one kind of damage, and read in a process of its own, so that a crash
or a hang is told. A file passes if every frame, by itself, in a window and in the whole clip, is the frame of the same
time (of the same number, where times repeat) that PyAV gives when it decodes the file in order, in one thread; or if
reading raises one of this package's errors; or if a DecodeWarning names the frames. The number of a file is its seed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np

from tests.video.break_video import remux
from tests.video.make_video import FRAME, MS, Variant
from vivit_lab.errors import DecodeWarning, VivitLabError
from vivit_lab.video import load_index, probe, read_clip, read_frames

__all__ = ["DAMAGES", "KINDS", "Case", "case", "check", "in_process", "run"]

_SIZE, _COUNT = (64, 96), 24
_FASTSTART = {"movflags": "faststart"}
KINDS = [
    Variant("h264.mp4", "libx264", size=_SIZE, count=_COUNT, b_frames=2, options={"x264-params": "threads=1"}),
    Variant("hevc.mp4", "libx265", size=_SIZE, count=_COUNT, b_frames=2, container_options=_FASTSTART),
    Variant("h264.mov", "libx264", size=_SIZE, count=_COUNT, b_frames=1, container_options=_FASTSTART),
    Variant("h264.mkv", "libx264", size=_SIZE, count=_COUNT, b_frames=2),
    Variant("vp9.webm", "libvpx-vp9", size=_SIZE, count=_COUNT, b_frames=None, options={"deadline": "realtime"}),
    Variant("mjpeg.avi", "mjpeg", "yuvj420p", size=_SIZE, count=_COUNT, time_base=FRAME),
    Variant("mpeg4.avi", "mpeg4", size=_SIZE, count=_COUNT, b_frames=2, time_base=FRAME),
    Variant("h264.ts", "libx264", size=_SIZE, count=_COUNT, b_frames=2),
    Variant("gif.gif", "gif", "rgb8", size=_SIZE, count=_COUNT, time_base=Fraction(1, 100)),
    Variant("av1.mp4", "libsvtav1", size=_SIZE, count=_COUNT, b_frames=None),
    Variant("raw.avi", "rawvideo", "rgb24", size=_SIZE, count=_COUNT, time_base=FRAME),
    Variant("h264.flv", "libx264", size=_SIZE, count=_COUNT, b_frames=2, time_base=MS),
]
DAMAGES = ("flipped bits", "truncation", "late time", "repeated time", "swapped packets")


@dataclass(frozen=True)
class Case:
    """One broken file.

    Args:
        number: which of all.
        kind: what it is made from.
        damage: what is done to it.
    """

    number: int
    kind: Variant
    damage: str

    def make(self, good: Path, broken: Path) -> Path:
        """Write the broken file from the good one and return its path."""
        rng = np.random.default_rng([self.number, 14])
        path = broken / f"{self.number:05d}_{self.kind.name}"
        contents = bytearray(good.read_bytes())
        if self.damage == "flipped bits":
            low = int(rng.choice([0, len(contents) // 10]))  # the header too, in half of them
            for place in rng.integers(low, len(contents), int(rng.integers(1, 12))):
                contents[place] ^= 1 << int(rng.integers(8))
        elif self.damage == "truncation":
            contents = contents[: int(rng.uniform(0.05, 1) * len(contents))]
        else:
            return remux(good, path, lambda packets: spoil(packets, self.damage, rng))
        path.write_bytes(contents)
        return path


def case(number: int) -> Case:
    """Return a case by its number; every kind meets every damage within the first 60."""
    return Case(number, KINDS[number % len(KINDS)], DAMAGES[number // len(KINDS) % len(DAMAGES)])


def spoil(packets: list[Any], damage: str, rng: np.random.Generator) -> list[Any]:
    """Give some packets of a list wrong times, or another place."""
    chosen = rng.choice(np.arange(1, len(packets)), int(rng.integers(1, 4)), replace=False) if packets[1:] else []
    step = max(packet.duration or 1 for packet in packets)
    for place in chosen:
        packet, other = packets[place], packets[place - 1]
        if damage == "late time" and packet.pts is not None:
            packet.pts += int(step * rng.integers(1, 6))
        elif damage == "repeated time":
            packet.pts = other.pts
        elif damage == "swapped packets":
            packets[place], packets[place - 1] = other, packet
            times = (other.pts, other.dts, packet.pts, packet.dts)
            if rng.integers(2):  # only the pictures change places, their times do not
                packet.pts, packet.dts, other.pts, other.dts = times
    return packets


def decode_in_order(path: Path) -> list[tuple[int | None, np.ndarray]]:
    """Return the reference: time and pixels of each frame that PyAV gives from the first packet, in one thread.

    The AV1 decoder stumbles over what it could not decode once more at each later packet: where it raised an error, it
    begins anew at the next key frame.
    """
    frames: list[tuple[int | None, np.ndarray]] = []
    failed = False
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            context = stream.codec_context
            context.thread_count = 1
            for packet in container.demux(stream):
                if failed and packet.is_keyframe and context.name == "libdav1d":
                    context.flush_buffers()
                    failed = False
                try:
                    frames += [(frame.pts, frame.to_ndarray(format="rgb24")) for frame in packet.decode()]
                except (av.error.FFmpegError, ValueError):
                    failed = True
    except (av.error.FFmpegError, IndexError, AttributeError, ValueError):
        pass
    return frames


def check(path: Path, seed: int = 0) -> dict[str, Any]:
    """Read a file in many ways; return what came of it: outcomes by name, and what was silently different."""
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    reference = decode_in_order(path)
    rng = np.random.default_rng(seed)

    def attempt(what: str, read: Any) -> Any:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                clip = read()
            except VivitLabError as error:
                outcomes[type(error).__name__] += 1
                return None
        if any(issubclass(one.category, DecodeWarning) for one in caught):
            outcomes["DecodeWarning"] += 1
            return None
        outcomes["read"] += 1
        different = _differences(path, clip, reference)
        wrong.extend(f"{what}: {one}" for one in different)
        return clip

    info = _quiet(lambda: probe(path))
    outcomes["probed" if info is not None else "not probed"] += 1
    whole = attempt("whole", lambda: read_clip(path))
    if whole is not None and len(whole) != len(reference):
        wrong.append(f"whole: {len(whole)} frames, in order {len(reference)}")
    index = _quiet(lambda: load_index(path))
    if index is None:
        return {"outcomes": dict(outcomes), "wrong": wrong}
    for number in range(0, len(index), 1 if len(index) < 40 else 7):
        attempt(f"frame {number}", lambda number=number: read_frames(path, [number], threads=1))
    for _ in range(3):
        first = int(rng.integers(0, len(index)))
        attempt(f"window at {first}", lambda first=first: read_clip(path, 5, start=first, threads=2))
    return {"outcomes": dict(outcomes), "wrong": wrong}


def _quiet(read: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return read()
        except VivitLabError:
            return None


def _differences(path: Path, clip: Any, reference: list[tuple[int | None, np.ndarray]]) -> list[str]:
    """Compare with the frame of the same time, or of the same number where the times of the reference do not rise."""
    times = [time for time, _ in reference]
    known = [time for time in times if time is not None]
    rising = None not in times and all(one < two for one, two in pairwise(known))
    index = _quiet(lambda: load_index(path))
    found = []
    for place, number in enumerate(clip.indices.tolist()):
        if rising and index is not None and index.obstacle is None:
            number_in_order = times.index(int(index.pts[number])) if int(index.pts[number]) in times else -1
        else:
            number_in_order = number
        if not 0 <= number_in_order < len(reference):
            found.append(f"frame {number} does not come in order")
        elif not np.array_equal(clip.frames[place], reference[number_in_order][1]):
            found.append(f"frame {number} differs")
    return found


def run(files: int, first: int = 0, *, directory: Path | None = None, seconds: float = 60, report: bool = True) -> int:
    """Make and read so many broken files, each in its own process; return how many did not pass."""
    with tempfile.TemporaryDirectory() as temporary:
        good, broken = Path(temporary) / "good", directory or Path(temporary) / "broken"
        good.mkdir()
        broken.mkdir(parents=True, exist_ok=True)
        for kind in KINDS[: files if files < len(KINDS) else None]:
            kind.make(good)
        results: Counter[str] = Counter()
        outcomes: Counter[str] = Counter()
        began, failed = time.perf_counter(), []
        for number in range(first, first + files):
            one = case(number)
            path = one.make(good / one.kind.name, broken)
            verdict, counts = in_process(path, number, seconds)
            results[verdict.split(":")[0]] += 1
            outcomes.update(counts)
            if verdict != "passed":
                failed.append(number)
                print(f"{number} {one.kind.name}, {one.damage}: {verdict}", flush=True)
            elif directory is None:
                path.unlink(missing_ok=True)
        if report:
            print(f"{files} files in {time.perf_counter() - began:.0f} s, PyAV {av.__version__}: {dict(results)}")
            print(f"reads: {dict(outcomes)}")
        return len(failed)


def _command(path: Path, number: int) -> list[str]:
    return [sys.executable, "-m", "tests.video.fuzz", "--check", str(path), "--first", str(number)]


def in_process(path: Path, number: int, seconds: float) -> tuple[str, dict[str, int]]:
    """Check one file in a process of its own; return the verdict, and how often what came of reading it."""
    try:
        done = subprocess.run(_command(path, number), capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return "hang", {}
    if done.returncode < 0:
        return f"crash: signal {-done.returncode}", {}
    if done.returncode or not done.stdout.strip():
        return f"foreign exception: {done.stderr.strip().splitlines()[-1:]}", {}
    result = json.loads(done.stdout.strip().splitlines()[-1])
    if result["wrong"]:
        return f"silent difference: {result['wrong'][:6]}", result["outcomes"]
    return "passed", result["outcomes"]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Read broken files, and compare with decoding in order.")
    parser.add_argument("--files", type=int, default=60, help="how many")
    parser.add_argument("--first", type=int, default=0, help="number of the first, which is its seed")
    parser.add_argument("--keep", type=Path, help="folder where the files stay")
    parser.add_argument("--check", type=Path, help="read one file, and print what came of it")
    chosen = parser.parse_args()
    if chosen.check is not None:
        print(json.dumps(check(chosen.check, chosen.first)))
        return 0
    return 1 if run(chosen.files, chosen.first, directory=chosen.keep) else 0


if __name__ == "__main__":
    sys.exit(main())
