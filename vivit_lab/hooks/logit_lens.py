"""The logit lens in one call, from a clip."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vivit_lab.hooks.inputs import as_pixel_values
from vivit_lab.hooks.recorder import evaluating
from vivit_lab.model.classifier import VivitForVideoClassification
from vivit_lab.model.hook_names import leaf_of
from vivit_lab.model.logit_lens import LogitLens
from vivit_lab.numbers import checked_numbers
from vivit_lab.video.clip import Clip

__all__ = ["logit_lens"]


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
