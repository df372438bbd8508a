"""Ready-made ways to fine-tune: those of the paper, and one for a small data set on a small machine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from vivit_lab.errors import ConfigError, InputError
from vivit_lab.training.augment import Augmentation
from vivit_lab.training.config import TrainingConfig

__all__ = ["PRESETS", "Preset", "preset_by_name"]


@dataclass(frozen=True)
class Preset:
    """A way to train, in epochs, for any number of clips.

    Args:
        about: where it comes from and what it leaves out.
        epochs: how often each clip is seen.
        warmup_epochs: over how many of them the learning rate rises.
        batch_size: clips of an update, that the learning rate is meant for.
        scale_rate: whether the learning rate follows the batch size in proportion (Goyal et al. 2017), as SGD's does.
        training: fields of ``TrainingConfig``.
        augmentation: how clips are varied.
    """

    about: str
    epochs: float
    warmup_epochs: float
    batch_size: int
    scale_rate: bool
    training: Mapping[str, Any] = field(hash=False)
    augmentation: Augmentation

    def config(self, clips: int, *, epochs: float | None = None, processes: int = 1, **changes: Any) -> TrainingConfig:
        """Return the configuration for a number of clips.

        It is evaluated and a checkpoint is kept once an epoch.

        Args:
            clips: to train on.
            epochs: other than the preset's; or give ``steps``.
            processes: that train together, each on its own batch.
            **changes: fields of ``TrainingConfig``, in place of the preset's.

        Raises:
            InputError: there are no clips, or epochs are not positive.
            ConfigError: a field is unknown or out of its range, or there are both epochs and steps.
        """
        if epochs is not None and "steps" in changes:
            raise ConfigError(f"give epochs or steps, not both, got {epochs=} and steps={changes['steps']!r}")
        epochs = self.epochs if epochs is None else epochs
        if clips < 1 or not epochs > 0:
            raise InputError(f"wanted clips and a positive number of epochs, got {clips} and {epochs!r}")
        if unknown := set(changes) - set(TrainingConfig.__dataclass_fields__):
            known = ", ".join(TrainingConfig.__dataclass_fields__)
            raise ConfigError(f"training has no field {', '.join(sorted(unknown))}; the fields are {known}")
        fields = {"batch_size": min(self.batch_size, clips), **self.training, **changes}
        update = fields["batch_size"] * fields.get("accumulate", 1) * processes
        if self.scale_rate and "learning_rate" not in changes:
            fields["learning_rate"] = self.training["learning_rate"] * update / self.batch_size
        each = max(math.ceil(clips / update), 1)
        steps = fields.setdefault("steps", max(math.ceil(epochs * clips / update), 1))
        warmup = math.ceil(self.warmup_epochs / self.epochs * steps)
        defaults = {"warmup_steps": min(warmup, steps - 1), "log_every": min(each, 50)}
        return TrainingConfig(**{"evaluate_every": each, "checkpoint_every": each, **defaults, **fields})


_PAPER: dict[str, Any] = {
    "optimizer": "sgd",
    "momentum": 0.9,
    "final_learning_rate": 0.0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "rescale_kept": False,
}
_SOURCE = "As released with Arnab et al. 2021, google-research/scenic (projects/vivit/configs)"


def _paper(epochs: float, about: str, augmentation: Augmentation, **training: Any) -> Preset:
    settings = MappingProxyType({**_PAPER, **training})
    return Preset(f"{_SOURCE}: {about}", epochs, 2.5, 64, True, settings, augmentation)


_UNCOLOURED = Augmentation(stride=(1, 1), colour=0.0, grey=0.0)

#: Name → preset. Of the paper's data sets those whose settings are released; it has no RandAugment.
PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "small": Preset(
            "A start for some hundred clips, on a pretrained model; not from the paper.",
            epochs=20,
            warmup_epochs=2,
            batch_size=8,
            scale_rate=False,
            training=MappingProxyType(
                {"learning_rate": 3e-4, "layer_decay": 0.75, "weight_decay": 0.05, "label_smoothing": 0.1}
            ),
            augmentation=Augmentation(),
        ),
        "kinetics400": _paper(30, "ViViT-B on Kinetics 400.", Augmentation(), learning_rate=0.1),
        "epic_kitchens": _paper(
            50,
            "ViViT-L FE on Epic Kitchens, without its RandAugment (2 layers, magnitude 15).",
            _UNCOLOURED,
            learning_rate=0.5,
            stochastic_depth=0.2,
            label_smoothing=0.2,
            mixup=0.1,
        ),
        "something_something_v2": _paper(
            35,
            "ViViT-L FE on Something-Something v2, without its RandAugment (2 layers, magnitude 20). Mirror images get "
            "the label of the other side where a class names one, which the paper does not tell of.",
            _UNCOLOURED,
            learning_rate=0.4,
            stochastic_depth=0.3,
            label_smoothing=0.3,
            mixup=0.3,
        ),
    }
)


def preset_by_name(name: str) -> Preset:
    """Return a preset.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
