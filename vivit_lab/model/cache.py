"""What flowed through a model in one pass, by the names of its hook points, and what it says of the logits."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from threading import get_ident
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save
from torch import Tensor

from vivit_lab._version import __version__
from vivit_lab.errors import InputError, MissingExtraError
from vivit_lab.files import stored_fields, stored_tensors
from vivit_lab.grid import TokenGrid
from vivit_lab.html import facts_table, report_html, rows_table, tiles
from vivit_lab.memory import format_bytes, require_bytes
from vivit_lab.model.attention import Attention, attention_pattern
from vivit_lab.model.hooks import (
    LARGE_POINTS,
    HookPoint,
    NameLike,
    NamesFilter,
    Placed,
    find_points,
    layer_of,
    leaf_of,
    place,
    placing,
    resolve_name,
    select_names,
    token_axis,
    token_index,
)
from vivit_lab.model.inputs import check_pixels, is_index
from vivit_lab.model.outputs import ModelOutput
from vivit_lab.numbers import checked_numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "ActivationCache",
    "CacheReadouts",
    "LogitLens",
    "cached_run",
    "lens_of_cache",
    "readout_weights",
    "run_model",
    "run_provenance",
]

_MODES = ("all", "attn", "mlp")


class CacheReadouts(Mapping[Any, Tensor]):
    """What an ``ActivationCache`` can tell of the residual stream, in TransformerLens's words.

    A stack has the shape (component, batch, token, d_model). In evaluation mode the parts of ``decompose_resid`` sum to
    the residual stream.
    """

    model: Any
    has_batch_dim: bool
    single_token: bool
    points: tuple[str, ...]
    fixed_results: frozenset[str]

    def accumulated_resid(
        self,
        layer: int | None = None,
        incl_mid: bool = False,
        apply_ln: bool = False,
        pos_slice: Any = None,
        mlp_input: bool = False,
        return_labels: bool = False,
    ) -> Any:
        """Return the residual stream before each layer, up to the input of one of them.

        Args:
            layer: the last one, whose input is included; None, -1 or the number of layers is the final LayerNorm.
            incl_mid: also the stream between attention and MLP of each layer before it.
            apply_ln: normalise each as that input is: by the final LayerNorm itself at the end, else with the scale
                that the layer's LayerNorm had.
            pos_slice: tokens, by their place in the cache.
            mlp_input: also the stream between attention and MLP of ``layer``.
            return_labels: also return ``"0_pre"``, ``"0_mid"``, …, ``"final_post"``.

        Raises:
            InputError: there is no such layer, or a stream was not kept.
        """
        last, count = self._layer(layer), self._num_layers
        names, labels = [], []
        for index in range(min(last + 1, count)):
            names.append(("resid_pre", index))
            labels.append(f"{index}_pre")
            if (incl_mid and index < last) or (mlp_input and index == last):
                name = self._point("resid_mid", index)
                names += [name] if name else []
                labels += [f"{index}_mid"] if name else []
        if last == count:
            names.append(("resid_post", count - 1))
            labels.append("final_post")
        stack = self._stack([self._cut(self[name], pos_slice) for name in names])
        if apply_ln and last == count:
            stack = self._weights().ln_final(stack)
        elif apply_ln:
            stack = self.apply_ln_to_stack(stack, last, mlp_input, pos_slice)
        return (stack, labels) if return_labels else stack

    def decompose_resid(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        mode: str = "all",
        apply_ln: bool = False,
        pos_slice: Any = None,
        incl_embeds: bool = True,
        return_labels: bool = False,
    ) -> Any:
        """Return the parts whose sum is the input of a layer: embeddings, attention and MLP outputs.

        Args:
            layer: see ``accumulated_resid``.
            mlp_input: also the attention output of ``layer`` itself.
            mode: ``"all"``, ``"attn"`` or ``"mlp"``: which outputs.
            apply_ln: see ``apply_ln_to_stack``.
            pos_slice: tokens, by their place in the cache.
            incl_embeds: also the embedding and the positions.
            return_labels: also return ``"embed"``, ``"pos_embed"``, ``"0_attn_out"``, ``"0_mlp_out"``, …

        Raises:
            InputError: there is no such layer or mode, or a part was not kept.
        """
        if mode not in _MODES:
            raise InputError(f"mode={mode!r} is not known; choose one of {', '.join(_MODES)}")
        last = self._layer(layer)
        names: list[NameLike] = ["hook_embed", "hook_pos_embed"] if incl_embeds else []
        labels = ["embed", "pos_embed"] if incl_embeds else []
        for index in range(last + (mlp_input and last < self._num_layers)):
            for what in ("attn_out", "mlp_out"):
                name = self._point(what, index)
                if name and mode in ("all", what[: -len("_out")]) and not (what == "mlp_out" and index == last):
                    names.append(name)
                    labels.append(f"{index}_{what}")
        if not names:
            raise InputError(f"no part is left: mode={mode!r} up to layer {last} without embeddings")
        stack = self._stack([self._cut(self[name], pos_slice) for name in names])
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, last, mlp_input, pos_slice)
        return (stack, labels) if return_labels else stack

    def stack_head_results(
        self,
        layer: int | None = -1,
        return_labels: bool = False,
        incl_remainder: bool = False,
        pos_slice: Any = None,
        apply_ln: bool = False,
    ) -> Any:
        """Return what each head before a layer adds to the residual stream.

        Args:
            layer: see ``accumulated_resid``.
            return_labels: also return ``"L0H0"``, ``"L0H1"``, …; heads bear the numbers they were born with.
            incl_remainder: end with the rest of the residual stream, ``"remainder"``.
            pos_slice: tokens, by their place in the cache. All tokens of ViT-B's 144 heads are 1.4 GB a clip.
            apply_ln: see ``apply_ln_to_stack``.

        Raises:
            InputError: there is no such layer, z (or the results) was not kept, or a hook changed results not kept.
            OutOfMemoryBudgetError: the stack does not fit into the memory that is free.
        """
        last = self._layer(layer)
        parts: list[Tensor] = []
        labels: list[str] = []
        for index in range(last):
            results, heads = self._head_results(index, pos_slice)
            if index == 0:
                wanted = results.numel() * results.element_size() * (last + incl_remainder)
                require_bytes(wanted, results.device, f"the heads of {last} layers", "pass pos_slice for some tokens")
            parts += results.unbind(-2)
            labels += [f"L{index}H{head}" for head in heads]
        if incl_remainder or not parts:
            name = ("resid_pre", last) if last < self._num_layers else ("resid_post", last - 1)
            rest = self._cut(self[name], pos_slice)
            rest = rest - torch.stack(parts).sum(dim=0) if parts else rest
            empty = rest.new_zeros((0, *rest.shape))
            parts, labels = [*parts, rest] if incl_remainder else parts, labels + ["remainder"] * incl_remainder
            stack = self._stack(parts) if parts else empty
        else:
            stack = self._stack(parts)
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, last, pos_slice=pos_slice)
        return (stack, labels) if return_labels else stack

    def stack_activation(
        self, activation_name: str, layer: int | None = -1, sublayer_type: str | None = None
    ) -> Tensor:
        """Return one kind of activation of all layers before one, (layer, batch, …).

        Args:
            activation_name: such as ``"z"`` or ``"resid_post"``.
            layer: see ``accumulated_resid``.
            sublayer_type: the module it is in, where that is not clear: ``"ln1"``.

        Raises:
            InputError: there is no such layer, or it was not kept.
        """
        count = self._layer(layer)
        if not count:
            raise InputError("there is no layer before layer 0")
        return self._stack([self[(activation_name, index, sublayer_type)] for index in range(count)])

    def apply_ln_to_stack(
        self, residual_stack: Tensor, layer: int | None = None, mlp_input: bool = False, pos_slice: Any = None
    ) -> Tensor:
        """Return parts of a residual stream as a layer's LayerNorm passes them on, with its scale frozen.

        Centred, divided by the scale of the whole stream and times the LayerNorm's weight, which is linear, so parts
        still sum; its bias is no part of any of them. (TransformerLens folds the weight into what follows.)

        Args:
            residual_stack: (component, batch, token, d_model), tokens cut already.
            layer: see ``accumulated_resid``.
            mlp_input: the layer's second LayerNorm instead of the first.
            pos_slice: how the tokens were cut, to cut the scale alike.

        Raises:
            InputError: there is no such layer, or the scale was not kept.
        """
        index, weights = self._layer(layer), self._weights()
        if index == self._num_layers:
            norm, scale = weights.ln_final, self["ln_final.hook_scale"]
        else:
            part = "ln2" if mlp_input else "ln1"
            norm, scale = getattr(weights.blocks[index], part), self["scale", index, part]
        centred = residual_stack - residual_stack.mean(dim=-1, keepdim=True)
        return centred / self._cut(scale, pos_slice) * norm.weight

    def logit_attrs(
        self, residual_stack: Tensor, classes: Any, incorrect_classes: Any = None, pos_slice: Any = None
    ) -> Tensor:
        """Return what each part of the last residual stream adds to a class's logit, (component, batch, token).

        The final LayerNorm is frozen. Of a model that reads the CLS token, the entry of CLS is what reaches the logit;
        of one that reads the mean of the tokens, the mean over tokens is. ``direct_logit_attribution`` does that and
        accounts for the biases.

        Args:
            residual_stack: (component, batch, token, d_model), as ``decompose_resid`` and the others give it.
            classes: a class, or one for each clip.
            incorrect_classes: classes whose logits are subtracted; likewise.
            pos_slice: how the tokens were cut.

        Raises:
            InputError: the model has no such class or no classifier.
        """
        direction = self._direction(classes)
        if incorrect_classes is not None:
            direction = direction - self._direction(incorrect_classes)
        if direction.ndim == 2 and residual_stack.ndim == 4:
            direction = direction.unsqueeze(1)  # one for each clip, the same at all its tokens
        return (self.apply_ln_to_stack(residual_stack, pos_slice=pos_slice) * direction).sum(dim=-1)

    def logit_lens(self, classes: Sequence[int] | None = None, *, incl_mid: bool = False) -> LogitLens:
        """Return the class logits that each token's residual stream would give at each layer; see ``LogitLens``.

        Args:
            classes: which classes; None for all.
            incl_mid: also between attention and MLP.

        Raises:
            InputError: the model has no such class, no classifier, or the residual streams were not kept.
            OutOfMemoryBudgetError: the logits do not fit into the memory that is free.
        """
        return lens_of_cache(self, classes, incl_mid=incl_mid)

    @property
    def _num_layers(self) -> int:
        return 1 + max((layer for name in self.points if (layer := layer_of(name)) is not None), default=-1)

    def _layer(self, layer: int | None) -> int:
        count = self._num_layers
        if layer is None or layer == -1:
            return count
        if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer <= count:
            raise InputError(f"layer must be 0..{count}, or -1 or None for the end, got {layer!r}")
        return layer

    def _point(self, what: str, layer: int) -> str | None:
        """The name of a point of a layer, or None where the model has none (a layer may have no MLP)."""
        return next((name for name in self.points if leaf_of(name) == what and layer_of(name) == layer), None)

    def _weights(self) -> Any:
        if self.model is None:
            raise InputError("this needs the model's weights: ActivationCache.load(path, model=model)")
        return self.model

    def _direction(self, classes: Any) -> Tensor:
        weight = getattr(getattr(self._weights(), "classifier", None), "weight", None)
        if weight is None:
            raise InputError("the model has no linear classifier, so its logits have no directions")
        index = torch.as_tensor(classes, device=weight.device)
        if index.is_floating_point() or index.ndim > 1 or bool(((index < 0) | (index >= len(weight))).any()):
            raise InputError(f"classes must be of 0..{len(weight) - 1}, one or one for each clip, got {classes!r}")
        return weight[index]

    def _head_results(self, layer: int, pos_slice: Any) -> tuple[Tensor, Sequence[int]]:
        """(batch, token, head, d_model) of some tokens, and the heads' numbers."""
        module = None if self.model is None else self.model.blocks[layer].attn
        name, context = self._point("result", layer), self._point("z", layer)
        if name in self:  # first of all what stood there: a hook may have changed it
            results = self._cut(self[name], pos_slice, trailing=2)
        elif context is not None and context in self and module is not None:
            path = context.rpartition(".")[0]
            results = self._results_of(path, self._cut(self[context], pos_slice, trailing=2))
        else:
            results = self._cut(self["result", layer], pos_slice, trailing=2)
        kept = getattr(module, "kept_heads", None)
        return results, range(results.shape[-2]) if kept is None else kept

    def _results_of(self, path: str, z: Tensor) -> Tensor:
        """What the heads of an attention module add to the stream, from their context."""
        if path in self.fixed_results:
            raise InputError(
                f"{path}.hook_result was changed by a hook, so it does not follow from z: keep it in the pass, "
                f"names_filter=[{f'{path}.hook_result'!r}]"
            )
        return self._weights().get_submodule(path).head_results(z)

    def _cut(self, tensor: Tensor, pos_slice: Any, trailing: int = 1) -> Tensor:
        """Take some tokens; ``trailing`` is how many axes come after that of tokens."""
        if pos_slice is None:
            return tensor
        if self.single_token:
            raise InputError("this cache holds a single token without its axis, so there is nothing to slice")
        axis = tensor.ndim - 1 - trailing
        index, single = token_index(pos_slice, tensor.shape[axis])
        tensor = tensor.index_select(axis, torch.tensor(index, device=tensor.device))
        return tensor.squeeze(axis) if single else tensor

    @staticmethod
    def _stack(parts: list[Tensor]) -> Tensor:
        shapes = {tuple(part.shape) for part in parts}
        if len(shapes) > 1:
            raise InputError(
                f"the residual stream has other tokens in other layers, {sorted(shapes)}, so it is not one sum: choose "
                "layers of one stage"
            )
        return torch.stack(parts)


