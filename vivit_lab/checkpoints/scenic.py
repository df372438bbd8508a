"""Which parameter of a scenic ViViT goes where, and what its shapes tell about the configuration.

Paths are those of google-research/scenic's ViViT; this package's names are on the right of ``_OUTSIDE`` and ``_PARTS``.
Kernels are transposed on the way: a flax kernel is (in, out), a PyTorch weight (out, in).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vivit_lab.errors import ConfigError, KeyMismatchError

__all__ = ["ScenicTree", "convert_parameters", "read_fields"]

_BLOCK = re.compile(r"(Transformer|SpatialTransformer|TemporalTransformer)/encoderblock_(\d+)/(.+)")
_HEAD = re.compile(r"output_projection(?:_([^/]+))?/(kernel|bias)")

# a block's part → this package's; {axis} of the paths with one says which attention of the block
_PARTS = {
    "LayerNorm_0": "ln1",
    "LayerNorm_1": "ln2",
    "LayerNorm_mlp": "ln2",
    "MlpBlock_0/Dense_0": "mlp.fc1",
    "MlpBlock_0/Dense_1": "mlp.fc2",
    "MlpBlock/Dense_0": "mlp.fc1",
    "MlpBlock/Dense_1": "mlp.fc2",
    "MultiHeadDotProductAttention_0/query": "attn.q",
    "MultiHeadDotProductAttention_0/key": "attn.k",
    "MultiHeadDotProductAttention_0/value": "attn.v",
    "MultiHeadDotProductAttention_0/out": "attn.o",
}
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


@dataclass(frozen=True, eq=False)
class ScenicTree:
    """The parameters of a scenic ViViT, and what they tell.

    Args:
        leaves: path → array.
        fields: the fields of a ``VivitConfig`` that follow from the shapes and names.
    """

    leaves: Mapping[str, np.ndarray]
    fields: dict[str, Any]


def read_fields(leaves: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> ScenicTree:
    """Tell the configuration from names and shapes.

    Args:
        leaves: path → array.
        given: fields of the configuration that are known; they are needed where the tree does not tell them.

    Raises:
        ConfigError: the tree is no ViViT, or does not tell a field that was not given; the message names it.
    """
    if "embedding/kernel" not in leaves or leaves["embedding/kernel"].ndim != 5:
        raise ConfigError(
            "this tree has no embedding/kernel of (t, h, w, channels, d_model), so it is no scenic ViViT; it has "
            f"{', '.join(sorted(leaves)[:5]) or 'nothing'}, … (an archive of several trees: pass one of them)"
        )
    fields: dict[str, Any] = {"variant": _variant(leaves, given)}
    kernel = leaves["embedding/kernel"]
    fields |= {"tubelet_size": kernel.shape[:3], "num_channels": kernel.shape[3], "hidden_size": kernel.shape[4]}
    stages, first = _stages(leaves), _first_block(leaves)
    fields["num_hidden_layers"] = stages.get("Transformer") or stages["SpatialTransformer"]
    fields["num_attention_heads"] = _heads(leaves)
    fields["qkv_bias"] = "query/bias" in first
    fields["intermediate_size"] = first["Dense_0/kernel"].shape[1]
    if fields["variant"] == "factorized_encoder":
        fields["spatial_only_baseline"] = "TemporalTransformer" not in stages
        fields["num_temporal_layers"] = stages.get("TemporalTransformer", 4)
    if fields["variant"] == "factorized_self_attention_block" and "attention_order" not in given:
        raise ConfigError(
            "the parameters do not tell which axis a block attends along first: pass attention_order='time_space' or "
            "'space_time' (the config's model.attention_config.attention_order)"
        )
    fields["classifier"] = "token" if _has_cls(leaves) else "gap"
    sizes = _classes(leaves)
    fields["num_labels"] = sum(sizes.values())
    if set(sizes) - {""}:
        order = given.get("label_groups") or {}
        fields["label_groups"] = dict(order) if order == sizes else sizes
    return ScenicTree(leaves, fields | _sizes(leaves, fields, given))


def _classes(leaves: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Return name → classes of each classifier, in the order of the names; the only one has the name ""."""
    found = {(match[1] or "", match[2]): leaf for name, leaf in leaves.items() if (match := _HEAD.fullmatch(name))}
    names = sorted({name for name, _ in found})
    if lone := [name for name in names if not {(name, "kernel"), (name, "bias")} <= set(found)]:
        listed = ", ".join(_head_path(name) for name in lone)
        raise ConfigError(f"{listed} of this tree has no kernel or no bias; wanted both, or neither for no classifier")
    return {name: found[name, "bias"].shape[0] for name in names}


