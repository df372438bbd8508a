"""How the numbers are kept: whole where they are few, else as their norm, limits and some fixed projections."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

WHOLE = 40
PROJECTIONS = 12
TOLERANCE = 1e-6
#: On other instructions of a CPU sums are taken in another order, which float32 parts of the library show.
OTHER_MACHINE = 1e-4
MACHINE = {"cpu": "AVX512", "torch": "2.13"}  # where the stored numbers were made
#: Of what a run keeps in float16: the last bit may turn where the last bit of float32 did.
HALF_TOLERANCE = 1e-3
HALF = " (half)"


def tolerance() -> float:
    """Return what numbers may differ by, as a share of the largest, on this machine."""
    here = {"cpu": torch.backends.cpu.get_cpu_capability(), "torch": ".".join(torch.__version__.split(".")[:2])}
    return TOLERANCE if here == MACHINE else OTHER_MACHINE


def as_array(value: Any) -> np.ndarray:
    """The numbers in float64; of parts of several shapes, end to end."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, (list, tuple)):
        parts = [as_array(part) for part in value]
        alike = len({part.shape for part in parts}) == 1
        return np.stack(parts) if alike else np.concatenate([np.zeros(0), *(part.reshape(-1) for part in parts)])
    return np.asarray(value, dtype=np.float64)


def kept(value: Any) -> dict[str, Any]:
    """What is stored of a value: ``{"text": …}``, or its shape, the size of its numbers, and those numbers or a digest.

    A projection is onto a vector of unit length times √n, so that a change of 1e-6 of every number changes it by about
    as much.
    """
    if isinstance(value, str):
        return {"text": value}
    array = as_array(value)
    flat = array.reshape(-1)
    finite = np.isfinite(flat)
    size = float(np.abs(flat[finite]).max(initial=0.0))
    if flat.size > WHOLE:
        clean = np.where(finite, flat, 0.0)
        directions = np.random.default_rng(zlib.crc32(b"fixed")).standard_normal((PROJECTIONS, flat.size))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        root = np.sqrt(flat.size)
        limits = [clean.min(), clean.max(), clean.mean(), np.linalg.norm(clean) / root, float(finite.sum())]
        numbers = np.concatenate([directions @ clean, limits])
    else:
        numbers = flat
    return {"shape": list(array.shape), "size": size, "numbers": numbers}


def differences(old: dict[str, Any], new: dict[str, Any], tolerance: float = TOLERANCE) -> str:
    """Say how two kept values differ by more than a share of the largest number; empty where they do not."""
    if "text" in old or "text" in new:
        same = old.get("text") == new.get("text")
        return "" if same else f"was {old.get('text', 'numbers')}, is {new.get('text', 'numbers')}"
    if old["shape"] != new["shape"]:
        return f"had shape {old['shape']}, has {new['shape']}"
    first, second = np.asarray(old["numbers"]), np.asarray(new["numbers"])
    if not np.array_equal(np.isnan(first), np.isnan(second)):
        return "other numbers are NaN"
    with np.errstate(invalid="ignore"):
        gaps = np.where(first == second, 0.0, np.abs(first - second))
    worst = float(np.nan_to_num(gaps, nan=0.0, posinf=np.inf).max(initial=0.0))
    return "" if worst <= tolerance * max(old["size"], 1e-12) else f"differs by {worst:.2g} of {old['size']:.2g}"


def write(path: Path, groups: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Write the groups as one compressed file: an index and all numbers end to end."""
    index: dict[str, dict[str, Any]] = {}
    parts, start = [], 0
    for group, values in groups.items():
        index[group] = {}
        for name, value in values.items():
            if "text" in value:
                index[group][name] = value["text"]
                continue
            numbers = np.asarray(value["numbers"])
            index[group][name] = [value["shape"], float(f"{value['size']:.4g}"), start, start + len(numbers)]
            parts.append(numbers)
            start += len(numbers)
    text = np.frombuffer(json.dumps(index, separators=(",", ":")).encode(), dtype=np.uint8)
    np.savez_compressed(path, index=text, numbers=_rounded(np.concatenate(parts)))


def _rounded(numbers: np.ndarray) -> np.ndarray:
    """Keep 28 bits of each number (4e-9), so that the rest compresses."""
    mantissa, exponent = np.frexp(numbers)
    return np.ldexp(np.round(np.ldexp(mantissa, 28)), exponent - 28)


def read(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Read what `write` wrote."""
    with np.load(path) as file:
        index, numbers = json.loads(file["index"].tobytes()), file["numbers"]
    return {
        group: {
            name: {"text": value}
            if isinstance(value, str)
            else {"shape": value[0], "size": value[1], "numbers": numbers[value[2] : value[3]]}
            for name, value in values.items()
        }
        for group, values in index.items()
    }


def compare(old: dict[str, dict[str, Any]], found: Iterable[tuple[str, Any]]) -> list[str]:
    """Say what of a group differs, is new or is gone, a line each."""
    lines, seen = [], set()
    for name, value in found:
        seen.add(name)
        if name not in old:
            lines.append(f"{name}: no number is stored; make it with python -m tests.unchanged.make --add")
        elif said := differences(old[name], kept(value), HALF_TOLERANCE if name.endswith(HALF) else tolerance()):
            lines.append(f"{name}: {said}")
    return lines + [f"{name}: is not made any more" for name in old if name not in seen]
