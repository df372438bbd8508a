"""Logits as sums of parts of the residual stream, and what the classifier would say at each layer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vivit_lab.errors import InputError, MissingExtraError
from vivit_lab.families.vivit import TemporalBlock, VivitForVideoClassification, expand_head_mask
from vivit_lab.grid import TokenGrid
from vivit_lab.html import facts_table, report_html, rows_table, text_line, tiles
from vivit_lab.model.attention import Attention, take_heads
from vivit_lab.model.cache import ActivationCache, LogitLens, readout_weights
from vivit_lab.model.config import layer_layouts
from vivit_lab.model.hooks import layer_of, leaf_of
from vivit_lab.numbers import checked_numbers
from vivit_lab.records.attention import AttentionRecord, evaluating, full_precision, record_provenance
from vivit_lab.records.inputs import as_pixel_values
from vivit_lab.records.targets import all_names, named_classes
from vivit_lab.video.clip import Clip

__all__ = ["LogitAttribution", "direct_logit_attribution", "logit_lens"]

_HEAD = re.compile(r"L(\d+)H(\d+)")
_MOST_ROWS = 12


@dataclass(frozen=True, eq=False)
class LogitAttribution:
    """A class's logit as a sum of shares: Σ values + bias + remainder = total, clip by clip.

    Args:
        values: (batch, component) float32, in logits.
        labels: for each component: ``"embed"``, ``"pos_embed"``, ``"3_attn_out"``, ``"L3H2"``, ``"3_mlp_out"``.
        bias: (batch,) what no component wrote: the biases of classifier and final LayerNorm, and, where attention is
            split into heads, of its output projections.
        total: (batch,) the model's own logit; less the mean logit where ``centred``, less the other class's where two
            are compared.
        by: ``"layer"``, ``"head"`` or ``"token"``.
        centred: whether the mean over the classes was taken off.
        targets: for each clip, which class.
        by_token: (batch, head, token) float32 shares of the heads by source token, in the order of ``head_labels``;
            None unless ``by`` is ``"token"``.
        grid: the token grid.
        model_id: which model.
        provenance: versions, dtype, device and attention implementation.
    """

    values: Tensor
    labels: list[str]
    bias: Tensor
    total: Tensor
    by: str
    centred: bool
    targets: list[str]
    by_token: Tensor | None = None
    grid: TokenGrid | None = None
    model_id: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def remainder(self) -> Tensor:
        """(batch,) what is left of the total: rounding, unless hooks or dropout were at work."""
        return self.total - self.values.sum(dim=1) - self.bias

    @property
    def head_labels(self) -> list[str]:
        """The components that are heads."""
        return [label for label in self.labels if _HEAD.fullmatch(label)]

    @property
    def heads(self) -> Tensor:
        """(batch, layer, head) shares of the heads; NaN for pruned ones and a factorised encoder's spatial ones.

        Raises:
            InputError: attention was not split into heads.
        """
        places = [(column, _HEAD.fullmatch(label)) for column, label in enumerate(self.labels)]
        found = [(column, int(match[1]), int(match[2])) for column, match in places if match]
        if not found:
            raise InputError("attention was not split into heads: direct_logit_attribution(..., by='head')")
        layers, heads = (1 + max(place[axis] for place in found) for axis in (1, 2))
        table = self.values.new_full((len(self.values), layers, heads), torch.nan)
        for column, layer, head in found:
            table[:, layer, head] = self.values[:, column]
        return table

    def share(self, label: str) -> Tensor:
        """Return one component's share, (batch,).

        Raises:
            InputError: there is no such component.
        """
        if label not in self.labels:
            raise InputError(f"there is no component {label!r}; there are {', '.join(self.labels[:6])} …")
        return self.values[:, self.labels.index(label)]

    def tubelets(self, head: str | None = None) -> Tensor:
        """Return what came through attention from each tubelet, (batch, t, h, w), in logits.

        Args:
            head: one head, such as ``"L3H2"``; None sums all heads of all layers.

        Raises:
            InputError: the shares were not split by source token, or there is no such head.
        """
        if self.by_token is None or self.grid is None:
            raise InputError("shares were not split by source token: direct_logit_attribution(..., by='token')")
        if head is None:
            return self.grid.unflatten(self.by_token.sum(dim=1))
        if head not in self.head_labels:
            raise InputError(f"there is no head {head!r}; there are {', '.join(self.head_labels[:6])} …")
        return self.grid.unflatten(self.by_token[:, self.head_labels.index(head)])

    def to_pandas(self) -> Any:
        """Return a table with columns clip, target, component, share; ``bias`` and ``remainder`` are components too.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise MissingExtraError("tables need pandas: pip install 'vivit-lab[lab]'") from error
        columns = torch.cat((self.values, self.bias[:, None], self.remainder[:, None]), dim=1).tolist()
        rows = [
            (clip, self.targets[clip], label, share)
            for clip, shares in enumerate(columns)
            for label, share in zip([*self.labels, "bias", "remainder"], shares, strict=True)
        ]
        return pd.DataFrame(rows, columns=["clip", "target", "component", "share"])

    def __repr__(self) -> str:
        return (
            f"LogitAttribution(by {self.by}, {len(self.values)} clips, {len(self.labels)} components, "
            f"{all_names(self.targets)})"
        )

    def _repr_html_(self) -> str:
        """Return the first clip's shares: a picture of the heads or source tokens, and the strongest components."""
        clip = self.values[0]
        total, bias = float(self.total[0]), float(self.bias[0])
        facts = {
            "direct logit attribution": f"by {self.by}{', centred over classes' if self.centred else ''}",
            "target": self.targets[0],
            "model": self.model_id,
            "clip": f"0 of {len(self.values)}" if len(self.values) > 1 else None,
            "logit": f"{total:.4g} = components {float(clip.sum()):.4g} + biases {bias:.4g}",
        }
        order = clip.abs().argsort(descending=True)[:_MOST_ROWS].tolist()
        rows = [[self.labels[index], f"{float(clip[index]):+.4g}"] for index in order]
        return report_html(facts_table(facts), *self._pictures(), rows_table(["component", "share of the logit"], rows))

    def _pictures(self) -> list[str]:
        if self.by_token is not None and self.grid is not None:
            spans = [self.grid.frame_span(t) for t in range(self.grid.t)]
            names = [f"frames {start}–{stop - 1}" for start, stop in spans]
            return [
                text_line("by source tubelet, all heads"),
                tiles(self.tubelets()[0].cpu().numpy(), names, signed=True),
            ]
        if self.head_labels:
            table = self.heads[:1].nan_to_num().cpu().numpy()
            return [tiles(table, ["down: layers, across: heads"], signed=True)]
        return []


