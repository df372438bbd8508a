"""How a model is trained, as one value that is stored with the result; and ready-made ways."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any

from vivit_lab.errors import ConfigError, InputError
from vivit_lab.numbers import checked_numbers
from vivit_lab.training.augment import Augmentation

__all__ = ["MIXED_PRECISIONS", "OPTIMIZERS", "PRESETS", "Preset", "TrainingConfig", "preset_by_name"]

MIXED_PRECISIONS = ("no", "bf16", "fp16")
OPTIMIZERS = ("adamw", "sgd")

# what may change between a run and its continuation: none of it changes what is learned
_FREE = {
    "log_every",
    "evaluate_every",
    "checkpoint_every",
    "keep_checkpoints",
    "num_workers",
    "gradient_checkpointing",
}
_WHOLE = {
    "steps": 1,
    "batch_size": 1,
    "accumulate": 1,
    "warmup_steps": 0,
    "seed": 0,
    "num_workers": 0,
    "log_every": 1,
    "evaluate_every": 0,
    "checkpoint_every": 0,
    "keep_checkpoints": 1,
    "freeze_layers": 0,
}
_FLAGS = ("shuffle", "rescale_kept", "freeze_backbone", "freeze_embeddings", "gradient_checkpointing")


@checked_numbers(error=ConfigError)
@dataclass(frozen=True)
class TrainingConfig:
    """What ``train`` does. The defaults suit a small model from scratch; the paper's are given for each field.

    "The paper" is Arnab et al. 2021 (ViViT), table 7; where two values are given, the second is for Something-Something
    v2 or Epic Kitchens.

    Args:
        steps: updates of the weights.
        batch_size: clips of one process in one forward pass. The paper: 64 over all.
        accumulate: forward passes whose gradients make one update.
        optimizer: ``"adamw"`` or ``"sgd"`` with momentum. The paper: SGD.
        momentum: SGD's. The paper: 0.9.
        learning_rate: the highest. The paper: SGD with momentum, 0.1 to 0.5; AdamW wants about a hundredth of it.
        layer_decay: a layer's learning rate is this share of the next layer's, 0 … 1 (0 excluded); the embeddings count
            as the layer before the first, head and final norm as the one after the last (Clark et al. 2020, ELECTRA).
            1 gives all the same. The paper: 1.
        final_learning_rate: share of it that is left at the end of the cosine, 0 … 1.
        warmup_steps: updates over which it rises linearly from 0. The paper: 2.5 epochs.
        weight_decay: on matrices and filters alone; biases, norms, positions and the CLS token have none. AdamW's is
            apart from the gradient, SGD's is added to it. The paper: 0.
        betas: AdamW's averaging of the gradient and of its square.
        max_grad_norm: the gradient's norm is cut to this; None leaves it. The paper: 1.
        label_smoothing: share of each label that is spread over all classes, 0 … 1. The paper: none, or 0.2 to 0.3.
        stochastic_depth: rate at which the last block's branches are left out, 0 … 1 (1 excluded), falling linearly to
            0 at the first. The paper: none, or 0.2 to 0.3.
        rescale_kept: whether stochastic depth divides the branches that stay by the share that stays. The paper's own
            code does not.
        mixup: α of mixup; 0 for none. The paper: none, or 0.1 to 0.3.
        freeze_backbone: train the classifier alone.
        freeze_embeddings: keep tubelet filter, CLS token and positions as they are.
        freeze_layers: keep so many layers, from the first on, as they are; the embeddings are apart.
        gradient_checkpointing: compute the blocks again in the backward pass instead of keeping what they were made of.
        mixed_precision: ``"no"``, ``"bf16"`` or ``"fp16"`` (with a scaled loss; not on a CPU).
        shuffle: draw the clips in a new order each epoch; False goes through them as they lie.
        seed: of the order of the clips, of dropout, stochastic depth and mixup. All the randomness of step i is a
            function of the seed, i and the process, so that a run that was cut off continues as if it had not been.
        num_workers: processes that prepare clips; 0 prepares them between the steps.
        log_every: steps between two lines of the log.
        evaluate_every: steps between two evaluations; 0 evaluates at the end alone.
        checkpoint_every: steps between two checkpoints; 0 keeps none.
        keep_checkpoints: how many of the newest to keep.

    Raises:
        ConfigError: a field is out of its range.
    """

    steps: int = 1000
    batch_size: int = 32
    accumulate: int = 1
    optimizer: str = "adamw"
    momentum: float = 0.9
    learning_rate: float = 1e-3
    layer_decay: float = 1.0
    final_learning_rate: float = 0.02
    warmup_steps: int = 50
    weight_decay: float = 0.02
    betas: tuple[float, float] = (0.9, 0.98)
    max_grad_norm: float | None = 1.0
    label_smoothing: float = 0.0
    stochastic_depth: float = 0.0
    rescale_kept: bool = True
    mixup: float = 0.0
    freeze_backbone: bool = False
    freeze_embeddings: bool = False
    freeze_layers: int = 0
    gradient_checkpointing: bool = False
    mixed_precision: str = "no"
    shuffle: bool = True
    seed: int = 0
    num_workers: int = 0
    log_every: int = 50
    evaluate_every: int = 0
    checkpoint_every: int = 0
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        for name, low in _WHOLE.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise ConfigError(f"{name} must be an integer of at least {low}, got {value!r}")
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.warmup_steps >= self.steps:
            raise ConfigError(f"warmup_steps={self.warmup_steps} must be fewer than steps={self.steps}")
        for name in ("final_learning_rate", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie in 0 … 1, got {getattr(self, name)!r}")
        if not 0 <= self.stochastic_depth < 1:
            raise ConfigError(f"stochastic_depth must lie in 0 … 1 (1 excluded), got {self.stochastic_depth!r}")
        for name in ("weight_decay", "mixup"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)!r}")
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"layer_decay must lie in 0 … 1 (0 excluded), got {self.layer_decay!r}")
        if not self.learning_rate > 0:
            raise ConfigError(f"learning_rate must be positive, got {self.learning_rate!r}")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ConfigError(f"max_grad_norm must be positive or None, got {self.max_grad_norm!r}")
        object.__setattr__(self, "betas", tuple(self.betas))
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"betas must be two numbers in 0 … 1 (1 excluded), got {self.betas!r}")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum must lie in 0 … 1 (1 excluded), got {self.momentum!r}")
        for name, known in (("mixed_precision", MIXED_PRECISIONS), ("optimizer", OPTIMIZERS)):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name}={getattr(self, name)!r} is not known; choose one of {', '.join(known)}")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return {**asdict(self), "betas": list(self.betas)}

    def differences(self, stored: dict[str, Any]) -> list[str]:
        """Return, in words, the fields that keep this from continuing a run of the configuration ``stored``."""
        mine = self.to_dict()
        # a run from before a field existed did what the field's default does
        then = {item.name: stored.get(item.name, item.default) for item in fields(self) if item.name not in _FREE}
        then["betas"] = list(then["betas"])
        return [f"{name}: {value!r} then, {mine[name]!r} now" for name, value in then.items() if value != mine[name]]


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
