"""The parameters of a video model, of any variant, made of an image transformer's (Arnab et al. 2021, section 3.4)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vivit_lab.checkpoints.image_vit import ImageVit, inflate
from vivit_lab.errors import ConfigError
from vivit_lab.model.config import VivitConfig
from vivit_lab.model.positions import interpolate_positions
from vivit_lab.model.variants import layer_axes

__all__ = ["EMBEDDING_STARTS", "TEMPORAL_STARTS", "video_tensors"]

EMBEDDING_STARTS = ("central_frame", "inflate", "random")
TEMPORAL_STARTS = ("average", "random")

_ATTENTION = ("ln1", "attn.q", "attn.k", "attn.v", "attn.o")
_MLP = ("ln2", "mlp.fc1", "mlp.fc2")


def video_tensors(image: ImageVit, config: VivitConfig, init: str, temporal: str | None) -> dict[str, Tensor]:
    """Return own name → float32 tensor of a video model.

    Args:
        image: the image model.
        config: of the video model.
        init: how the tubelet filter starts, one of ``EMBEDDING_STARTS``.
        temporal: how layers that attend along time alone start, one of ``TEMPORAL_STARTS``; None is ``"average"``.

    Raises:
        ConfigError: ``init`` or ``temporal`` is not known, or the variant has no such layers.
    """
    has_temporal = config.variant == "factorized_self_attention_block" or (
        config.variant == "factorized_encoder" and not config.spatial_only_baseline
    )
    if temporal is not None and temporal not in TEMPORAL_STARTS:
        raise ConfigError(f"temporal_init={temporal!r} is not known; choose one of {', '.join(TEMPORAL_STARTS)}")
    if temporal is not None and not has_temporal:
        raise ConfigError(
            f"temporal_init={temporal!r} has no effect: this {config.variant} has no layers that attend along time "
            "alone; leave it out"
        )
    tensors = {name: tensor for name, tensor in image.tensors.items() if not name.startswith("blocks.")}
    tensors["embed.projection.weight"] = _filters(tensors["embed.projection.weight"], config, init)
    tensors["embed.position"] = _positions(image, config)
    if not config.grid.cls:
        tensors.pop("embed.cls_token")
    tensors |= _blocks(image.tensors, config, temporal or "average")
    if config.variant == "factorized_encoder" and not config.spatial_only_baseline:
        tensors |= _temporal_encoder(tensors, config, temporal or "average")
    return tensors


def _filters(weight: Tensor, config: VivitConfig, init: str) -> Tensor:
    if init not in EMBEDDING_STARTS:
        raise ConfigError(f"init={init!r} is not known; choose one of {', '.join(EMBEDDING_STARTS)}")
    if init == "random":
        filters = weight.new_empty(*weight.shape[:2], *config.tubelet_size)
        return filters.normal_(std=config.initializer_range)
    return inflate(weight, config.tubelet_size[0], init)


def _positions(image: ImageVit, config: VivitConfig) -> Tensor:
    t, h, w = config.grid.shape
    position = interpolate_positions(image.tensors["embed.position"], (1, *image.grid), (1, h, w))
    if config.variant == "factorized_encoder":  # the same at all times already
        return position
    places = position[:, 1:].repeat(1, t, 1)
    return torch.cat((position[:, :1], places), dim=1) if config.grid.cls else places


def _blocks(image: Mapping[str, Tensor], config: VivitConfig, temporal: str) -> dict[str, Tensor]:
    """Return the blocks that an image block becomes: one, or for two attentions two."""
    axes = layer_axes(config)
    pair = config.variant == "factorized_self_attention_block"
    blocks = {}
    for layer, axis in enumerate(axes[: config.num_hidden_layers * (2 if pair else 1)]):
        parts = _ATTENTION if pair and layer % 2 == 0 else _ATTENTION + _MLP
        source = layer // 2 if pair else layer
        for part in parts:
            for kind in ("weight", "bias"):
                value = image.get(f"blocks.{source}.{part}.{kind}")
                if value is not None:
                    blocks[f"blocks.{layer}.{part}.{kind}"] = value
        if pair and axis == "time":
            blocks |= _start_of_time(blocks, layer, config, temporal)
    return blocks


def _start_of_time(blocks: Mapping[str, Tensor], layer: int, config: VivitConfig, temporal: str) -> dict[str, Tensor]:
    """Return what of an attention along time is not the image's own attention."""
    prefix = f"blocks.{layer}.attn."
    output = blocks[f"{prefix}o.weight"]
    if temporal == "average":
        # with the rest zero too, no parameter of the branch would ever have a gradient
        return {f"{prefix}o.{kind}": torch.zeros_like(blocks[f"{prefix}o.{kind}"]) for kind in ("weight", "bias")}
    fresh = {}
    for part in ("q", "k", "v", "o"):
        fresh[f"{prefix}{part}.weight"] = torch.empty_like(output).normal_(std=config.initializer_range)
        if f"{prefix}{part}.bias" in blocks:
            fresh[f"{prefix}{part}.bias"] = torch.zeros_like(blocks[f"{prefix}{part}.bias"])
    return fresh


def _temporal_encoder(tensors: Mapping[str, Tensor], config: VivitConfig, temporal: str) -> dict[str, Tensor]:
    """Return the temporal encoder, drawn anew; averaging, its first layer takes the mean, the others add nothing.

    The first layer's queries are zero, so its pattern is even; values and output are the identity, the latter times
    (1 + t)/t because CLS, which is zero, is one of the 1 + t keys. The readout's LayerNorm only normalises, and the
    final one is the image model's, so a clip's vector is LN(mean over t of the normalised image vectors).
    """
    width, inner, first = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    sizes = {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}
    fresh: dict[str, Tensor] = {}
    for layer in range(first, first + config.num_temporal_layers):
        for part in _ATTENTION + _MLP:
            name = f"blocks.{layer}.{part}"
            shape = (width,) if part.startswith("ln") else sizes.get(part, (width, width))
            weight = torch.ones(shape) if len(shape) == 1 else torch.empty(shape).normal_(std=config.initializer_range)
            fresh[f"{name}.weight"] = weight
            if config.qkv_bias or part not in ("attn.q", "attn.k", "attn.v"):
                fresh[f"{name}.bias"] = torch.zeros(shape[0])
    times = config.grid.t
    enter = f"blocks.{first}.enter"
    fresh[f"{enter}.cls_token"] = torch.zeros(1, 1, width)
    fresh[f"{enter}.position"] = torch.zeros(1, 1 + times, width)
    fresh[f"{enter}.ln.weight"], fresh[f"{enter}.ln.bias"] = torch.ones(width), torch.zeros(width)
    if temporal == "random":
        fresh[f"{enter}.ln.weight"], fresh[f"{enter}.ln.bias"] = tensors["ln_final.weight"], tensors["ln_final.bias"]
        return fresh | {"ln_final.weight": torch.ones(width), "ln_final.bias": torch.zeros(width)}
    for name in (name for name in fresh if name.endswith(("attn.o.weight", "mlp.fc2.weight"))):
        fresh[name] = torch.zeros_like(fresh[name])
    fresh[f"blocks.{first}.attn.q.weight"] = torch.zeros(width, width)
    fresh[f"blocks.{first}.attn.v.weight"] = torch.eye(width)
    fresh[f"blocks.{first}.attn.o.weight"] = torch.eye(width) * (1 + times) / times
    return fresh
