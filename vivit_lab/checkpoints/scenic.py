"""The published JAX checkpoints of ViViT: how their files are read, and which parameter goes where."""

from __future__ import annotations

import math
import os
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vivit_lab.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    ConfigError,
    InputError,
    KeyMismatchError,
    MissingExtraError,
)
from vivit_lab.files import read_npz

__all__ = [
    "ScenicTree",
    "convert_parameters",
    "flatten_tree",
    "read_fields",
    "read_msgpack",
    "read_parameters",
]

_CHUNKED = "__msgpack_chunked_array__"
# where a train state keeps the parameters, in the layouts of flax's history; the innermost first
_PLACES = (
    ("optimizer", "target", "params"),
    ("optimizer", "target"),
    ("target", "params"),
    ("target",),
    ("params", "params"),
    ("params",),
    ("state", "params"),
)


def read_parameters(source: Mapping[str, Any] | str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return the parameters of a checkpoint by path, such as ``"Transformer/encoder_norm/scale"``.

    Args:
        source: a file that flax wrote (msgpack), an ``.npz`` whose names are paths with ``/`` or ``|``, a directory
            that holds one such file named ``checkpoint`` or ``checkpoint_STEP``, or a tree of arrays, nested or flat.
            In a whole train state the parameters are found; the optimizer's moments are left aside.

    Raises:
        CheckpointNotFoundError: there is no such file.
        CheckpointError: the file is damaged, or holds no tree of arrays.
        MissingExtraError: a msgpack file, but msgpack is not installed.
        InputError: the tree has leaves that are no arrays.
    """
    if isinstance(source, Mapping):
        return _parameters(flatten_tree(source), "the tree")
    path = _file_of(Path(source).expanduser())
    if path.suffix == ".npz" or zipfile.is_zipfile(path):
        try:
            arrays = read_npz(path)
        except InputError as error:
            raise CheckpointError(str(error)) from error
        return _parameters(flatten_tree(arrays), os.fspath(path))
    tree = read_msgpack(path.read_bytes(), os.fspath(path))
    if not isinstance(tree, Mapping):
        raise CheckpointError(f"{path} holds a {type(tree).__name__}; wanted a tree of parameters")
    return _parameters(flatten_tree(tree), os.fspath(path))


def _file_of(path: Path) -> Path:
    if path.is_dir():
        found = sorted(path.glob("checkpoint*"), key=lambda file: (len(file.name), file.name))
        if not found:
            raise CheckpointNotFoundError(f"{path} has no file named checkpoint or checkpoint_STEP")
        path = found[-1]  # the last step
    if not path.is_file():
        raise CheckpointNotFoundError(f"there is no JAX checkpoint {path.absolute()}")
    return path


def read_msgpack(contents: bytes, origin: str) -> Any:
    """Return the tree that flax's ``msgpack_serialize`` wrote.

    Args:
        contents: of the file.
        origin: where they come from, for messages.

    Raises:
        CheckpointError: they are damaged, or of another format.
        MissingExtraError: msgpack, or ml_dtypes for bfloat16, is not installed.
    """
    try:
        import msgpack
    except ImportError as error:
        raise MissingExtraError("reading a flax checkpoint needs msgpack: pip install 'vivit-lab[scenic]'") from error
    try:
        tree = msgpack.unpackb(contents, ext_hook=_extension, raw=False, strict_map_key=False)
        return _join_chunks(tree)
    except MissingExtraError:
        raise
    except Exception as error:  # msgpack raises many kinds, and the contents may be anything
        raise CheckpointError(
            f"{origin} is not a whole msgpack file of flax ({type(error).__name__}: {error}); fetch it again"
        ) from error


def _extension(kind: int, contents: bytes) -> Any:
    import msgpack

    if kind not in (1, 2, 3):
        raise CheckpointError(f"extension type {kind} is none of flax's (1 array, 2 complex, 3 scalar)")
    if kind == 2:
        return complex(*msgpack.unpackb(contents))
    shape, dtype, data = msgpack.unpackb(contents, raw=True)
    array = np.frombuffer(data, dtype=_dtype(dtype.decode() if isinstance(dtype, bytes) else dtype)).reshape(shape)
    return array[()] if kind == 3 else array


def _dtype(name: str) -> np.dtype:
    if name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        try:
            import ml_dtypes
        except ImportError as error:
            raise MissingExtraError(f"{name} needs ml_dtypes: pip install 'vivit-lab[scenic]'") from error
        return np.dtype(getattr(ml_dtypes, name))
    return np.dtype(name)


def _join_chunks(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    if tree.get(_CHUNKED):
        parts, shape = (_in_order(tree[name]) for name in ("chunks", "shape"))
        return np.concatenate(parts).reshape(shape)
    return {name: _join_chunks(branch) for name, branch in tree.items()}


def _in_order(parts: Any) -> list[Any]:
    """Return a list that flax wrote as a map of its indices."""
    return [parts[str(index)] for index in range(len(parts))] if isinstance(parts, dict) else list(parts)


def flatten_tree(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return path → leaf of a nested tree; names that are paths themselves, with ``/`` or ``|``, are taken as such."""
    leaves: dict[str, Any] = {}
    for name, branch in tree.items():
        path = str(name).replace("|", "/").strip("/")
        if isinstance(branch, Mapping):
            leaves |= {f"{path}/{inner}": leaf for inner, leaf in flatten_tree(branch).items()}
        else:
            leaves[path] = branch
    return leaves


def _parameters(leaves: dict[str, Any], origin: str) -> dict[str, np.ndarray]:
    for place in _PLACES:
        prefix = "/".join(place) + "/"
        inside = {path.removeprefix(prefix): leaf for path, leaf in leaves.items() if path.startswith(prefix)}
        if inside:
            leaves = inside
            break
    if not leaves:
        raise CheckpointError(f"{origin} holds no parameters")
    arrays = {}
    for path, leaf in leaves.items():
        array = leaf if isinstance(leaf, np.ndarray) else np.asarray(leaf)
        if array.dtype.kind not in "fV" and array.dtype.name not in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
            raise InputError(f"{path} of {origin} is no array of real numbers, but {array.dtype} {type(leaf).__name__}")
        arrays[path] = array
    return arrays


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