_MOST_STRIPS = 8


@dataclass(frozen=True, eq=False)
class LogitLens:
    """Class logits of every token at every layer, by the final LayerNorm and the classifier.

    nostalgebraist 2020 (https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens):
    logits_l = classifier(LN_final(x_l)). Early layers need not speak the last one's language, so small logits there are
    no proof of absence.

    Args:
        values: (layer, batch, token, class) float32.
        labels: for each entry of the first axis, ``"0_pre"``, …, ``"final_post"``.
        classes: the classes, in order.
        names: what they are called.
        pooled: (layer, batch, class) float32, of the summary that the model reads: its CLS token or the mean of its
            tokens; the last layer's are the model's logits. None where not all tokens are there.
        grid: the token grid; None where it is not known.
        tokens: sequence indices of the tokens; None for all.
        model_id: which model.
    """

    values: Tensor
    labels: list[str]
    classes: list[int]
    names: list[str]
    pooled: Tensor | None = None
    grid: TokenGrid | None = None
    tokens: list[int] | None = None
    model_id: str | None = None

    def of(self, label: int | str) -> Tensor:
        """Return the logits of one class, (layer, batch, token).

        Args:
            label: the class by its number or name.

        Raises:
            InputError: the lens does not hold that class.
        """
        return self.values.select(-1, self._index(label))

    def tubelets(self, label: int | str) -> Tensor:
        """Return the logits of one class on the token grid, (layer, batch, t, h, w).

        Raises:
            InputError: the lens does not hold that class, or not all tokens.
        """
        if self.grid is None or self.tokens is not None:
            raise InputError("the lens does not hold all tokens of a known grid, so they cannot be laid out on it")
        return self.grid.unflatten(self.of(label))

    def strip(self, label: int | str) -> Tensor:
        """Return a class's time strip, (layer, batch, t): its logits averaged over the places of each time.

        Raises:
            InputError: see ``tubelets``.
        """
        return self.tubelets(label).mean(dim=(-2, -1))

    def to_pandas(self) -> Any:
        """Return the pooled logits as a table with columns clip, layer, class, name, logit.

        Raises:
            MissingExtraError: pandas is not installed.
            InputError: not all tokens are there.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise MissingExtraError("tables need pandas: pip install 'vivit-lab[lab]'") from error
        if self.pooled is None:
            raise InputError("not all tokens are there, so there are no pooled logits; the tensor is .values")
        rows = [
            (clip, label, index, name, float(self.pooled[place, clip, column]))
            for clip in range(self.pooled.shape[1])
            for place, label in enumerate(self.labels)
            for column, (index, name) in enumerate(zip(self.classes, self.names, strict=True))
        ]
        return pd.DataFrame(rows, columns=["clip", "layer", "class", "name", "logit"])

    def __repr__(self) -> str:
        layers, batch, tokens, classes = self.values.shape
        return f"LogitLens({batch} clips, {layers} places in the stream, {tokens} tokens, {classes} classes)"

    def _repr_html_(self) -> str:
        """Return the first clip's time strips (down: layers, across: time), of the classes that end strongest."""
        final = self.values[-1, 0].mean(dim=0) if self.pooled is None else self.pooled[-1, 0]
        facts = {"logit lens": repr(self), "model": self.model_id}
        if self.grid is None or self.tokens is not None:
            return report_html(facts_table(facts))
        chosen = final.argsort(descending=True)[:_MOST_STRIPS].tolist()
        facts["read"] = (
            f"clip 0; down: {self.labels[0]} … {self.labels[-1]}; across: {self.grid.t} tubelet rows in time; mean "
            "logit over space, less the mean over classes"
        )
        centred = self.grid.unflatten(self.values[:, 0] - self.values[:, 0].mean(dim=-1, keepdim=True), axis=1)
        strips = centred.mean(dim=(2, 3)).cpu().numpy()  # (layer, t, class)
        names = [self.names[index] for index in chosen]
        return report_html(facts_table(facts), tiles(strips.transpose(2, 0, 1)[chosen], names, signed=True))

    def _index(self, label: int | str) -> int:
        held: list[Any] = self.names if isinstance(label, str) else self.classes
        if label not in held or isinstance(label, bool):
            raise InputError(f"class {label!r} is not in the lens of {', '.join(map(str, held[:8]))}")
        return held.index(label)


