"""One pass of a model into a cache: what to keep, in which form, and the gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any

import torch
from torch import Tensor

from vivit_lab.errors import InputError
from vivit_lab.grid import TokenGrid
from vivit_lab.memory import require_bytes
from vivit_lab.model.activation_cache import ActivationCache, run_provenance
from vivit_lab.model.attention import Attention
from vivit_lab.model.hook_names import (
    LARGE_POINTS,
    NamesFilter,
    layer_of,
    leaf_of,
    select_names,
    token_axis,
    token_index,
)
from vivit_lab.model.hook_placing import Placed, find_points, place, placing
from vivit_lab.model.hook_point import HookPoint
from vivit_lab.model.inputs import check_pixels
from vivit_lab.model.outputs import ModelOutput

__all__ = ["cached_run", "run_model"]


@dataclass
class _Keeper:
    """Keeps what hooks see, in the form that was asked for."""

    pos_slice: Any
    device: Any
    dtype: Any
    with_gradients: bool
    copies: bool  # whether something else may write into the tensors after they were kept
    kept: dict[str, Tensor] = field(default_factory=dict)
    on_graph: dict[str, Tensor] = field(default_factory=dict)
    tokens: list[int] | None = None
    single: bool = False

    def see(self, tensor: Tensor, point: HookPoint) -> Tensor | None:
        if not self.with_gradients:
            self.kept[point.name] = self.form(point.name, tensor)
            return None
        # an alias, so that the gradient is of this point alone; a leaf where nothing below asks for a gradient
        alias = tensor.view_as(tensor) if tensor.requires_grad else tensor.detach().requires_grad_()
        self.kept[point.name] = self.form(point.name, alias)
        self.on_graph[point.name] = alias
        return alias.clone() if self.copies else alias

    def form(self, name: str, tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        if self.pos_slice is not None:
            axis = token_axis(name)
            self.tokens, self.single = token_index(self.pos_slice, tensor.shape[axis])
            tensor = tensor.index_select(axis, torch.tensor(self.tokens, device=tensor.device))
            tensor = tensor.squeeze(axis) if self.single else tensor
        return tensor.to(device=self.device, dtype=self.dtype, copy=self.copies and self.pos_slice is None)

    def add_gradients(self, total: Tensor) -> None:
        gradients = torch.autograd.grad(total, list(self.on_graph.values()), materialize_grads=True)
        for name, gradient in zip(self.on_graph, gradients, strict=True):
            self.kept[f"{name}_grad"] = self.form(name, gradient)


def run_model(model: Any, inputs: tuple[Any, ...], forward: dict[str, Any], start: int | None, stop: int | None) -> Any:
    """Run a model, or some of its layers."""
    forward = {"interpolate_pos_encoding": None, **forward} if len(inputs) < 5 else forward
    first = _first(inputs, forward)
    if start is None and isinstance(first, Tensor) and first.device.type == "cpu":
        check_pixels(first)  # not on an accelerator, which reading them would stop; many runs go through here
    if start is None and stop is None:
        return model(*inputs, **forward)
    if not inputs:
        inputs, forward = (forward.get("pixel_values"),), {**forward}
        forward.pop("pixel_values", None)
    unknown = set(forward) - {"head_mask", "interpolate_pos_encoding"}
    if unknown or not isinstance(inputs[0], Tensor):
        raise InputError(
            "with start_at_layer or stop_at_layer, wanted a tensor and no more than head_mask and "
            f"interpolate_pos_encoding, got {type(inputs[0]).__name__} and {sorted(unknown)}"
        )
    return model.run_part(*inputs, start_at_layer=start, stop_at_layer=stop, **forward)


def cached_run(
    model: Any,
    inputs: tuple[Any, ...],
    forward: dict[str, Any],
    start: int | None,
    stop: int | None,
    *,
    names_filter: NamesFilter,
    pos_slice: Any,
    incl_bwd: bool,
    target: Any,
    device: Any,
    dtype: Any,
    remove_batch_dim: bool,
) -> tuple[Any, ActivationCache]:
    """Run a model once and keep what was asked for; the arguments are those of ``HookedMixin.run_with_cache``."""
    points = find_points(model)
    names, by_name = select_names(names_filter, points)
    grid = _grid_of(model, inputs, forward, start)
    if grid is not None:
        _require_memory(model, names, len(_first(inputs, forward)), grid, pos_slice)
    scales, fixed_patterns, fixed_results = _attention_facts(model)
    keeper = _Keeper(pos_slice, device, dtype, incl_bwd, _written_by_others(model))
    with placing(model) as placed, torch.inference_mode(False) if incl_bwd else nullcontext():
        placed += place(model, [(names, keeper.see)], backward=False, owner=get_ident(), reads_only=not incl_bwd)
        if incl_bwd:  # a tensor born in inference mode cannot be part of a graph
            inputs = tuple(one.clone() if isinstance(one, Tensor) and one.is_inference() else one for one in inputs)
        with torch.enable_grad() if incl_bwd else nullcontext():
            output = run_model(model, inputs, forward, start, stop)
            silent = Placed(placed[0].hooks, by_name).silent
            if incl_bwd and not silent:
                keeper.add_gradients(_total(target, output, model.config))
    if silent:
        raise InputError(
            f"the pass did not go through {', '.join(silent[:3])}: it went from "
            f"{'the embeddings' if start is None else f'layer {start}'} to "
            f"{'the output' if stop is None else f'the stream before layer {stop}'}"
        )
    cache = ActivationCache(
        _apart(keeper.kept, (inputs, tuple(forward.values()), output)),
        model,
        grid=grid,
        tokens=keeper.tokens,
        single_token=keeper.single,
        points=points,
        scales=scales,
        fixed_patterns=fixed_patterns,
        fixed_results=fixed_results,
        model_id=model.name_or_path or type(model).__name__,
        provenance=run_provenance(model, model.dtype),
    )
    return output, cache.remove_batch_dim() if remove_batch_dim else cache


def _first(inputs: tuple[Any, ...], forward: dict[str, Any]) -> Any:
    return inputs[0] if inputs else forward.get("pixel_values")


def _grid_of(model: Any, inputs: tuple[Any, ...], forward: dict[str, Any], start: int | None) -> TokenGrid | None:
    """The grid of the tokens, where it can be known before the pass."""
    given = _first(inputs, forward)
    if not isinstance(given, Tensor):
        return None  # the forward says what is wrong
    if start is None:
        check_pixels(given)
        return model.grid_of(given, forward.get("interpolate_pos_encoding"))
    grid = model.config.grid
    return grid if given.ndim == 3 and given.shape[1] == grid.num_tokens else None


def _attention_facts(model: Any) -> tuple[dict[str, float], frozenset[str], frozenset[str]]:
    """Path → scale of the scores; the paths whose pattern is not the softmax of q and k, or whose result not of z."""
    every = {name: module for name, module in model.named_modules() if isinstance(module, Attention)}
    # attention along an axis keeps its patterns in other shapes, which are not computed afterwards
    modules = {name: module for name, module in every.items() if type(module) is Attention}
    fixed = {
        name
        for name, module in modules.items()
        if module.hook_attn_scores.edited or module.hook_pattern.edited or (module.training and module.dropout_prob > 0)
    }
    edited = frozenset(name for name, module in every.items() if module.hook_result.edited)
    return {name: module.scale for name, module in modules.items()}, frozenset(fixed), edited


def _written_by_others(model: Any) -> bool:
    """Whether a hook of this thread, or one of PyTorch's, may write in place into what was kept before it ran."""
    return any(
        module.edited if isinstance(module, HookPoint) else module._forward_hooks or module._forward_pre_hooks
        for module in model.modules()
    )


