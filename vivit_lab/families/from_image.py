"""Start a ViViT from an image transformer, as the paper does before it trains on video (section 3.4)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vivit_lab.checkpoints.files import TensorSource, parse_dtype
from vivit_lab.checkpoints.image_vit import ImageVit, inflate, read_image_vit
from vivit_lab.errors import ConfigError
from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
from vivit_lab.model.build import build_model
from vivit_lab.model.config import VivitConfig, layer_axes
from vivit_lab.model.embeddings import interpolate_positions
from vivit_lab.model.load import parse_device
from vivit_lab.numbers import checked_numbers

__all__ = ["EMBEDDING_STARTS", "TEMPORAL_STARTS", "video_tensors", "vivit_from_image_model"]

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


@checked_numbers()
def vivit_from_image_model(
    source: Mapping[str, Tensor] | str | os.PathLike[str],
    *,
    num_frames: int = 16,
    image_size: int = 224,
    tubelet_frames: int = 2,
    init: str = "central_frame",
    variant: str = "spacetime",
    temporal_init: str | None = None,
    num_labels: int | None = None,
    num_attention_heads: int | None = None,
    dtype: torch.dtype | str = torch.float32,
    device: torch.device | str | int | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    **config: Any,
) -> VivitModel | VivitForVideoClassification:
    """Make a ViViT out of an image ViT or a DINOv2, in evaluation mode (Arnab et al. 2021, section 3.4).

    Blocks, CLS and final LayerNorm are taken over, LayerScale folded in. The patch filter becomes a tubelet filter; the
    positions are resized bicubically in space and repeated along time. Such a model knows no motion until it is
    trained.

    With one tubelet along time (``num_frames == tubelet_frames``) a static clip gives exactly the image model's output.
    With t of them it gives the output of an image model that sees every patch t times: all t copies of a token come out
    equal, but CLS weighs against t times as many patches as it was trained with.

    The other variants start, for any clip, as an image model applied to each time (each tubelet row):

    - ``factorized_self_attention_block``: the image model without its CLS token, mean-pooled, averaged over time. The
      attention along time begins as a copy of the image's with a zero output projection.
    - ``factorized_encoder``: its classifier reads LN(mean over time of the normalised image vectors), the image model's
      own vector where the clip is static. With ``spatial_only_baseline=True`` it reads exactly their average.
    - ``factorized_dot_product_attention`` has no parameters of its own for time: half of the image's heads attend along
      time from now on. A static clip gives the image model, without CLS and mean-pooled, whose first half of the heads
      see their own patch only.

    Args:
        source: a transformers 4 or 5 state dict of ``ViTModel``, ``ViTForImageClassification`` or ``Dinov2Model``, a
            directory or Hub id of one, or its file of weights.
        num_frames: frames of a clip.
        image_size: height and width of a frame, in pixels; a multiple of the image model's patch.
        tubelet_frames: frames of a tubelet.
        init: ``"central_frame"`` (the patch filter acts on one frame of a tubelet), ``"inflate"`` (on their mean) or
            ``"random"`` (it is drawn anew from the default generator).
        variant: which of the paper's four models; see ``vivit_lab.model.config``.
        temporal_init: ``"average"`` (default) as above, or ``"random"`` for a temporal attention drawn anew, in the two
            variants that have one of its own.
        num_labels: None gives a ``VivitModel`` without pooler; a number gives a ``VivitForVideoClassification`` whose
            classifier is drawn anew (0 leaves it out).
        num_attention_heads: needed where there is no config.json, as weights do not tell it.
        dtype: dtype of the parameters; the conversion is done in float32.
        device: where the parameters go; PyTorch's default device where None.
        revision: branch, tag or commit on the Hub.
        cache_dir: where downloads are kept.
        local_files_only: never touch the network.
        token: Hub access token.
        **config: further fields of ``VivitConfig``. ``hidden_act`` and ``layer_norm_eps`` come from the image model's
            config.json; without one they are "gelu", and 1e-12 for a ViT, 1e-6 for a DINOv2.

    Raises:
        CheckpointNotFoundError: there is no such checkpoint.
        KeyMismatchError: tensors are unknown or missing; all are listed.
        ConfigError: the number of heads is not known, a size does not fit, or it is another kind of model.

    Example:
        >>> model = vivit_from_image_model("facebook/dinov2-small", init="inflate")
    """
    where = {"revision": revision, "cache_dir": cache_dir, "local_files_only": local_files_only, "token": token}
    image = read_image_vit(source, **where)
    heads = num_attention_heads or image.num_attention_heads
    if heads is None:
        guess = max(1, image.config["hidden_size"] // 64)
        raise ConfigError(
            "weights do not tell the number of heads: pass num_attention_heads "
            f"(most models have 64 channels a head, which would make {guess} here)"
        )
    patch = image.tensors["embed.projection.weight"].shape[2:]
    fields = {
        **image.config,
        "num_attention_heads": heads,
        "num_frames": num_frames,
        "image_size": image_size,
        "tubelet_size": (tubelet_frames, *patch),
        "num_labels": num_labels or 0,
        "variant": variant,
        **config,
    }
    settings = VivitConfig().replace(**fields)
    kind, arguments = (
        (VivitModel, {"add_pooling_layer": False}) if num_labels is None else (VivitForVideoClassification, {})
    )
    model, _ = build_model(
        kind,
        settings,
        TensorSource.from_tensors(video_tensors(image, settings, init, temporal_init)),
        origin="the image model",
        dtype=parse_dtype(dtype),
        device=parse_device(device),
        arguments=arguments,
    )
    model.name_or_path = None if isinstance(source, Mapping) else os.fspath(source)
    return model