def _head_path(name: str) -> str:
    return f"output_projection_{name}" if name else "output_projection"


def _has_cls(leaves: Mapping[str, np.ndarray]) -> bool:
    return "cls" in leaves or "cls_SpatialTransformer" in leaves


def _variant(leaves: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> str:
    if any(name.startswith("SpatialTransformer/") for name in leaves):
        return "factorized_encoder"
    if any("LayerNorm_time" in name for name in leaves):
        return "factorized_self_attention_block"
    if "cls" in leaves:
        return "spacetime"
    if given.get("variant") not in ("spacetime", "factorized_dot_product_attention"):
        raise ConfigError(
            "without a CLS token the parameters of two variants look alike: pass variant="
            "'factorized_dot_product_attention' or variant='spacetime' (the config's model.attention_config.type)"
        )
    return given["variant"]


def _stages(leaves: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Return how many blocks each transformer of the tree has."""
    counts: dict[str, set[int]] = {}
    for name in leaves:
        match = _BLOCK.fullmatch(name)
        if match:
            counts.setdefault(match[1], set()).add(int(match[2]))
    if not counts:
        raise ConfigError("this tree has no Transformer/encoderblock_0, so it is no scenic ViViT")
    return {stage: len(indices) for stage, indices in counts.items()}


def _first_block(leaves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    found = {}
    for name, leaf in leaves.items():
        match = _BLOCK.fullmatch(name)
        if match and match[2] == "0" and match[1] != "TemporalTransformer":
            found["/".join(match[3].split("/")[-2:])] = leaf
    missing = [name for name in ("query/kernel", "Dense_0/kernel") if name not in found]
    if missing:
        raise ConfigError(f"encoderblock_0 of this tree has no {' and no '.join(missing)}, so it is no scenic ViViT")
    return found


def _heads(leaves: Mapping[str, np.ndarray]) -> int:
    """Return how many heads every attention has: another number would have weights of the same shape here."""
    counts = {name: leaf.shape[1] for name, leaf in leaves.items() if name.endswith("/query/kernel")}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{next(name for name in counts if counts[name] == n)}: {n}" for n in set(counts.values()))
        raise ConfigError(f"all layers of a ViViT here have as many heads, and those of this tree differ ({listed})")
    return next(iter(counts.values()))


def _positions(leaves: Mapping[str, np.ndarray], stage: str) -> int:
    """Return how many learned positions a transformer of the tree has, that of CLS included."""
    name = f"{stage}/posembed_input/pos_embedding"
    if name not in leaves:
        raise ConfigError(
            f"this tree has no {name}: wanted learned positions (positional_embedding='learned_1d'), those that are "
            "computed are not supported"
        )
    return leaves[name].shape[1]


def _sizes(leaves: Mapping[str, np.ndarray], fields: dict[str, Any], given: Mapping[str, Any]) -> dict[str, int]:
    """Return num_frames and image_size, from the positions and, where they do not suffice, what was given."""
    frames, rows, columns = fields["tubelet_size"]
    if rows != columns:
        raise ConfigError(f"tubelets of {rows}×{columns} pixels make no square grid, and image_size is one number")
    if fields["variant"] == "factorized_encoder":
        side = math.isqrt(_positions(leaves, "SpatialTransformer") - 1)
        if not fields["spatial_only_baseline"]:
            times = _positions(leaves, "TemporalTransformer") - 1
            return {"image_size": side * rows, "num_frames": times * frames}
        if "num_frames" not in given:
            raise ConfigError("a tree without temporal layers does not tell the number of frames: pass num_frames")
        return {"image_size": side * rows, "num_frames": given["num_frames"]}
    count = _positions(leaves, "Transformer") - int(_has_cls(leaves))
    choices = [(t, math.isqrt(count // t)) for t in range(1, count + 1) if _is_square(count, t)]
    fits = [
        (t * frames, side * rows)
        for t, side in choices
        if given.get("num_frames", t * frames) == t * frames and given.get("image_size", side * rows) == side * rows
    ]
    if len(fits) != 1:
        listed = ", ".join(f"{t * frames} frames of {side * rows}²" for t, side in choices[:8])
        raise ConfigError(
            f"{count} positions may be {listed}: pass num_frames or image_size"
            + ("" if fits else f" (got {given.get('num_frames')} frames, {given.get('image_size')} pixels)")
        )
    return dict(zip(("num_frames", "image_size"), fits[0], strict=True))


def _is_square(count: int, t: int) -> bool:
    return count % t == 0 and math.isqrt(count // t) ** 2 == count // t


def convert_parameters(tree: ScenicTree, attention_order: str) -> dict[str, Tensor]:
    """Return the parameters under this package's names, in float32.

    Args:
        tree: the parameters.
        attention_order: which axis a block of the third variant attends along first.

    Raises:
        KeyMismatchError: the tree has parameters that no ViViT has; all are listed.
    """
    layers = tree.fields["num_hidden_layers"]
    enter = "ln_final" if tree.fields.get("spatial_only_baseline") else f"blocks.{layers}.enter.ln"
    outside = {
        "embedding": "embed.projection",
        "cls": "embed.cls_token",
        "cls_SpatialTransformer": "embed.cls_token",
        "cls_TemporalTransformer": f"blocks.{layers}.enter.cls_token",
        "Transformer/posembed_input/pos_embedding": "embed.position",
        "SpatialTransformer/posembed_input/pos_embedding": "embed.position",
        "TemporalTransformer/posembed_input/pos_embedding": f"blocks.{layers}.enter.position",
        "Transformer/encoder_norm": "ln_final",
        "SpatialTransformer/encoder_norm": enter,
        "TemporalTransformer/encoder_norm": "ln_final",
    }
    tensors: dict[str, Tensor] = {}
    unknown = []
    for path, leaf in tree.leaves.items():
        if _HEAD.fullmatch(path):
            continue
        own = _own_name(path, outside, layers, attention_order)
        if own is None:
            unknown.append(path)
        else:
            tensors[own] = _tensor(leaf, own)
    if unknown:
        raise KeyMismatchError(
            f"the tree has {len(unknown)} parameters that a {tree.fields['variant']} ViViT does not have: "
            f"{', '.join(sorted(unknown))}"
        )
    return tensors | _classifier(tree)


def _own_name(path: str, outside: Mapping[str, str], layers: int, order: str) -> str | None:
    if path in outside:
        return outside[path]
    module, _, leaf = path.rpartition("/")
    if leaf not in _LEAVES:
        return None
    if module in outside:
        return f"{outside[module]}.{_LEAVES[leaf]}"
    match = _BLOCK.fullmatch(module)
    if match is None:
        return None
    layer, part = int(match[2]), match[3]
    if match[1] == "TemporalTransformer":
        layer += layers
    axis = re.search(r"(?<=LayerNorm_)(time|space)$|(?<=Attention_)(time|space)(?=/)", part)
    if axis or part == "LayerNorm_mlp" or part.startswith("MlpBlock/"):  # a block of two attentions is two blocks here
        layer = 2 * layer + (1 if axis is None else order.split("_").index(axis[0]))
    if axis:
        part = part[: axis.start()] + "0" + part[axis.end() :]
    return f"blocks.{layer}.{_PARTS[part]}.{_LEAVES[leaf]}" if part in _PARTS else None


def _tensor(leaf: np.ndarray, own: str) -> Tensor:
    """Return a parameter in PyTorch's order of axes."""
    value = torch.from_numpy(np.array(leaf, dtype=np.float32))
    if own == "embed.projection.weight":
        return value.permute(4, 3, 0, 1, 2).contiguous()
    if re.search(r"attn\.[qkv]\.weight", own):
        return value.flatten(1).T.contiguous()
    if own.endswith("attn.o.weight"):
        return value.flatten(0, 1).T.contiguous()
    if re.search(r"attn\.[qkv]\.bias", own):
        return value.flatten()
    return value.T.contiguous() if re.search(r"fc[12]\.weight", own) else value


def _classifier(tree: ScenicTree) -> dict[str, Tensor]:
    """Return the classifier; several of them are put side by side, in the order of ``label_groups``."""
    names: Iterable[str] = tree.fields.get("label_groups") or ("",)
    if not tree.fields["num_labels"]:
        return {}
    paths = [_head_path(name) for name in names]
    weights = [_tensor(tree.leaves[f"{path}/kernel"], "").T for path in paths]
    biases = [_tensor(tree.leaves[f"{path}/bias"], "") for path in paths]
    return {"classifier.weight": torch.cat(weights).contiguous(), "classifier.bias": torch.cat(biases)}
