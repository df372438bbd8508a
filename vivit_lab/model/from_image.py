"""Start a ViViT from an image transformer, as the paper does before it trains on video."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vivit_lab.checkpoints.files import TensorSource, parse_dtype
from vivit_lab.checkpoints.image_vit import read_image_vit
from vivit_lab.errors import ConfigError
from vivit_lab.model.build import build_model
from vivit_lab.model.classifier import VivitForVideoClassification, VivitModel
from vivit_lab.model.config import VivitConfig
from vivit_lab.model.image_tensors import video_tensors
from vivit_lab.model.load import parse_device
from vivit_lab.numbers import checked_numbers

__all__ = ["vivit_from_image_model"]


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
        variant: which of the paper's four models; see ``vivit_lab.model.variants``.
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
