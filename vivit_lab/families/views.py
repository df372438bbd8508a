"""One prediction from several views of a clip: the mean of their logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from vivit_lab.errors import InputError
from vivit_lab.families.vivit import VivitForVideoClassification
from vivit_lab.model.inputs import check_pixels

__all__ = ["Prepared", "mean_logits", "predict_views"]


class Prepared(Protocol):
    """What has pixel values, such as a ``Clip`` that a processor prepared."""

    @property
    def pixel_values(self) -> Tensor | None:
        """(1, frame, channel, height, width)."""
        ...


def predict_views(
    model: VivitForVideoClassification,
    views: Tensor | Sequence[Prepared],
    *,
    interpolate_pos_encoding: bool | None = None,
) -> Tensor:
    """Return the mean of the logits of several views, without gradients (Arnab et al. 2021, section 4.1).

    Args:
        model: a classifier, used as it is: put it into evaluation mode.
        views: (view, frame, channel, height, width) or (batch, view, frame, channel, height, width), or the prepared
            clips of one video, such as ``read_views`` gives.
        interpolate_pos_encoding: whether clips of another size are taken; None is yes, and says so once.

    Returns:
        (num_labels,) logits, or (batch, num_labels).

    Raises:
        InputError: there are no views, a clip was not prepared, or the tensor has other axes.

    Example:
        >>> logits = predict_views(model, read_views("abseiling.mp4", 32, processor=processor))
    """
    are_clips = not isinstance(views, Tensor)
    if not isinstance(views, Tensor):
        pixels = [clip.pixel_values for clip in views if clip.pixel_values is not None]
        if not pixels or len(pixels) < len(views):
            raise InputError("wanted at least one view, and each prepared: read_views(…, processor=processor)")
        views = torch.cat(pixels)
    if views.ndim not in (5, 6) or not views.shape[-5]:
        raise InputError(
            "views must be (view, frame, channel, height, width), with a batch in front if there is one, got "
            f"{tuple(views.shape)}"
        )
    check_pixels(views, "views", normalised=are_clips)
    batch = views if views.ndim == 6 else views.unsqueeze(0)
    with torch.no_grad():
        logits = mean_logits(model, batch.to(model.device), interpolate_pos_encoding=interpolate_pos_encoding)
    return logits if views.ndim == 6 else logits.squeeze(0)


def mean_logits(model: Any, pixel_values: Tensor, **forward: Any) -> Tensor:
    """Return the logits (batch, class) of clips, averaged over an axis of views where there is one.

    Args:
        model: gives an output with ``logits``.
        pixel_values: (batch, frame, channel, height, width), or (batch, view, frame, channel, height, width).
        **forward: further arguments of the model.
    """
    if pixel_values.ndim == 5:
        return model(pixel_values, **forward).logits
    # one view after the other: the memory of a forward pass is that of a batch
    return torch.stack([model(view, **forward).logits for view in pixel_values.unbind(1)]).mean(0)