_WRITTEN = {"layer": ("attn_out", "mlp_out"), "head": ("z", "mlp_out"), "token": ("z", "mlp_out")}


def direct_logit_attribution(
    model: VivitForVideoClassification,
    pixel_values: Tensor | Clip | Sequence[Clip],
    target: int | Sequence[int] | Tensor | None = None,
    *,
    by: str = "head",
    against: int | Sequence[int] | Tensor | None = None,
    centred: bool = True,
    head_mask: Tensor | None = None,
    interpolate_pos_encoding: bool | None = None,
) -> LogitAttribution:
    """Split a class's logit into what each part of the model wrote into the residual stream.

    Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; for image models Gandelsman et al. 2024
    (https://arxiv.org/abs/2310.05916). With r_t the weight of token t in what the classifier reads (1 for CLS, or
    1/tokens), s_t the frozen scale of the final LayerNorm, γ its weight and w the direction of the class, a part that
    wrote c_t adds Σ_t r_t/s_t · (c_t - mean(c_t)) · (γ·w). A head's share is split over source tokens by its pattern:
    c_t = Σ_s A_ts W_o v_s.

    Args:
        model: a ViViT with a linear classifier. Of a factorised encoder, the temporal layers' stream is split, which
            begins with ``"3_resid_pre"`` (3 spatial layers): the CLS token and its position. The spatial layers reach
            the classifier through temporal heads alone, in whose shares theirs are.
        pixel_values: (batch, frames, channels, height, width), or prepared clips.
        target: the class, one for each clip, or None for each clip's predicted class.
        by: ``"layer"`` (embeddings, attention and MLP of each layer), ``"head"`` (attention head by head) or
            ``"token"`` (each head's share by source token).
        against: a class whose logit is subtracted, or one for each clip.
        centred: take the mean over all classes off the direction, so that what raises all logits alike counts nothing;
            the total is then the logit less the mean logit.
        head_mask: as for the model's forward.
        interpolate_pos_encoding: whether clips of another size are taken; None is yes, and says so once.

    Returns:
        The shares, whose sum with ``bias`` is ``total``. Cost: one forward pass in evaluation mode; ``"token"`` of a
        model that reads the mean of its tokens computes all patterns once more, in blocks.

    Raises:
        InputError: the clips or classes do not fit, the model has no linear classifier, ``by`` is not known, or it is
            ``"token"`` where heads do not read the whole grid, or where hooks change what they wrote.

    Example:
        >>> shares = direct_logit_attribution(model, clip, by="head")
        >>> shares.heads.shape  # clip, layer, head
        torch.Size([1, 12, 12])
    """
    if by not in _WRITTEN:
        raise InputError(f"by={by!r} is not known; choose one of {', '.join(_WRITTEN)}")
    if by == "token" and model.config.variant == "factorized_encoder":
        raise InputError("by='token' wants heads that read the whole grid, which a factorised encoder's do not")
    given = as_pixel_values(pixel_values).values.to(model.device)
    grid = model.grid_of(given, interpolate_pos_encoding)
    forward = {"head_mask": head_mask, "interpolate_pos_encoding": interpolate_pos_encoding}
    with evaluating(model), torch.no_grad(), full_precision(model.device):
        weights = readout_weights(model, layer_layouts(model.config, grid)[-1].tokens, grid)
        read = weights.nonzero().flatten().tolist()  # the tokens that the classifier reads: CLS alone, or all
        kept = {"pos_slice": read} if by != "token" else {}
        points = _stream_points(model, by)
        names = [*points, *_head_points(model, points, by), "ln_final.hook_scale"]
        output, cache = model.run_with_cache(given, names_filter=names, **kept, **forward)
        aim = _aim(model, output.logits, target, against, centred=centred)
        pulled = _pulled_back(model, cache, aim.direction, weights, read, cut=by != "token")
        mask = expand_head_mask(head_mask, len(model.blocks), len(given), model.config.num_attention_heads, like=pulled)
        parts = _Parts(model, cache, points, pulled, read, mask)
        labels, values, constant, by_token = parts.split(by)
        norm_bias = (aim.direction * model.ln_final.bias.float()).sum(dim=-1)
    return LogitAttribution(
        values=values,
        labels=labels,
        bias=aim.bias + norm_bias + constant,
        total=aim.total,
        by=by,
        centred=centred and against is None,
        targets=aim.names,
        by_token=by_token,
        grid=grid,
        model_id=cache.model_id,
        provenance=record_provenance(model, model.dtype),
    )


