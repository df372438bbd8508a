"""Tiny image models of transformers: 3×3 patches of 8², two layers of four heads."""

from typing import Any

import transformers

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 24,
    "patch_size": 8,
}


def vit(**fields: Any) -> Any:
    """A ViTModel with random weights."""
    return transformers.ViTModel(transformers.ViTConfig(**{**SIZES, "intermediate_size": 48, **fields})).eval()


def dino(**fields: Any) -> Any:
    """A Dinov2Model with random weights."""
    return transformers.Dinov2Model(transformers.Dinov2Config(**{**SIZES, "mlp_ratio": 2, **fields})).eval()
