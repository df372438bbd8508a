"""Tiny models of every variant, made from a tree of scenic's parameters, with the tree beside them."""

from typing import Any

import numpy as np
import torch

from tests.model.naive_variants import random_tree
from vivit_lab.families import VivitForVideoClassification, from_scenic

FACTORIZED = ("factorized_encoder", "factorized_self_attention_block", "factorized_dot_product_attention")


def asked_fields(variant: str, frames: int) -> dict[str, Any]:
    """What the parameters of a variant do not tell."""
    asked: dict[str, Any] = {"num_frames": frames} if variant != "factorized_encoder" else {}
    if variant == "factorized_self_attention_block":
        asked["attention_order"] = "time_space"
    if variant == "factorized_dot_product_attention":
        asked["variant"] = variant
    return asked


def variant_model(
    variant: str, seed: int = 0, fields: dict[str, Any] | None = None, **sizes: Any
) -> tuple[VivitForVideoClassification, dict[str, np.ndarray]]:
    """A tiny classifier of 3×2×2 tubelets (6 frames of 8²), and its parameters as scenic has them."""
    sizes = {"t": 3, **sizes}
    tree = random_tree(variant, np.random.default_rng(seed), **sizes)
    return from_scenic(tree, **{**asked_fields(variant, 2 * sizes["t"]), **(fields or {})}), tree


def random_clips(batch: int = 2, frames: int = 6, size: int = 8) -> torch.Tensor:
    """Pixel values that fit ``variant_model``."""
    return torch.randn(batch, frames, 3, size, size)


def channels_last(pixels: torch.Tensor) -> np.ndarray:
    """(frames, height, width, channel), as the naive reference and scenic have a clip."""
    return pixels.permute(0, 2, 3, 1).numpy()