def lens_of_cache(cache: Any, classes: Sequence[int] | None, *, incl_mid: bool) -> LogitLens:
    """Return the lens of a cache; see ``ActivationCache.logit_lens``."""
    model = cache._weights()
    count = model.config.num_labels if getattr(model, "classifier", None) is not None else 0
    if not count:
        raise InputError("the model has no classifier, so there is no lens to look through")
    chosen = list(range(count)) if classes is None else torch.as_tensor(classes).reshape(-1).tolist()
    if not chosen or any(not is_index(index) or not 0 <= index < count for index in chosen):
        raise InputError(f"classes must be some of 0..{count - 1}, got {classes}")
    if cache.single_token:
        raise InputError("this cache holds a single token without its axis; cut it with a list or slice instead")
    streams, labels = cache.accumulated_resid(incl_mid=incl_mid, return_labels=True)
    streams = streams if cache.has_batch_dim else streams.unsqueeze(1)
    layers, batch, tokens, _ = streams.shape
    require_bytes(
        4 * layers * batch * tokens * len(chosen),
        streams.device,
        f"the logits of {len(chosen)} classes for {layers} × {batch} × {tokens} tokens",
        "name fewer classes",
    )
    index = torch.tensor(chosen, device=streams.device)
    with torch.no_grad():
        made = [model.classifier(model.ln_final(stream)).index_select(-1, index).float() for stream in streams]
    values = torch.stack(made)
    pooled = None
    if cache.tokens is None:
        weights = readout_weights(model, tokens, cache.grid).to(values)
        pooled = torch.einsum("lbtc,t->lbc", values, weights)
    names = [(model.config.id2label or {}).get(each, f"LABEL_{each}") for each in chosen]
    return LogitLens(values, labels, chosen, names, pooled, cache.grid, cache.tokens, cache.model_id)


