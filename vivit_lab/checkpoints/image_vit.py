"""Read an image ViT or a DINOv2 in a ViViT's names, ready to become one.

Both are the transformer that a ViViT's blocks are, under other names. DINOv2 also scales the output of each residual
branch by a vector (LayerScale); a product with a vector behind a linear layer is another linear layer, so it is folded
into the attention's output projection and the MLP's second layer, weights and biases, and nothing is lost.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vivit_lab.checkpoints.files import TensorSource, open_checkpoint, open_files, read_json
from vivit_lab.checkpoints.hub import is_local, pin_revision, resolve_file
from vivit_lab.checkpoints.huggingface import both_names, own_name
from vivit_lab.errors import CheckpointError, CheckpointNotFoundError, ConfigError, KeyMismatchError

__all__ = ["ImageVit", "inflate", "read_image_vit"]

# DINOv2's names of a layer's parts, in transformers' ViT's
_DINOV2_PARTS = {"norm1": "layernorm_before", "norm2": "layernorm_after"}
_SCALE = re.compile(r"encoder\.layers?\.(\d+)\.layer_scale([12])\.lambda1")
_SCALED = {"1": "attn.o", "2": "mlp.fc2"}  # the linear layer that each LayerScale follows

# Parts of an image model that have no place in a ViViT: heads, and what only pretraining uses.
_LEFT_OUT = re.compile(r"(pooler|classifier|head|decoder)\..*|embeddings\.mask_token")
_EPS = {"vit": 1e-12, "dinov2": 1e-6}


@dataclass(frozen=True, eq=False)
class ImageVit:
    """An image transformer's weights and sizes.

    Args:
        tensors: own name → float32 tensor; ``embed.projection.weight`` is still (d_model, channels, rows, columns) and
            ``embed.position`` (1, 1 + h·w, d_model).
        grid: (h, w) patches that the positions belong to.
        config: the fields of a ``VivitConfig`` that follow from the image model.
        num_attention_heads: heads in a layer; None where neither weights nor configuration tell.
    """

    tensors: dict[str, Tensor]
    grid: tuple[int, int]
    config: dict[str, Any]
    num_attention_heads: int | None


def read_image_vit(source: Mapping[str, Tensor] | str | os.PathLike[str], **where: Any) -> ImageVit:
    """Read a ViT (``ViTModel``, ``ViTForImageClassification``) or a DINOv2 (``Dinov2Model``) of transformers.

    Names of transformers 4 and 5 are known, with or without the prefix ``vit.`` or ``dinov2.``. Left out are poolers,
    classifiers, decoders and the mask token, which a ViViT has no place for.

    Args:
        source: a state dict, a directory or Hub id with a ``config.json``, or a file of weights alone.
        **where: ``revision``, ``cache_dir``, ``local_files_only`` and ``token`` of a Hub id.

    Raises:
        CheckpointNotFoundError: there is no such checkpoint.
        KeyMismatchError: it has tensors that neither model has, or lacks some; all are listed.
        ConfigError: it is another kind of model: SwiGLU layers, register tokens, no CLS token.
    """
    if isinstance(source, Mapping):
        return _convert(TensorSource.from_tensors(source), {})
    if Path(source).suffix == ".safetensors" or Path(source).suffix == ".bin":
        if not Path(source).is_file():
            raise CheckpointNotFoundError(f"there is no file of weights {Path(source).absolute()}")
        with open_files([Path(source)]) as tensors:
            return _convert(tensors, {})
    where = pin_revision(source, **where)
    path = resolve_file(source, "config.json", **where, required=not is_local(source))
    with open_checkpoint(source, **where) as tensors:
        return _convert(tensors, {} if path is None else read_json(path))


def _convert(source: TensorSource, config: dict[str, Any]) -> ImageVit:
    stripped = {re.sub(r"^(vit|dinov2)\.", "", name): name for name in source}
    _refuse_other_models(stripped, config)
    names, scales, unknown = {}, {}, []
    for name, stored in stripped.items():
        scale = _SCALE.fullmatch(name)
        own = _own(name)
        if scale:
            scales[f"blocks.{scale[1]}.{_SCALED[scale[2]]}"] = stored
        elif own is not None and not _LEFT_OUT.fullmatch(own):
            names[own] = stored
        elif not _LEFT_OUT.fullmatch(name):
            unknown.append(stored)
    _check_complete(names, unknown)
    tensors = {own: source[stored].read().float() for own, stored in names.items()}
    for layer, stored in scales.items():
        scale = source[stored].read().float()
        tensors[f"{layer}.weight"] = tensors[f"{layer}.weight"] * scale[:, None]
        tensors[f"{layer}.bias"] = tensors[f"{layer}.bias"] * scale
    family = "dinov2" if any(".norm1." in name for name in stripped) else "vit"
    return ImageVit(
        tensors, _grid(tensors, config), _fields(tensors, config, family), config.get("num_attention_heads")
    )


def _own(name: str) -> str | None:
    for theirs, ours in _DINOV2_PARTS.items():
        name = name.replace(f".{theirs}.", f".{ours}.")
    return own_name(name)


def _refuse_other_models(names: Mapping[str, str], config: dict[str, Any]) -> None:
    gated = (".mlp.weights_in.", ".mlp.gate_proj.")  # as transformers 4 and 5 name them
    if any(part in name for name in names for part in gated) or config.get("use_swiglu_ffn"):
        raise ConfigError(
            "this image model has SwiGLU layers (as DINOv2-giant has), and a ViViT's MLP has two "
            "linear layers: use a small, base or large model"
        )
    if any("register_tokens" in name for name in names):
        raise ConfigError(
            "this image model has register tokens, and a ViViT has no place for them: use the variant without registers"
        )
    if "embeddings.cls_token" not in names:
        raise ConfigError(
            "this checkpoint has no embeddings.cls_token, so it is no ViT or DINOv2 of transformers (ViTModel, "
            f"ViTForImageClassification, Dinov2Model); it has {', '.join(list(names)[:5]) or 'nothing'}, …"
        )


def _check_complete(names: Mapping[str, str], unknown: list[str]) -> None:
    layers = {int(name.split(".")[1]) for name in names if name.startswith("blocks.")}
    parts = ("ln1", "attn.q", "attn.k", "attn.v", "attn.o", "ln2", "mlp.fc1", "mlp.fc2")
    wanted = {"embed.cls_token", "embed.position", "embed.projection.weight", "embed.projection.bias"}
    wanted |= {"ln_final.weight", "ln_final.bias"}
    wanted |= {f"blocks.{i}.{part}.{kind}" for i in range(len(layers)) for part in parts for kind in ("weight", "bias")}
    if "blocks.0.attn.q.bias" not in names:  # qkv_bias=False
        wanted = {name for name in wanted if not re.search(r"attn\.[qkv]\.bias$", name)}
    missing = sorted(wanted - set(names))
    unknown = unknown + [stored for own, stored in names.items() if own not in wanted]
    if unknown or missing:
        raise KeyMismatchError(
            f"this is not a whole ViT or DINOv2 of transformers. Unknown tensors ({len(unknown)}): "
            f"{', '.join(unknown) or 'none'}; missing, as transformers' ViT names them ({len(missing)}): "
            f"{', '.join(map(both_names, missing)) or 'none'}"
        )


def _grid(tensors: Mapping[str, Tensor], config: dict[str, Any]) -> tuple[int, int]:
    """Return the (h, w) patches of the positions: as the configuration says, or a square."""
    count = tensors["embed.position"].shape[1] - 1
    rows, columns = tensors["embed.projection.weight"].shape[2:]
    size = config.get("image_size")
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    if height and width and (height // rows) * (width // columns) == count:
        return (height // rows, width // columns)
    side = math.isqrt(count)
    if side * side != count:
        raise CheckpointError(f"the {count} positions are no square of patches, and no config.json tells their grid")
    return (side, side)


def _fields(tensors: Mapping[str, Tensor], config: dict[str, Any], family: str) -> dict[str, Any]:
    layers = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    projection = tensors["embed.projection.weight"]
    return {
        "hidden_size": projection.shape[0],
        "num_channels": projection.shape[1],
        "num_hidden_layers": len(layers),
        "intermediate_size": tensors["blocks.0.mlp.fc1.weight"].shape[0],
        "qkv_bias": "blocks.0.attn.q.bias" in tensors,
        "hidden_act": config.get("hidden_act", "gelu"),
        "layer_norm_eps": config.get("layer_norm_eps", _EPS[family]),
        "initializer_range": config.get("initializer_range", 0.02),
    }


def inflate(weight: Tensor, frames: int, init: str) -> Tensor:
    """Return an image patch filter as a tubelet filter (Arnab et al. 2021, section 3.4).

    Args:
        weight: (d_model, channels, rows, columns).
        frames: frames of a tubelet.
        init: ``"central_frame"`` puts the filter at frame ``frames // 2`` and zeros elsewhere (equation 9);
            ``"inflate"`` puts it at every frame, divided by their number (equation 8).

    Returns:
        (d_model, channels, frames, rows, columns), whose sum over frames is ``weight``.

    Raises:
        ConfigError: ``init`` is neither.
    """
    if init == "inflate":
        return weight.unsqueeze(2).repeat(1, 1, frames, 1, 1) / frames
    if init != "central_frame":
        raise ConfigError(f"init={init!r} is not known; choose 'central_frame' or 'inflate'")
    filters = torch.zeros(*weight.shape[:2], frames, *weight.shape[2:], dtype=weight.dtype)
    filters[:, :, frames // 2] = weight
    return filters
