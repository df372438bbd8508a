"""What a pruned model is worth, clip by clip, and what it costs, beside the full one in the same run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vivit_lab.errors import InputError
from vivit_lab.heads.clips import ClipSet
from vivit_lab.hooks.recorder import evaluating

__all__ = ["METRICS", "attention_bytes", "clip_metrics", "logits_of", "speed_up"]

#: Name → what it is, and whether more is better.
METRICS = {
    "top1": ("share of clips named rightly", True),
    "target_logit": ("logit of the label (of the full model's class where labels are not known)", True),
    "kl": ("KL divergence from the full model's distribution over the classes, nats", False),
    "agreement": ("share of clips named as the full model names them", True),
}


def logits_of(model: Any, clips: ClipSet, batch_size: int) -> tuple[Tensor, Tensor | None]:
    """Return the logits (clip, class) float32 on the CPU, and the labels where they are known.

    Raises:
        InputError: the model has no classifier, or only some clips have labels.
    """
    if not model.config.num_labels:
        raise InputError("a pruning curve wants a classifier, the model has no classes")
    logits, labels = [], []
    with evaluating(model), torch.no_grad():
        for batch in clips.batches(batch_size):
            output = model(batch.pixel_values.to(model.device), interpolate_pos_encoding=None)
            logits.append(output.logits.float().cpu())
            labels.append(batch.labels)
    known = [label for label in labels if label is not None]
    if known and len(known) < len(labels):
        raise InputError("some clips have labels and others have none; give all or none")
    return torch.cat(logits), torch.cat(known).cpu() if known else None


def clip_metrics(logits: Tensor, full: Tensor, labels: Tensor | None) -> dict[str, list[float | None]]:
    """Return each of ``METRICS`` clip by clip; None where the label is not known.

    Args:
        logits: (clip, class) of the pruned model.
        full: (clip, class) of the full one.
        labels: (clip,) or None.
    """
    named, before = logits.argmax(dim=-1), full.argmax(dim=-1)
    target = before if labels is None else labels.long()
    log_p, log_q = full.double().log_softmax(dim=-1), logits.double().log_softmax(dim=-1)
    found: dict[str, Tensor] = {
        "target_logit": logits.gather(1, target.unsqueeze(1)).squeeze(1),
        "kl": (log_p.exp() * (log_p - log_q)).sum(dim=-1).clamp_min(0),
        "agreement": (named == before).double(),
    }
    right: list[float | None] = [None] * len(logits) if labels is None else (named == labels).double().tolist()
    return {"top1": right, **{name: [float(f"{value:.7g}") for value in row.tolist()] for name, row in found.items()}}


def speed_up(full: Any, pruned: Any, pixel_values: Tensor, repeats: int) -> dict[str, float | None]:
    """Return the seconds of one forward pass of both models, taken in turn, and their ratio.

    The minimum of ``repeats`` each, so that a busy machine hurts both alike. None with ``repeats=0``.
    """
    if not repeats:
        return {"full_seconds": None, "seconds": None, "speed": None}
    best = {"full_seconds": float("inf"), "seconds": float("inf")}
    pixels = pixel_values.to(full.device)
    with evaluating(full), evaluating(pruned), torch.inference_mode():
        for _ in range(repeats):
            for name, model in (("full_seconds", full), ("seconds", pruned)):
                _wait(pixels.device)
                start = time.perf_counter()
                model(pixels, interpolate_pos_encoding=None)
                _wait(pixels.device)
                best[name] = min(best[name], time.perf_counter() - start)
    return {**best, "speed": best["full_seconds"] / best["seconds"]}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def attention_bytes(model: Any, pixel_values: Tensor, points: Sequence[str] = ("q", "k", "v", "z")) -> int:
    """Return the bytes of the queries, keys, values and contexts of all layers in one pass, counted as they pass by."""
    total = 0

    def count(tensor: Tensor, hook: Any) -> None:
        nonlocal total
        total += tensor.numel() * tensor.element_size()

    names = [name for name in model.hook_names if name.rpartition(".hook_")[2] in points]
    with evaluating(model), torch.no_grad():
        model.run_with_hooks(pixel_values.to(model.device), fwd_hooks=[(name, count) for name in names])
    return total
