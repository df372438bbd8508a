"""Give a trained model other classes, another number of frames or another size, and say what that changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from vivit_lab.errors import ConfigError, InputError
from vivit_lab.model.classifier import VivitForVideoClassification, VivitModel
from vivit_lab.model.config import VivitConfig
from vivit_lab.model.positions import interpolate_positions
from vivit_lab.processing.processor import VivitImageProcessor

__all__ = ["adapt_model", "adapt_processor"]


def adapt_model(
    model: VivitModel | VivitForVideoClassification,
    labels: Sequence[str],
    *,
    num_frames: int | None = None,
    image_size: int | None = None,
    seed: int = 0,
) -> tuple[VivitForVideoClassification, list[str]]:
    """Return a new classifier that starts from a model.

    All weights are copied but for these: the classifier is drawn anew, unless the model has the same class names (it
    then keeps its own order of them, and its ``label_groups``); positions are interpolated for another grid (bicubic in
    space, linear in time); a pooler is left out.

    Args:
        model: to start from; it stays as it is.
        labels: names of the classes, all different, at least two.
        num_frames: frames of a clip; None keeps the model's.
        image_size: height and width in pixels; None keeps the model's.
        seed: of the new classifier.

    Returns:
        The classifier on the device and in the dtype of the model, and a sentence for each thing that did not come
        from it as it was.

    Raises:
        InputError: the class names are fewer than two, or repeat.
        ConfigError: a size does not fit the tubelets.
    """
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise InputError(f"wanted at least two different class names, got {list(labels)}")
    old, changes = model.config, []
    keeps = isinstance(model, VivitForVideoClassification) and set((old.id2label or {}).values()) == set(labels)
    config = old.replace(
        num_frames=num_frames or old.num_frames,
        image_size=image_size or old.image_size,
        id2label=old.id2label if keeps else dict(enumerate(labels)),
        label_groups=old.label_groups if keeps else None,
        problem_type=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new = VivitForVideoClassification(config)
    target = new.state_dict()
    for name, value in model.state_dict().items():
        head = name.split(".")[0]
        if head == "pooler" or (head == "classifier" and not keeps):
            continue
        if value.shape != target[name].shape:
            value = _resized(name, value, old, config)
            changes.append(f"{name} interpolated from {_grid(old.grid.shape)} to {_grid(config.grid.shape)} (t×h×w)")
        target[name] = value
    new.load_state_dict(target)
    if not keeps:
        before = f"instead of {old.num_labels}" if isinstance(model, VivitForVideoClassification) else "there was none"
        changes.append(f"classifier drawn anew for {len(labels)} classes ({before})")
        if old.label_groups:
            changes.append(f"label_groups dropped: one classifier in place of {' and '.join(old.label_groups)}")
    if getattr(model, "pooler", None) is not None:
        changes.append("pooler left out")
    new.name_or_path = model.name_or_path
    return new.to(device=model.device, dtype=model.dtype).eval(), changes


def _resized(name: str, value: torch.Tensor, old: VivitConfig, new: VivitConfig) -> torch.Tensor:
    if not name.endswith("position"):
        raise ConfigError(f"{name} does not fit the new sizes, and only positions can be interpolated")
    (t, h, w), (frames, rows, columns) = old.grid.shape, new.grid.shape
    if name != "embed.position":  # of the temporal layers of a factorised encoder
        return interpolate_positions(value, (t, 1, 1), (frames, 1, 1))
    if old.variant == "factorized_encoder":  # its spatial layers have one table for all times
        return interpolate_positions(value, (1, h, w), (1, rows, columns))
    return interpolate_positions(value, old.grid.shape, new.grid.shape, cls=old.grid.cls)


def _grid(shape: tuple[int, int, int]) -> str:
    return "×".join(map(str, shape))


def adapt_processor(processor: VivitImageProcessor, image_size: int) -> VivitImageProcessor:
    """Return a processor that makes square pixels of a size, with the same share of the frame left after the crop.

    Args:
        processor: of the model to start from.
        image_size: height and width in pixels.
    """
    height, width = processor.plan(image_size, image_size).height, processor.plan(image_size, image_size).width
    if processor.do_center_crop and (height, width) == (image_size, image_size):
        return processor
    crop = processor.crop_size if processor.do_center_crop else processor.size
    base = crop.get("height", crop.get("shortest_edge"))
    ratio = image_size / base
    size = {name: max(round(value * ratio), image_size) for name, value in processor.size.items()}
    return replace(processor, size=size, do_center_crop=True, crop_size={"height": image_size, "width": image_size})