def _stream_points(model: Any, by: str) -> list[str]:
    """The points of the residual stream that the classifier reads: where it begins, and what layers write into it."""
    first = next((layer for layer, block in enumerate(model.blocks) if isinstance(block, TemporalBlock)), None)
    begin = ("hook_embed", "hook_pos_embed") if first is None else (f"blocks.{first}.hook_resid_pre",)
    written = [name for name in model.hook_names if leaf_of(name) in _WRITTEN[by]]
    return [*begin, *(name for name in written if (layer_of(name) or 0) >= (first or 0))]


def _head_points(model: Any, points: list[str], by: str) -> list[str]:
    """The points that heads are split with: q, k and v by source token; results where hooks may change them."""
    paths = [name.rpartition(".")[0] for name in points if leaf_of(name) == "z"]
    if by == "token":
        return [f"{path}.hook_{what}" for path in paths for what in "qkv"]
    return [f"{path}.hook_result" for path in paths if model.get_submodule(path).hook_result.edited]


class _Aim(NamedTuple):
    """The class's direction (batch, d_model), its bias and logit (batch,), all float32, and its name for each clip."""

    direction: Tensor
    bias: Tensor
    total: Tensor
    names: list[str]


def _aim(model: Any, logits: Tensor, target: Any, against: Any, *, centred: bool) -> _Aim:
    if not isinstance(getattr(model, "classifier", None), torch.nn.Linear):
        raise InputError("the model has no linear classifier, so there is no logit to split")
    # one row for each class: its direction, bias and the clips' logits
    weight, bias, logits = model.classifier.weight.float(), model.classifier.bias.float(), logits.float()
    classes, names = named_classes(target, logits, model.config)
    aim = _Aim(weight[classes], bias[classes], logits.gather(1, classes[:, None])[:, 0], names)
    if against is not None:
        others, rivals = named_classes(against, logits, model.config)
        if bool((classes == others).any()):
            raise InputError(f"the classes compared are the same: {all_names(names)} and {all_names(rivals)}")
        rest = _Aim(weight[others], bias[others], logits.gather(1, others[:, None])[:, 0], rivals)
        names = [f"{name}, against {rival}" for name, rival in zip(names, rivals, strict=True)]
    elif centred:
        rest = _Aim(weight.mean(dim=0), bias.mean(), logits.mean(dim=1), names)
    else:
        return aim
    return _Aim(aim.direction - rest.direction, aim.bias - rest.bias, aim.total - rest.total, names)


