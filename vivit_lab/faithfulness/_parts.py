"""The parts of an evaluation on disk, and the report they make together."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from vivit_lab.errors import InputError
from vivit_lab.faithfulness.report import Curve, FaithfulnessReport
from vivit_lab.faithfulness.sanity import SanityResult
from vivit_lab.files import read_sealed, write_sealed

__all__ = ["CHECK", "PART", "assemble", "write_part"]

_AGAIN = "start the same evaluation again, and it is computed again"


PART = ("clips", "seen", "scores", "curves", "seconds")
"""What a part of the clips holds."""

CHECK = ("method", "result")
"""What the sanity checks of a method hold."""


def write_part(path: Path, value: dict[str, Any]) -> None:
    """Write a file whole or not at all; NaN is written as null."""
    write_sealed(path, _without_nan(value))


def assemble(
    folder: Path, settings: dict[str, Any], controls: tuple[str, ...], model_id: str | None
) -> FaithfulnessReport:
    """Return the report of all parts in a folder.

    Raises:
        InputError: no clip was left.
        DamagedFileError: a part is damaged.
    """
    parts = [read_sealed(path, PART, _AGAIN) for path in sorted(folder.glob("part-*.json"))]
    full = [part for part in parts if part["clips"]]
    seen, clips = sum(part["seen"] for part in parts), [name for part in full for name in part["clips"]]
    failed = [text for part in parts for text in part.get("failed", [])]
    if not clips and not seen:
        raise InputError(f"none of {len(failed)} videos can be read, the first: {''.join(failed[:1])}")
    if not clips:
        raise InputError(f"the model names none of {seen} clips rightly, so nothing was judged; is it the right model?")
    scores, curves, seconds = {}, {}, {}
    for name in full[0]["scores"]:
        scores[name] = {
            metric: [math.nan if value is None else value for part in full for value in part["scores"][name][metric]]
            for metric in full[0]["scores"][name]
        }
        curves[name] = {key: _pooled([part["curves"][name][key] for part in full]) for key in full[0]["curves"][name]}
        weights = [len(part["clips"]) for part in full]
        seconds[name] = round(float(np.average([part["seconds"][name] for part in full], weights=weights)), 4)
    about = {"clips_seen": seen, "clips_judged": len(clips), "seconds_per_clip": seconds}
    about |= {"clips_failed": failed} if failed else {}
    checks = [read_sealed(path, CHECK, _AGAIN) for path in folder.glob("sanity-*.json")]
    checks.sort(key=lambda check: list(scores).index(check["method"]))
    return FaithfulnessReport(
        scores,
        clips,
        controls=controls,
        model_id=model_id,
        settings={**settings, **about},
        sanity={check["method"]: _sanity(check["result"]) for check in checks if check["result"] is not None},
        curves=curves if any(curves.values()) else {},
    )


def _pooled(parts: list[dict[str, Any]]) -> Curve:
    weights = [part["n"] for part in parts]
    morf, lerf = (np.average([part[name] for part in parts], axis=0, weights=weights) for name in ("morf", "lerf"))
    return Curve(tuple(parts[0]["fractions"]), tuple(morf.tolist()), tuple(lerf.tolist()), sum(weights))


def _sanity(stored: dict[str, Any]) -> SanityResult:
    fields = {name: _with_nan(value) for name, value in stored.items()}
    return SanityResult(**{**fields, "stages": tuple(fields["stages"])})


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _with_nan(value: Any) -> Any:
    """Undo it inside lists, where nothing else is null."""
    if isinstance(value, list):
        return [math.nan if each is None else _with_nan(each) for each in value]
    return value
