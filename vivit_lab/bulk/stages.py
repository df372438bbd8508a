"""The model's stage: from a batch of pixels to logits, maps and statistics of the heads."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.attribution.raw import RawAttention
from vivit_lab.attribution.registry import class_by_name
from vivit_lab.attribution.rollout import AttentionRollout
from vivit_lab.bulk.job import BulkJob
from vivit_lab.bulk.rows import Failure
from vivit_lab.bulk.schema import PartLayout
from vivit_lab.bulk.shard import Result
from vivit_lab.errors import InputError
from vivit_lab.explain import load_pair, top_labels
from vivit_lab.grid import TokenGrid
from vivit_lab.hooks.inputs import Pixels
from vivit_lab.hooks.record import AttentionRecord, full_precision
from vivit_lab.hooks.recorder import evaluating, record_attention
from vivit_lab.memory import free_bytes
from vivit_lab.model.classifier import VivitForVideoClassification, VivitModel
from vivit_lab.model.config import VivitConfig

__all__ = ["ClipStage", "autocast_of", "find_batch_size", "head_columns", "layout_of", "load_model_of"]

_QUERIES = 32  # of "sampled" statistics: 1 % of a ViViT-B's pattern
_LARGEST = 32


class ClipStage:
    """Everything that a job wants to know of a batch of clips.

    Args:
        job: what is wanted.
        model: loaded, on its device.
        batch_size: clips of a forward pass.
        grid: of the clips, on which the run's maps lie; None is the model's.

    Raises:
        InputError: a method explains a class and the model has no classifier, the target is none of its classes, or CLS
            states are wanted of a model that has no single CLS token.
    """

    def __init__(
        self,
        job: BulkJob,
        model: VivitModel | VivitForVideoClassification,
        batch_size: int,
        grid: TokenGrid | None = None,
    ) -> None:
        self.grid = model.config.grid if grid is None else grid
        self.job, self.model, self.batch_size = job, model, batch_size
        self.methods = job.built()
        self.is_classifier = isinstance(model, VivitForVideoClassification) and bool(model.config.num_labels)
        about_classes = [type(method).__name__ for _, method in self.methods if not method.class_agnostic]
        if about_classes and not self.is_classifier:
            raise InputError(
                f"{', '.join(about_classes)} explains a class, but {job.model} has no classifier: choose a classifier, "
                "or class-agnostic methods (raw, rollout, value_norm)"
            )
        if job.hidden_states == "cls" and not (model.config.variant == "spacetime" and model.config.grid.cls):
            raise InputError(
                f"hidden_states='cls' wants one CLS token in every layer, and {job.model} (variant "
                f"{model.config.variant}, classifier {model.config.classifier}) has none: use hidden_states='tokens'"
            )
        self.target = None if job.target is None else class_by_name(job.target, model.config)
        if job.compile:
            for block in model.blocks:
                block.compile()

    def __call__(self, pixels: Tensor, part: str = "") -> list[Result]:
        """Return the columns of each clip of a batch (batch, T, C, h, w), or a failure where they are not finite."""
        pixels = pixels.to(self.model.device, self.model.dtype)
        grid = self.model.grid_of(pixels, None)
        if grid != self.grid:
            own, (height, width) = self.grid.image_size, grid.image_size
            raise InputError(
                f"the clip was prepared as {grid.num_frames} frames of {height}×{width} pixels, and the run stores "
                f"maps of {self.grid.num_frames} frames of {own[0]}×{own[1]}: give the model a processor that crops "
                "all videos to one size (do_center_crop and crop_size in its preprocessor_config.json)"
            )
        with autocast_of(self.job, self.model):
            given = Pixels(pixels)  # of the run's own processor; a clip that is not finite becomes a failure below
            record = record_attention(self.model, given)
            maps = [(name, self._map(method, record, given)) for name, method in self.methods]
            heads = None
            if self.job.head_statistics != "none":
                heads = head_columns(record, all_queries=self.job.head_statistics == "all")
            hidden = self._hidden(pixels)
        logits = getattr(record.output, "logits", None) if self.is_classifier else None
        rows: list[Result] = []
        about = {name: _about(heat) for name, heat in maps}
        for clip in range(len(pixels)):
            values = {name: heat.relevance[clip] for name, heat in maps}
            values |= {} if logits is None else {"logits": logits[clip]}
            wrong = [name for name, numbers in values.items() if not bool(numbers.isfinite().all())]
            if wrong:
                rows.append(Failure("model", "NotFinite", f"{', '.join(wrong)} of this clip hold NaN or infinity"))
                continue
            row = {} if logits is None else _classified(logits[clip], self.model.config, self.job.top_k)
            for name, heat in maps:
                row |= _mapped(name, heat, clip)
            if heads is not None:
                row |= {name: values[clip].reshape(-1) for name, values in heads.items()}
            if hidden is not None:
                row["hidden"] = hidden[clip]
            rows.append({**row, "about": about})
        return rows

    def _map(self, method: Any, record: AttentionRecord, pixels: Pixels) -> AttributionMap:
        if isinstance(method, (RawAttention, AttentionRollout)):
            return method(record)
        return method(self.model, pixels, None if method.class_agnostic else self.target)

    def _hidden(self, pixels: Tensor) -> Tensor | None:
        """Return (batch, layer + 1, d_model) of CLS, or (batch, token, d_model) of the last layer, as it is stored."""
        if self.job.hidden_states == "none":
            return None
        everything = self.job.hidden_states == "cls"
        with evaluating(self.model), torch.no_grad():
            encoded = self.model.encode(pixels, None, False, everything, None)
        states = encoded.hidden_states
        if not everything or states is None:
            return encoded.last_hidden_state.half().cpu()
        return torch.stack([layer.select(1, 0) for layer in states], dim=1).half().cpu()


def head_columns(record: AttentionRecord, *, all_queries: bool = False) -> dict[str, np.ndarray]:
    """Return what each head's attention is like, averaged over tubelet queries: two columns of a row.

    ``heads.head_statistics`` is the study of a model: a dozen numbers, of rows without their CLS entry, clip by clip,
    with random queries and standard errors. Here a whole batch is read at once, the entropy is that of the full row,
    and the queries are the same in every run, so that a part that is computed again
    differs by rounding alone.

    Args:
        record: of a forward pass.
        all_queries: average over every tubelet, in blocks; else over 32 that are evenly spaced.

    Returns:
        ``head_entropy``: (batch, layer, head) float32, entropy of a row in nats, CLS key included; ``head_distance``:
        the same shape, how many tubelet rows of time lie between query and key, of the attention on tubelets. Cost: a
        pass over the rows that are read.
    """
    grid = record.grid
    count = grid.num_tubelets if all_queries else min(_QUERIES, grid.num_tubelets)
    chosen = [(2 * number + 1) * grid.num_tubelets // (2 * count) for number in range(count)]
    times, least = torch.arange(grid.t, device=record.device), torch.finfo(torch.float32).tiny
    entropy, distance = [], []
    with full_precision(record.device):
        for layer in record.layers:
            sums = [0.0, 0.0]
            for start in range(0, count, _QUERIES):
                block = torch.tensor(chosen[start : start + _QUERIES], device=record.device)
                rows = record.rows(layer, block + grid.offset, masked=False)
                # torch.special.entr is the same, and takes longer than the rows themselves
                sums[0] -= torch.linalg.vecdot(rows.flatten(2), rows.clamp_min(least).log_().flatten(2))
                by_time = rows.narrow(-1, grid.offset, grid.num_tubelets).unflatten(-1, (grid.t, -1)).sum(-1)
                apart = (times[block // (grid.h * grid.w)].unsqueeze(1) - times).abs().float()
                near = (by_time * apart).sum(-1) / by_time.sum(-1).clamp_min(least)
                sums[1] += near.sum(-1)
            entropy.append(sums[0] / count)
            distance.append(sums[1] / count)
    both = {"head_entropy": entropy, "head_distance": distance}
    return {name: torch.stack(values, dim=1).cpu().numpy() for name, values in both.items()}


def find_batch_size(config: VivitConfig, device: torch.device, grid: TokenGrid | None = None) -> int:
    """Return how many clips a forward pass may take: a power of two whose activations fit half of what is free.

    At most 32, and on a CPU at most 4, since more are no faster there.

    Args:
        config: of the model.
        device: where it will run.
        grid: of the clips; None is the configuration's.
    """
    grid = config.grid if grid is None else grid
    tokens, width = grid.num_tokens, config.hidden_size
    kept = 2 * config.num_attention_layers * width  # queries and keys
    passing = 20 * width + 2 * config.intermediate_size  # measured with a rollout, see tests/benchmarks
    frames = config.num_channels * math.prod((grid.num_frames, *grid.image_size))
    clip = 4 * (tokens * (kept + passing) + 3 * frames)
    free = free_bytes(device)
    room = _LARGEST if free is None else free // 2 // clip
    most = 4 if device.type == "cpu" else _LARGEST
    return 1 << max(min(room, most), 1).bit_length() - 1


def layout_of(job: BulkJob, config: VivitConfig, grid: TokenGrid, *, is_classifier: bool) -> PartLayout:
    """Return the columns that a job's parts have, whose clips have that grid."""
    return PartLayout(
        tubelets=grid.num_tubelets,
        classes=(config.num_labels or 0) if is_classifier else 0,
        heads=config.num_attention_layers * config.num_attention_heads,
        maps=tuple(name for name, _ in job.built()),
        head_statistics=job.head_statistics != "none",
        marks=True,
    )


