"""Readouts of a cache: the residual stream as a sum of parts, and what each part adds to a class's logit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vivit_lab.errors import InputError
from vivit_lab.memory import require_bytes
from vivit_lab.model.hook_names import NameLike, layer_of, leaf_of, token_index

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vivit_lab.model.logit_lens import LogitLens

__all__ = ["CacheReadouts"]

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
        from vivit_lab.model.logit_lens import lens_of_cache

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