def _pulled_back(
    model: Any, cache: ActivationCache, direction: Tensor, weights: Tensor, read: list[int], *, cut: bool
) -> Tensor:
    """The direction as it stands before the final LayerNorm: (batch, token read, d_model) float32.

    Its product with what a part wrote, summed over tokens, is that part's share.
    """
    index = torch.tensor(read, device=direction.device)
    scale = cache["ln_final.hook_scale"].float()
    scale = scale if cut else scale.index_select(1, index)
    weighted = direction * model.ln_final.weight.float()
    weighted = weighted - weighted.mean(dim=-1, keepdim=True)  # the centring of the LayerNorm, moved over
    return weighted[:, None] * weights.index_select(0, index)[:, None] / scale


@dataclass(frozen=True)
class _Parts:
    """Computes the shares of one pass.

    Args:
        model: the model.
        cache: what it wrote; at the tokens read alone, unless shares are split by source token.
        points: see ``_stream_points``.
        pulled: (batch, token read, d_model), see ``_pulled_back``.
        read: the tokens that the classifier reads.
        mask: (layers, batch or 1, heads, 1, 1) or None.
    """

    model: Any
    cache: ActivationCache
    points: list[str]
    pulled: Tensor
    read: list[int]
    mask: Tensor | None

    def split(self, by: str) -> tuple[list[str], Tensor, Tensor, Tensor | None]:
        """Return labels, shares (batch, component), the output biases' share (batch,) and shares by source token."""
        labels, values, sources = [], [], []
        constant = self.pulled.new_zeros(len(self.pulled))
        for name in self.points:
            what, layer = leaf_of(name), layer_of(name)
            if what != "z" or layer is None:
                labels.append(what if layer is None else f"{layer}_{what}")
                values.append(self._written(name)[:, None])
            else:
                attention = self.model.get_submodule(name.rpartition(".")[0])
                constant = constant + (self.pulled * attention.o.bias.float()).sum(dim=(1, 2))
                shares = self._heads(name, attention) if by == "head" else self._sources(name, attention, layer)
                sources.append(shares)
                values.append(shares if by == "head" else shares.sum(dim=-1))
                born = range(attention.num_heads) if attention.kept_heads is None else attention.kept_heads
                labels += [f"L{layer}H{head}" for head in born]
        by_token = torch.cat(sources, dim=1) if by == "token" else None
        return labels, torch.cat(values, dim=1), constant, by_token

    def _written(self, name: str) -> Tensor:
        """The share (batch,) of what a point added to the stream."""
        return (self._at_read(self.cache[name]) * self.pulled).sum(dim=(1, 2))

    def _at_read(self, tensor: Tensor) -> Tensor:
        if self.cache.tokens is None:
            tensor = tensor.index_select(1, torch.tensor(self.read, device=tensor.device))
        return tensor.float()

    def _into_heads(self, attention: Attention) -> Tensor:
        """The direction as each head's context meets it: (batch, head, token read, d_head)."""
        weight = attention.o.weight.float().unflatten(1, (attention.num_heads, -1))  # d_model, head, d_head
        return torch.einsum("btm,mhd->bhtd", self.pulled, weight)

    def _heads(self, name: str, attention: Attention) -> Tensor:
        path = name.rpartition(".")[0]
        if path in self.cache.fixed_results:  # a hook had the last word on what each head wrote
            return torch.einsum("bthm,btm->bh", self._at_read(self.cache[f"{path}.hook_result"]), self.pulled)
        context = self._at_read(self.cache[name]).transpose(1, 2)
        return (context * self._into_heads(attention)).sum(dim=(2, 3))

    def _sources(self, name: str, attention: Attention, layer: int) -> Tensor:
        """The shares (batch, head, source token) of one layer: only rows that are read, in blocks."""
        path = name.rpartition(".")[0]
        edited = path in self.cache.fixed_patterns | self.cache.fixed_results or attention.hook_z.edited
        if path not in self.cache.scales or edited:
            raise InputError(
                f"by='token' wants plain attention of all tokens to all, as the softmax of q and k; {path} is another "
                "kind, or a hook changes its pattern, z or result: use by='head'"
            )
        query, key, value = (self.cache[f"{path}.hook_{what}"].transpose(1, 2) for what in "qkv")
        aim = self._into_heads(attention)
        if self.mask is not None:
            aim = aim * take_heads(self.mask[layer], attention.kept_heads).float()
        if not attention.num_heads:
            return value.new_zeros(value.shape[:3], dtype=torch.float32)
        grid = self.cache.grid
        assert grid is not None, "the cache is of pixel values"
        record = AttentionRecord(grid, {layer: query}, {layer: key}, attention.scale, layer + 1)
        if len(self.read) == 1:
            carried = torch.matmul(record.rows(layer, self.read).transpose(-1, -2), aim)
        else:
            carried = torch.stack([_carried(record, layer, clip, each) for clip, each in enumerate(aim)])
        return (carried * value.float()).sum(dim=-1)