def load_model_of(job: BulkJob, device: torch.device | str) -> tuple[Any, Any]:
    """Return the model of a job on a device, and its processor."""
    where = {} if job.revision is None else {"revision": job.revision}
    return load_pair(
        job.model, device=device, dtype=job.dtype, attn_implementation=job.attn_implementation, **where
    )  # fmt: skip


def autocast_of(job: BulkJob, model: Any) -> AbstractContextManager[Any]:
    """Return the job's ``torch.autocast``, or a context that does nothing."""
    if job.autocast is None:
        return nullcontext()
    return torch.autocast(model.device.type, getattr(torch, job.autocast))


def _classified(logits: Tensor, config: VivitConfig, count: int) -> dict[str, Any]:
    best = top_labels(logits.detach(), config, count)
    return {
        "logits": logits.detach().float().cpu().numpy(),
        "prediction": best[0]["index"],
        "topk_index": [one["index"] for one in best],
        "topk_label": [one["label"] for one in best],
        "topk_probability": [one["probability"] for one in best] if "probability" in best[0] else None,
    }


def _about(heat: AttributionMap) -> dict[str, Any]:
    """Return what all maps of a column have in common."""
    names = ("method", "parameters", "scale", "signed", "model_id", "provenance")
    return {name: getattr(heat, name) for name in names}


def _mapped(name: str, heat: AttributionMap, clip: int) -> dict[str, Any]:
    """Return a map as it is stored: halves, relative to a power of two above its largest magnitude."""
    values = heat.relevance[clip].reshape(-1).cpu().numpy()
    largest = float(np.abs(values).max())
    scale = float(2.0 ** np.ceil(np.log2(largest))) if largest else 1.0
    return {
        name: (values / scale).astype(np.float16),
        f"{name}_scale": scale,
        f"{name}_cls": None if heat.cls_share is None else heat.cls_share[clip],
        f"{name}_target": heat.target if heat.targets is None else heat.targets[clip],
    }
