"""Make a model straight from the tensors of a checkpoint, without ever holding its weights twice."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vivit_lab.checkpoints.files import TensorEntry, TensorSource
from vivit_lab.checkpoints.huggingface import LoadPlan, match_tensors, own_name
from vivit_lab.errors import CheckpointError
from vivit_lab.memory import require_bytes
from vivit_lab.model.config import VivitConfig
from vivit_lab.model.inputs import has_values

__all__ = ["build_model"]

_LARGE = 200 * 10**6  # bytes of weights from which a progress bar is worth its line


def build_model(
    kind: type,
    config: VivitConfig,
    source: TensorSource,
    *,
    origin: str,
    dtype: torch.dtype,
    device: torch.device,
    arguments: dict[str, Any] | None = None,
    ignore_mismatched_sizes: bool = False,
    progress: bool | None = None,
) -> tuple[Any, str]:
    """Make a model and fill it from tensors, in evaluation mode.

    Args:
        kind: the model class.
        config: its configuration.
        source: tensors by foreign or own names.
        origin: where they come from, for messages.
        dtype: dtype of the parameters.
        device: device of the parameters.
        arguments: further arguments of the class.
        ignore_mismatched_sizes: see ``from_pretrained``.
        progress: see ``from_pretrained``.

    Returns:
        The model, and what to warn of (``""`` for nothing).

    Raises:
        KeyMismatchError: the tensors are not this model's.
        CheckpointError: a tensor is quantised, or holds NaN or infinity in the dtype wanted.
        OutOfMemoryBudgetError: the parameters do not fit into the memory that is free.
    """
    with torch.device("meta"):  # shapes only: no memory, and no time spent on drawing weights
        model = kind(config, **(arguments or {}))
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    # attention without heads has nothing to fill; a checkpoint may have a head of zeros there
    empty = {name for name, shape in shapes.items() if 0 in shape}
    plan = match_tensors(
        {name: shape for name, shape in source.shapes.items() if own_name(name) not in empty},
        {name: shape for name, shape in shapes.items() if name not in empty},
        origin=origin,
        model=kind.__name__,
        ignore_mismatched_sizes=ignore_mismatched_sizes,
    )
    count = sum(parameter.numel() for parameter in model.parameters())
    require_bytes(
        count * dtype.itemsize,
        device,
        f"{kind.__name__} with {count:,} parameters",
        "load it in bfloat16, or where there is more memory",
    )
    _fill(model, plan, source, dtype, device, progress, origin)
    assert not any(buffer.is_meta for buffer in model.buffers()), "a buffer has no values after loading"
    return model.eval(), plan.describe(origin, kind.__name__)


@torch.no_grad()
def _fill(
    model: nn.Module,
    plan: LoadPlan,
    source: TensorSource,
    dtype: torch.dtype,
    device: torch.device,
    progress: bool | None,
    origin: str,
) -> None:
    from tqdm import tqdm

    total = sum(source[name].nbytes for name in plan.sources.values())
    hidden = (None if total >= _LARGE else True) if progress is None else not progress
    with tqdm(total=total, unit="B", unit_scale=True, desc="Loading weights", disable=hidden, leave=False) as bar:
        for name, parameter in list(model.named_parameters()):
            filled = torch.empty(parameter.shape, dtype=dtype, device=device)
            if name in plan.sources:
                entry = source[plan.sources[name]]
                filled.copy_(_read(plan.sources[name], entry))
                _check_finite(plan.sources[name], filled, entry, origin)
                bar.update(entry.nbytes)
            elif name.endswith("bias"):
                filled.zero_()
            else:
                filled.normal_(std=model.config.initializer_range)  # type: ignore[union-attr, arg-type]
            path, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(path), leaf, nn.Parameter(filled, requires_grad=parameter.requires_grad))


def _check_finite(name: str, filled: Tensor, entry: TensorEntry, origin: str) -> None:
    """Refuse a tensor with NaN or infinity, in the file or because the dtype cannot hold its numbers."""
    if not has_values(filled) or not filled.numel() or bool(filled.isfinite().all()):
        return
    stored = entry.read()
    wrong = ~stored.isfinite()
    if not bool(wrong.any()):
        raise CheckpointError(
            f"{name} in {origin} reaches {float(stored.abs().max()):.4g}, which {filled.dtype} cannot hold; load it in "
            "bfloat16 or float32"
        )
    place = wrong.nonzero()[0].tolist()
    raise CheckpointError(
        f"{name} in {origin} holds {float(stored[tuple(place)])} at {tuple(place)}, {int(wrong.sum())} such of "
        f"{stored.numel()}: the training diverged or the file is damaged; take an earlier checkpoint, or fetch it again"
    )


def _read(name: str, entry: TensorEntry) -> Tensor:
    if not entry.dtype.is_floating_point or entry.dtype.itemsize < 2:
        raise CheckpointError(
            f"{name} is stored as {entry.dtype}, so this checkpoint is quantised; wanted float32, bfloat16 or float16"
        )
    return entry.read()
