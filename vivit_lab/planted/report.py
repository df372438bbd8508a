"""What a trained model makes of planted clips: is it right, and for the right reason?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from vivit_lab.errors import InputError
from vivit_lab.numbers import MOST, checked_numbers
from vivit_lab.planted.clip import backwards, normalise, planted_batch, reorder, stack_clips
from vivit_lab.planted.scene import LABELS, PlantedConfig
from vivit_lab.progress import progress_bar
from vivit_lab.statistics.intervals import wilson_interval

__all__ = ["planted_report"]

_HALF = len(LABELS) // 2


@checked_numbers(count=(1, MOST), batch_size=(1, None), start=(0, None))
def planted_report(
    model: Callable[[torch.Tensor], Any],
    config: PlantedConfig,
    count: int = 1024,
    batch_size: int = 32,
    seed: int = 0,
    *,
    start: int = 0,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Evaluate a classifier on planted clips, and on versions of them that a shortcut would not survive.

    Rates, each over the same ``count`` clips:

    - ``accuracy``;
    - ``single_frame``: accuracy on clips of one frame of each, drawn at random, repeated. A model of any kind is at
      chance, 1/8: one standard error is 1 point at 1024 clips, so "within 3 points" wants that many;
    - ``shuffled``: accuracy with the frames of each clip in random order; at most 1/2;
    - ``reversal_flip``: the target goes its way backwards and nothing else changes: how often the prediction becomes
      the opposite one; ``reversed_accuracy``: how often it is the reversed clip's label;
    - ``backwards_flip``: the same where the whole clip is played backwards;
    - ``moved_window``: accuracy with all motion in the next of the three windows; ``moved_window_same``: how often the
      prediction stays;
    - ``without_target``: accuracy where the target is left out. No decoy moves in the target's direction, so a model
      that falls for decoys is at 0 and one that knows nothing at 1/8;
    - ``decoy``: how often the prediction on the clip is the direction of a decoy that moves.

    Costs seven forward passes a clip, without gradients; keeps predictions only.

    Args:
        model: maps (B, T, 3, H, W) in -1 … 1 to logits (B, 8), or to an object with ``logits``. A module is called on
            the device and in the dtype of its parameters, and has to be in eval mode.
        config: which clips; take the split "test".
        count: how many clips.
        batch_size: clips in one forward pass; the result does not depend on it.
        seed: of the frames and orders drawn.
        start: index of the first clip.
        progress: whether to show a bar; None shows it where standard error is a terminal.

    Returns:
        JSON-able: ``config``, ``start``, ``count``, ``seed``, ``chance``; ``rates``, for each of the names above
        ``{"rate", "low", "high", "hits", "count"}`` (95 % Wilson interval); and ``classes``, a list with ``label``,
        ``label_name``, ``accuracy`` and ``reversal_flip`` of each class, in the same form.

    Raises:
        InputError: count, batch_size or start is out of range, the model is in training mode, or what it returns are
            no finite logits of eight classes.

    Example:
        >>> report = planted_report(model, PlantedConfig(split="test"), count=2000)
        >>> report["rates"]["reversal_flip"]["low"] > 0.8
    """
    if count < 1 or batch_size < 1 or start < 0:
        raise InputError(
            f"wanted count >= 1, batch_size >= 1 and start >= 0, got count={count}, batch_size={batch_size}, "
            f"start={start}"
        )
    _refuse_training_mode(model)
    rows: list[dict[str, torch.Tensor]] = []
    generator = torch.Generator().manual_seed(seed)
    with progress_bar(None, progress, "planted report", "clip", count) as bar:
        for first in range(start, start + count, batch_size):
            indices = range(first, min(first + batch_size, start + count))
            rows.append(_predictions(model, config, indices, generator))
            bar.update(len(indices))
    told = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    return {
        "config": config.to_dict(),
        "start": start,
        "count": count,
        "seed": seed,
        "chance": 1 / len(LABELS),
        "rates": {name: _rate(hits) for name, hits in _hits(told).items()},
        "classes": list(_classes(told)),
    }