def _apart(kept: dict[str, Tensor], theirs: Any) -> dict[str, Tensor]:
    """Copy what shares its memory with the caller's tensors, who may write into them later."""
    taken = {tensor.untyped_storage()._cdata for tensor in _tensors(theirs)}
    copies: dict[Any, Tensor] = {}  # one tensor at two points is copied once

    def apart(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in taken:
            return tensor
        key = (storage, tensor.storage_offset(), tensor.shape, tensor.stride())
        if key not in copies:
            copies[key] = tensor.clone()
        return copies[key]

    return {name: apart(tensor) for name, tensor in kept.items()}


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list, ModelOutput)):
        for part in value.to_tuple() if isinstance(value, ModelOutput) else value:
            yield from _tensors(part)


def _require_memory(model: Any, names: list[str], batch: int, grid: TokenGrid, pos_slice: Any) -> None:
    """Refuse to keep patterns and results that do not fit."""
    count = grid.num_tokens
    rows = count if pos_slice is None else len(token_index(pos_slice, count)[0])
    size = torch.finfo(model.dtype).bits // 8
    large = [name for name in names if leaf_of(name) in LARGE_POINTS]
    wanted = 0
    for name in large:
        if leaf_of(name) == "result":
            heads = model.get_submodule(name.rpartition(".")[0]).num_heads
            wanted += batch * heads * rows * model.config.hidden_size * size
        else:
            wanted += batch * model.pattern_entries(layer_of(name), grid) * rows // count * size
    if large:
        require_bytes(
            wanted,
            model.device,
            f"keeping {', '.join(large[:3])}{' …' if len(large) > 3 else ''} for {batch} clips of {count} tokens",
            'leave them out: cache["pattern", layer] computes one from q and k when asked; or name fewer layers, or '
            "pass pos_slice",
        )


def _total(target: Any, output: Any, config: Any) -> Tensor:
    """The number whose gradients are wanted: the sum over clips of what the target gives."""
    values = _values(target, output, config)
    if not isinstance(values, Tensor) or values.ndim > 1 or not values.requires_grad:
        raise InputError(
            "target must give a tensor with a gradient, one number or one for each clip; got "
            f"{tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__}"
        )
    return values.float().sum()


def _values(target: Any, output: Any, config: Any) -> Any:
    if hasattr(target, "bind"):  # a target of vivit_lab.hooks, which lies above
        return target.bind(output, config)(output)
    if callable(target) and not isinstance(target, Tensor):
        return target(output)
    loss, logits = (getattr(output, name, None) for name in ("loss", "logits"))
    if target is None and loss is not None:
        return loss
    if logits is None:
        raise InputError("the output has no logits: pass target, a function of the output that gives a number a clip")
    index = logits.argmax(dim=-1) if target is None else torch.as_tensor(target, device=logits.device)
    batch, classes = logits.shape
    if (
        index.shape not in ((), (batch,))
        or index.is_floating_point()
        or index.dtype == torch.bool
        or not 0 <= int(index.min()) <= int(index.max()) < classes
    ):
        raise InputError(
            f"target must be a class 0..{classes - 1}, or one for each of the {batch} clips; got {target!r}"
        )
    return logits.gather(1, index.expand(batch).unsqueeze(1)).squeeze(1)