def _carried(record: AttentionRecord, layer: int, clip: int, aim: Tensor) -> Tensor:
    """patternᵀ · aim of one clip, (head, source, d_head), in blocks of rows."""
    total = torch.zeros_like(aim)
    for rows, block in record.pattern_blocks(layer, clip):
        total += torch.bmm(block.transpose(1, 2), aim[:, rows])
    return total


@checked_numbers()
def logit_lens(
    model: VivitForVideoClassification,
    pixel_values: Tensor | Clip | Sequence[Clip],
    *,
    classes: Sequence[int] | None = None,
    incl_mid: bool = False,
    head_mask: Tensor | None = None,
    interpolate_pos_encoding: bool | None = None,
) -> LogitLens:
    """Return the class logits that each token's residual stream gives at each layer.

    One forward pass in evaluation mode, without gradients; see ``LogitLens``.

    Args:
        model: a ViViT with a classifier.
        pixel_values: (batch, frames, channels, height, width), or prepared clips.
        classes: which classes; None for all.
        incl_mid: also between attention and MLP.
        head_mask: as for the model's forward.
        interpolate_pos_encoding: whether clips of another size are taken; None is yes, and says so once.

    Returns:
        The lens. Memory: the residual streams (9.6 MB a layer and clip of a ViT-B), and layers · tokens · classes
        logits (65 MB a clip for 400 classes).

    Raises:
        InputError: the clips do not fit the model, it has no classifier, or not those classes.
        OutOfMemoryBudgetError: the logits do not fit into the memory that is free.

    Example:
        >>> lens = logit_lens(model, clip)
        >>> lens.strip(3).shape  # of class 3: layer, clip, time
        torch.Size([13, 1, 16])
    """
    pixels = as_pixel_values(pixel_values).values.to(model.device)
    wanted = ("resid_pre", "resid_mid", "resid_post") if incl_mid else ("resid_pre", "resid_post")
    forward = {"head_mask": head_mask, "interpolate_pos_encoding": interpolate_pos_encoding}
    with evaluating(model), torch.no_grad():
        _, cache = model.run_with_cache(pixels, names_filter=lambda name: leaf_of(name) in wanted, **forward)
        return cache.logit_lens(classes, incl_mid=incl_mid)