def _predictions(
    model: Callable[[torch.Tensor], Any], config: PlantedConfig, indices: range, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """The model's class of each version of some clips, their labels, whether it told a decoy's direction; all (B,)."""
    pixel_values, label, clips = planted_batch(config, indices)
    # one draw a clip and in its order, so that the batch size changes nothing
    draws = [torch.rand(config.frames + 1, generator=generator, dtype=torch.float64) for _ in clips]
    frame = torch.stack([(draw[:1] * config.frames).long().expand(config.frames) for draw in draws])
    order = torch.stack([draw[1:].argsort() for draw in draws])
    versions = {
        "plain": pixel_values,
        "single_frame": reorder(pixel_values, frame),
        "shuffled": reorder(pixel_values, order),
        "backwards": backwards(pixel_values),
        "reversed": stack_clips([clip.counterfactual("reverse") for clip in clips])[0],
        "moved_window": stack_clips([clip.counterfactual("window") for clip in clips])[0],
        "without_target": torch.stack([normalise(clip.frames_without_target) for clip in clips]),
    }
    told = {name: _predict(model, version) for name, version in versions.items()}
    decoys = [{actor.direction for actor in clip.scene.decoys if actor.slot is not None} for clip in clips]
    fooled = [said in wrong for said, wrong in zip(told["plain"].tolist(), decoys, strict=True)]
    return {**told, "label": label, "decoy": torch.tensor(fooled)}


def _hits(told: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """For each rate which clips count, (count,) bool."""
    plain, label = told["plain"], told["label"]
    return {
        "accuracy": plain == label,
        "single_frame": told["single_frame"] == label,
        "shuffled": told["shuffled"] == label,
        "reversal_flip": told["reversed"] == _opposite(plain),
        "reversed_accuracy": told["reversed"] == _opposite(label),
        "backwards_flip": told["backwards"] == _opposite(plain),
        "moved_window": told["moved_window"] == label,
        "moved_window_same": told["moved_window"] == plain,
        "without_target": told["without_target"] == label,
        "decoy": told["decoy"],
    }


def _classes(told: dict[str, torch.Tensor]) -> Iterator[dict[str, Any]]:
    hits = _hits(told)
    for label, name in enumerate(LABELS):
        here = told["label"] == label
        if here.any():  # fewer than eight clips do not show every class
            rates = {which: _rate(hits[which][here]) for which in ("accuracy", "reversal_flip")}
            yield {"label": label, "label_name": name, **rates}


def _rate(hits: torch.Tensor) -> dict[str, float | int]:
    count, total = len(hits), int(hits.sum())
    low, high = wilson_interval(total, count)
    return {"rate": total / count, "low": low, "high": high, "hits": total, "count": count}


def _opposite(classes: torch.Tensor) -> torch.Tensor:
    return (classes + _HALF) % len(LABELS)


def _refuse_training_mode(model: Any) -> None:
    if isinstance(model, torch.nn.Module) and any(module.training for module in model.modules()):
        raise InputError("the model is in training mode, where dropout is random: call model.eval() first")


@torch.no_grad()
def _predict(model: Callable[[torch.Tensor], Any], pixel_values: torch.Tensor) -> torch.Tensor:
    """The model's class of each clip, (B,) int64 on the CPU."""
    home = next(model.parameters(), None) if isinstance(model, torch.nn.Module) else None
    given = pixel_values if home is None else pixel_values.to(home.device, home.dtype)
    out = model(given, **({"interpolate_pos_encoding": None} if hasattr(model, "grid_of") else {}))
    logits = getattr(out, "logits", out)
    wanted = (len(pixel_values), len(LABELS))
    if not isinstance(logits, torch.Tensor):
        got = type(logits).__name__
    elif tuple(logits.shape) != wanted:
        got = f"shape {tuple(logits.shape)}"
    else:
        got = "" if torch.isfinite(logits).all() else f"shape {wanted} with NaN or infinity"
    if got:
        raise InputError(
            f"wanted finite logits {wanted} of the {len(LABELS)} directions, got {got}; take a model that was trained "
            "on planted clips"
        )
    return logits.argmax(-1).cpu()