def readout_weights(model: Any, tokens: int, grid: TokenGrid | None) -> Tensor:
    """Return the weight (token,) of each token in the vector that stands for the clip; they sum to 1.

    1 for CLS and 0 for all others, or the same for all tokens, as the model has it.
    """
    from vivit_lab.model.outputs import Encoded

    with torch.inference_mode(False), torch.enable_grad():
        tokens_ = torch.zeros(1, tokens, 1, requires_grad=True, device=model.device)
        summary = model.summary_of(Encoded(tokens_, None, None, grid))
        return torch.autograd.grad(summary.sum(), tokens_)[0].reshape(-1)


_FORMAT = "vivit_lab.ActivationCache/1"
_FIELDS = (
    "grid", "tokens", "single_token", "has_batch_dim", "points", "scales", "fixed_patterns", "fixed_results",
    "model_id", "provenance",
)  # fmt: skip


def run_provenance(model: Any, dtype: torch.dtype) -> dict[str, str]:
    """Return how a pass was computed, to be kept with what came of it."""
    return {
        "vivit_lab": __version__,
        "torch": torch.__version__,
        "dtype": str(dtype).removeprefix("torch."),
        "device": model.device.type,
        "attn_implementation": model.attn_implementation,
    }


class ActivationCache(CacheReadouts):
    """A mapping from hook points to the tensors that were there, with TransformerLens's short forms and readouts.

    ``cache["blocks.3.hook_resid_post"]``, ``cache["resid_post", -1]``, ``cache["scale", 0, "ln1"]``.
    Scores, pattern and result that were not kept are computed exactly, when asked for, from q, k and z.

    Args:
        tensors: full name → tensor, such as (batch, token, d_model); see the table of hook points in the README.
        model: the model it is of, which the readouts need; None where it is not at hand.
        grid: the token grid; None where the pass did not tell it.
        tokens: sequence indices of the tokens that were kept; None for all.
        single_token: whether the token axis is gone, because one was picked by its index.
        has_batch_dim: whether there is a batch axis.
        points: all hook points of the model.
        scales: attention module → factor on its scores, for modules in which every token attends to all.
        fixed_patterns: attention modules whose pattern a hook or dropout changed, so that it cannot be computed later.
        fixed_results: attention modules whose result a hook changed; likewise.
        model_id: which model.
        provenance: how the pass was computed.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        model: Any = None,
        *,
        grid: TokenGrid | None = None,
        tokens: list[int] | None = None,
        single_token: bool = False,
        has_batch_dim: bool = True,
        points: Iterable[str] = (),
        scales: Mapping[str, float] | None = None,
        fixed_patterns: frozenset[str] = frozenset(),
        fixed_results: frozenset[str] = frozenset(),
        model_id: str | None = None,
        provenance: dict[str, Any] | None = None,
    ) -> None:
        self.tensors = dict(tensors)
        self.model = model
        self.grid = grid
        self.tokens = tokens
        self.single_token = single_token
        self.has_batch_dim = has_batch_dim
        self.points = tuple(points) or tuple(self.tensors)
        self.scales = dict(scales or {})
        self.fixed_patterns = frozenset(fixed_patterns)
        self.fixed_results = frozenset(fixed_results)
        self.model_id = model_id
        self.provenance = provenance or {}

    def __getitem__(self, key: NameLike) -> Tensor:
        """Return what stood at a hook point.

        Args:
            key: a full name or a short form; a name that ends with ``_grad`` for its gradient.

        Raises:
            InputError: it was not kept and cannot be computed, or the key means several points.
            OutOfMemoryBudgetError: what would have to be computed does not fit.
        """
        derived = {name: path for path in self._attention_paths() for name in self._derivable(path)}
        held = [*self.tensors, *(name for name in derived if name not in self.tensors)]
        name = resolve_name(key, held, elsewhere=self.points)
        return self.tensors[name] if name in self.tensors else self._derive(name, derived[name])

    def __contains__(self, key: object) -> bool:
        return key in self.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    @property
    def nbytes(self) -> int:
        """Bytes that the cache holds; what stands at two points (one layer's end, the next one's start) counts once."""
        held = {
            (tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape): tensor for tensor in self.values()
        }
        return sum(tensor.numel() * tensor.element_size() for tensor in held.values())

    @property
    def batch_size(self) -> int | None:
        """How many clips; None without a batch axis."""
        return len(next(iter(self.tensors.values()))) if self.has_batch_dim else None

    @checked_numbers()
    def pattern_rows(self, layer: int, queries: Any) -> Tensor:
        """Return what some queries attend to, (batch, head, query, key), from q and k alone.

        Args:
            layer: the layer; negative ones count from the last.
            queries: sequence indices: one, a slice or a list.

        Raises:
            InputError: q or k was not kept, of all tokens, or a hook changed the pattern.
        """
        derived = [name for path in self.scales for name in self._derivable(path)]
        name = resolve_name(("pattern", layer), derived, elsewhere=self.points)
        path = name.rpartition(".")[0]
        return self._derive(name, path, token_index(queries, self._with_batch(f"{path}.hook_q").shape[1])[0])

    def at(self, t: Any = None, y: Any = None, x: Any = None, *, cls: bool = False) -> ActivationCache:
        """Return the tokens at some places of the grid, in sequence order.

        Args:
            t: tubelet rows in time: an index, a slice or a list; None for all.
            y: rows; likewise.
            x: columns; likewise.
            cls: whether the CLS token comes first. With neither t, y nor x, it comes alone.

        Raises:
            InputError: the cache has no grid or not all its tokens, there is no CLS token, a place is outside, or a
                tensor is not over the tokens of the grid (those of a factorised encoder's layers).
        """
        if self.grid is None or self.tokens is not None:
            raise InputError("at() wants a cache of all tokens of a known grid; this one was cut already, or has none")
        if cls and not self.grid.cls:
            raise InputError("there is no CLS token in this model")
        chosen = [0] if cls else []
        if not (cls and t is None and y is None and x is None):
            axes = [
                token_index(slice(None) if part is None else part, size, name)[0]
                for name, part, size in zip("tyx", (t, y, x), self.grid.shape, strict=True)
            ]
            chosen += sorted(self.grid.token(*place) for place in product(*axes))
        return self._changed(lambda name, tensor: self._take(name, tensor, chosen), tokens=chosen)

    def to(self, *args: Any, **options: Any) -> ActivationCache:
        """Return the cache on another device or in another dtype; the arguments are those of ``Tensor.to``."""
        return self._changed(lambda _, tensor: tensor.to(*args, **options))

    @checked_numbers()
    def clip(self, index: int) -> ActivationCache:
        """Return one clip of the batch, without the batch axis.

        Raises:
            InputError: there is no such clip, or no batch axis.
        """
        count = self.batch_size
        if count is None or not -count <= index < count:
            raise InputError(f"index={index} is not in a cache of {'one clip' if count is None else f'{count} clips'}")
        return self._changed(lambda _, tensor: tensor.select(0, index), has_batch_dim=False)

    def remove_batch_dim(self) -> ActivationCache:
        """Return a cache of one clip without its batch axis.

        Raises:
            InputError: it holds several clips.
        """
        if self.has_batch_dim and self.batch_size != 1:
            raise InputError(f"a cache of {self.batch_size} clips keeps its batch axis; clip(index) picks one")
        return self.clip(0) if self.has_batch_dim else self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the cache as one safetensors file: a tensor for each name, all else as JSON in its metadata."""
        facts = {
            "grid": None if self.grid is None else self.grid.to_dict(),
            "tokens": self.tokens,
            "single_token": self.single_token,
            "has_batch_dim": self.has_batch_dim,
            "points": self.points,
            "scales": self.scales,
            "fixed_patterns": sorted(self.fixed_patterns),
            "fixed_results": sorted(self.fixed_results),
            "model_id": self.model_id,
            "provenance": self.provenance,
        }
        # a tensor that stands at two points is written twice: the format has no references
        contents = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in self.tensors.items()}
        Path(path).write_bytes(save(contents, metadata={"format": _FORMAT, "cache": json.dumps(facts)}))

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Any = None) -> ActivationCache:
        """Read a cache that ``save`` wrote.

        Args:
            path: the file.
            model: the model it is of, for the readouts that need its weights.

        Raises:
            InputError: the file is not an activation cache.
            FileNotFoundError: there is no such file.
        """
        kind = f"an activation cache ({_FORMAT})"
        facts, tensors = stored_tensors(path, kind, "cache", format=_FORMAT)
        with stored_fields(path, kind):
            facts["grid"] = None if facts["grid"] is None else TokenGrid(**facts["grid"])
            for name in ("fixed_patterns", "fixed_results"):
                facts[name] = frozenset(facts.get(name, ()))
            return cls(tensors, model, **facts)

    def __repr__(self) -> str:
        clips = "1 clip" if self.batch_size in (None, 1) else f"{self.batch_size} clips"
        return f"ActivationCache({len(self)} tensors, {clips}, {self._tokens_text()}, {format_bytes(self.nbytes)})"

    def _repr_html_(self) -> str:
        """Return what is in the cache, as a notebook shows it: for each kind of point its shape, layers and size."""
        rows = [
            [what, " × ".join(map(str, shape)), dtype, str(count), format_bytes(size)]
            for what, shape, dtype, count, size in self._kinds()
        ]
        return report_html(repr(self), rows_table(["hook point", "shape", "dtype", "tensors", "size"], rows))

    def _kinds(self) -> list[tuple[str, tuple[int, ...], str, int, int]]:
        """What is held, by kind: name with ``{i}`` for the layer, shape, dtype, count and bytes."""
        kinds: dict[tuple[str, tuple[int, ...], str], list[int]] = {}
        for name, tensor in self.tensors.items():
            kind = ".".join("{i}" if part.isdecimal() else part for part in name.split("."))
            dtype = str(tensor.dtype).removeprefix("torch.")
            kinds.setdefault((kind, tuple(tensor.shape), dtype), []).append(tensor.numel() * tensor.element_size())
        return [(*key, len(sizes), sum(sizes)) for key, sizes in kinds.items()]

    def _tokens_text(self) -> str:
        if self.tokens is not None:
            return f"{len(self.tokens)} tokens"
        grid = self.grid
        return "tokens of an unknown grid" if grid is None else f"grid {grid.t}×{grid.h}×{grid.w}{' + CLS' * grid.cls}"

    def _changed(self, change: Callable[[str, Tensor], Tensor], **fields: Any) -> ActivationCache:
        kept = {name: getattr(self, name) for name in _FIELDS} | fields
        return ActivationCache(
            {name: change(name, tensor) for name, tensor in self.tensors.items()}, self.model, **kept
        )

    def _take(self, name: str, tensor: Tensor, tokens: list[int]) -> Tensor:
        axis = token_axis(name) - (not self.has_batch_dim)
        assert self.grid is not None, "at() has looked"
        if tensor.shape[axis] != self.grid.num_tokens:
            raise InputError(
                f"at() wants tensors over the {self.grid.num_tokens} tokens of the grid, {name} is over "
                f"{tensor.shape[axis]}: a layer of a factorised encoder has for each time a CLS and the tubelets, or a "
                "CLS and a token for each time. Index the tensor of one name"
            )
        return tensor.index_select(axis, torch.tensor(tokens, device=tensor.device))

    def _with_batch(self, name: str) -> Tensor:
        return self.tensors[name] if self.has_batch_dim else self.tensors[name].unsqueeze(0)

    def _attention_paths(self) -> list[str]:
        """The attention modules: those of joint attention, and all others whose z was kept."""
        kept = (name.removesuffix(".hook_z") for name in self.tensors if leaf_of(name) == "z")
        return list(dict.fromkeys((*self.scales, *kept)))

    def _derivable(self, path: str) -> list[str]:
        """What could be computed of an attention module from what was kept of it."""
        names = []
        joint = self.tokens is None and path in self.scales
        if joint and f"{path}.hook_q" in self.tensors and f"{path}.hook_k" in self.tensors:
            names += [f"{path}.hook_attn_scores", f"{path}.hook_pattern"]
        if self.model is not None and not self.single_token and f"{path}.hook_z" in self.tensors:
            names.append(f"{path}.hook_result")
        return names

    def _derive(self, name: str, path: str, rows: list[int] | None = None) -> Tensor:
        if leaf_of(name) == "result":
            made = self._results_of(path, self._with_batch(f"{path}.hook_z"))
            return made if self.has_batch_dim else made.squeeze(0)
        if path in self.fixed_patterns:
            raise InputError(
                f"{name} was changed by a hook or by dropout, so it is not the softmax of q and k: keep it in the "
                f"pass, names_filter=[{name!r}]"
            )
        query, key = (self._with_batch(f"{path}.hook_{what}").transpose(1, 2) for what in "qk")
        if rows is not None:
            query = query.index_select(2, torch.tensor(rows, device=query.device))
        count = query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2]
        size = query.element_size()
        wanted = count * (size + (4 + size if leaf_of(name) == "pattern" else size))
        require_bytes(wanted, query.device, f"{name} of {len(query)} clips", "ask for some rows: pattern_rows()")
        if leaf_of(name) == "pattern":
            made = attention_pattern(query, key, self.scales[path])
        else:
            made = torch.matmul(query, key.transpose(-1, -2)) * self.scales[path]
        return made if self.has_batch_dim else made.squeeze(0)


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
