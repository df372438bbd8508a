"""The configuration of a ViViT as Hugging Face's config.json has it, and the four models of the paper as layers."""

from __future__ import annotations

import difflib
import json
import math
import operator
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from vivit_lab.checkpoints.checkpoint import Checkpoint, with_kinetics_labels
from vivit_lab.errors import CheckpointWarning, ConfigError, GridError
from vivit_lab.grid import TokenGrid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vivit_lab.grid import TokenGrid

__all__ = [
    "ACTIVATIONS",
    "ATTENTION_IMPLEMENTATIONS",
    "ATTENTION_ORDERS",
    "CLASSIFIERS",
    "PROBLEM_TYPES",
    "VARIANTS",
    "VARIANT_FIELDS",
    "AttentionLayout",
    "VivitConfig",
    "check_variant",
    "layer_axes",
    "layer_layouts",
    "written_fields",
]


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _linear(x: Tensor) -> Tensor:
    return x


def _clipped_gelu(x: Tensor) -> Tensor:
    return functional.gelu(x).clamp(-10, 10)


def _squared_relu(x: Tensor) -> Tensor:
    return functional.relu(x).square()


_tanh_gelu = partial(functional.gelu, approximate="tanh")

#: ``gelu_fast``, ``gelu_new`` and ``gelu_pytorch_tanh`` are one formula,
#: 0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³))), which PyTorch computes in one fused kernel.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_10": _clipped_gelu,
    "gelu_accurate": _tanh_gelu,
    "gelu_fast": _tanh_gelu,
    "gelu_new": _tanh_gelu,
    "gelu_python": functional.gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "leaky_relu": functional.leaky_relu,
    "linear": _linear,
    "mish": functional.mish,
    "quick_gelu": _quick_gelu,
    "relu": functional.relu,
    "relu2": _squared_relu,
    "relu6": functional.relu6,
    "selu": functional.selu,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "swish": functional.silu,
    "tanh": torch.tanh,
}


VARIANTS = (
    "spacetime",
    "factorized_encoder",
    "factorized_self_attention_block",
    "factorized_dot_product_attention",
)
ATTENTION_ORDERS = ("time_space", "space_time")
CLASSIFIERS = ("token", "gap")

# field → the variants that have it (all of them write "variant" and "classifier")
VARIANT_FIELDS = {
    "attention_order": ("factorized_self_attention_block",),
    "num_temporal_layers": ("factorized_encoder",),
    "spatial_only_baseline": ("factorized_encoder",),
}


@dataclass(frozen=True)
class AttentionLayout:
    """Which tokens of its sequence an attention layer joins.

    Args:
        axis: ``"joint"`` (all), ``"time"`` (same place), ``"space"`` (same time), or ``"both"``: the first half of the
            heads along time, the second along space.
        tokens: length of the sequence.
        times: how many times it covers; tokens are ordered by time first.
    """

    axis: str
    tokens: int
    times: int

    @property
    def places(self) -> int:
        """Tokens of one time."""
        return self.tokens // self.times

    def scores(self, heads: Sequence[int], count: int) -> int:
        """Return how many scores some heads have together.

        Args:
            heads: which, counted as before any was pruned.
            count: heads before any was pruned.
        """
        if self.axis == "both":
            early = sum(head < count // 2 for head in heads)
            return self.tokens * (early * self.times + (len(heads) - early) * self.places)
        keys = {"joint": self.tokens, "time": self.times, "space": self.places}[self.axis]
        return len(heads) * self.tokens * keys


def check_variant(config: VivitConfig) -> str:
    """Refuse what no variant can be, and return how the tokens become one vector: ``"token"`` or ``"gap"``.

    Raises:
        ConfigError: a choice is unknown, or two do not go together.
    """
    for name, value, choices in (
        ("variant", config.variant, VARIANTS),
        ("attention_order", config.attention_order, ATTENTION_ORDERS),
        ("classifier", config.classifier, (None, *CLASSIFIERS)),
    ):
        if value not in choices:
            raise ConfigError(f"{name}={value!r} is not known; choose one of {', '.join(map(str, choices))}")
    without_cls = config.variant in ("factorized_self_attention_block", "factorized_dot_product_attention")
    classifier = config.classifier or ("gap" if without_cls else "token")
    if without_cls and classifier == "token":
        raise ConfigError(f"{config.variant} has no CLS token for the classifier to read: use classifier='gap'")
    if config.variant == "factorized_encoder" and classifier == "gap":
        raise ConfigError(
            "factorized_encoder hands the CLS token of each time on to its temporal layers: use classifier='token' "
            "(spatial_only_baseline=True averages those CLS tokens over time instead)"
        )
    if config.spatial_only_baseline and config.variant != "factorized_encoder":
        raise ConfigError("spatial_only_baseline=True is a factorized_encoder without temporal layers: set variant")
    if config.variant == "factorized_dot_product_attention" and config.num_attention_heads % 2:
        raise ConfigError(
            f"factorized_dot_product_attention gives half of the heads to each axis: num_attention_heads="
            f"{config.num_attention_heads} is odd"
        )
    return classifier


def layer_axes(config: VivitConfig) -> tuple[str, ...]:
    """Return the axis of each attention layer, in the order in which they run."""
    count = config.num_hidden_layers
    if config.variant == "factorized_encoder":
        temporal = 0 if config.spatial_only_baseline else config.num_temporal_layers
        return ("space",) * count + ("joint",) * temporal
    if config.variant == "factorized_self_attention_block":
        return tuple(config.attention_order.split("_")) * count
    return ({"spacetime": "joint", "factorized_dot_product_attention": "both"}[config.variant],) * count


def layer_layouts(config: VivitConfig, grid: TokenGrid) -> tuple[AttentionLayout, ...]:
    """Return which tokens each attention layer joins, for clips of a grid."""
    layouts = []
    for axis in layer_axes(config):
        if config.variant != "factorized_encoder":
            times = 1 if axis == "joint" else grid.t
            layouts.append(AttentionLayout(axis, grid.num_tokens, times))
        elif axis == "space":  # each time has a CLS token of its own
            layouts.append(AttentionLayout(axis, grid.t * (1 + grid.h * grid.w), grid.t))
        else:
            layouts.append(AttentionLayout(axis, 1 + grid.t, 1))
    return tuple(layouts)


def written_fields(config: VivitConfig) -> dict[str, Any]:
    """Return the fields of a config.json that tell the variant; none for what transformers can express."""
    if config.variant == "spacetime" and config.classifier == "token":
        return {}
    names = [name for name, variants in VARIANT_FIELDS.items() if config.variant in variants]
    return {name: getattr(config, name) for name in ("variant", "classifier", *names)}


ATTENTION_IMPLEMENTATIONS = ("eager", "sdpa", "flash_attention_2")
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")

# Fields that transformers writes into every config.json and that do not change what a ViViT computes (of these, the
# model honours output_attentions and output_hidden_states). Kept, so that a configuration can be written back.
_FOREIGN = {
    "add_cross_attention", "architectures", "bad_words_ids", "begin_suppress_tokens", "bos_token_id",
    "chunk_size_feed_forward", "cross_attention_hidden_size", "decoder_start_token_id", "diversity_penalty",
    "do_sample", "dtype", "early_stopping", "encoder_no_repeat_ngram_size", "eos_token_id",
    "exponential_decay_length_penalty", "finetuning_task", "forced_bos_token_id", "forced_eos_token_id",
    "gradient_checkpointing",
    "is_decoder", "is_encoder_decoder", "length_penalty", "max_length", "min_length", "model_type",
    "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences", "output_attentions",
    "output_hidden_states", "output_scores", "pad_token_id", "prefix", "remove_invalid_values",
    "repetition_penalty", "return_dict", "return_dict_in_generate", "sep_token_id", "suppress_tokens",
    "task_specific_params", "temperature", "tf_legacy_loss", "tie_encoder_decoder", "tie_word_embeddings",
    "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript", "transformers_version", "typical_p",
    "use_bfloat16", "use_cache", "video_size",
}  # fmt: skip


# The largest model that was published has 48 layers of width 6,144 (ViT-22B). These bounds are far above it and keep a
# wrong number from filling the memory or the day before anything else notices it.
_LARGEST = {
    "image_size": 2**15, "num_frames": 2**17, "num_channels": 2**12, "hidden_size": 2**17,
    "pooler_output_size": 2**17, "num_hidden_layers": 1000,
    "num_attention_heads": 2**13, "intermediate_size": 2**20, "num_temporal_layers": 1000, "num_labels": 2**20,
}  # fmt: skip

_VARIANT_NAMES = {"variant", "classifier", *VARIANT_FIELDS}

# the model type of what transformers has no class for, so that it refuses the file instead of misreading it
_OWN_TYPE = "vivit_lab"

# layers without any head: transformers 4 cannot have them, and reads one head of zeros instead
_CONSTANT = "vivit_lab_constant_attention"


@dataclass(frozen=True)
class VivitConfig:
    """What a ViViT is made of. The defaults are ViViT-B/16x2: 32 frames of 224², 88.6 M parameters.

    Args:
        image_size: height and width of a frame, in pixels.
        num_frames: frames in a clip.
        tubelet_size: what one token covers, (frames, pixel rows, pixel columns).
        num_channels: colour channels.
        hidden_size: width of the residual stream (d_model).
        num_hidden_layers: number of blocks; see ``num_attention_layers`` for the other variants.
        num_attention_heads: heads in a block.
        intermediate_size: width of the MLP.
        hidden_act: activation of the MLP, a name of ``vivit_lab.model.config.ACTIVATIONS``.
        hidden_dropout_prob: dropout after the embeddings, the attention's output projection and both MLP layers.
        attention_probs_dropout_prob: dropout on the attention pattern.
        initializer_range: standard deviation of the initial weights.
        layer_norm_eps: epsilon of every LayerNorm.
        qkv_bias: whether queries, keys and values have a bias.
        num_labels: number of classes; 0 for none. Follows ``id2label`` where that is given.
        id2label: class index → name; ``LABEL_n`` where not given.
        problem_type: which loss; None chooses by ``num_labels`` and the labels' dtype.
        attn_implementation: how attention is computed, ``"eager"``, ``"sdpa"`` or ``"flash_attention_2"``; not
            written to config.json. ``vivit-lab bench attention`` measures the default against the kernels behind it.
        pooler_act: activation of the pooler, one of the names of ``hidden_act``. transformers 5 has it; transformers 4
            always computes tanh.
        pooler_output_size: width of the pooler's output; None, which transformers 5 writes as ``hidden_size``, is that.
        variant: which of the paper's four models, see ``vivit_lab.model.config``.
        attention_order: which axis a block of ``factorized_self_attention_block`` attends along first,
            ``"time_space"`` or ``"space_time"``.
        num_temporal_layers: layers over time of ``factorized_encoder``.
        classifier: ``"token"`` reads the CLS token, ``"gap"`` the mean of all tokens; None is what the variant has.
        spatial_only_baseline: a ``factorized_encoder`` without temporal layers: its CLS tokens are averaged over time.
        label_groups: name → number of classes, in order, where the logits are those of several classifiers side by
            side (noun and verb of EPIC-KITCHENS); see ``VivitForVideoClassification.split_logits``.
        pruned_heads: layer → the heads that were taken out of it for good, counted as before any was; see
            ``prune_heads``.
        extra: fields of a config.json that do not change the model, kept to be written back.

    Raises:
        ConfigError: a field has a value no ViViT can have.
    """

    image_size: int = 224
    num_frames: int = 32
    tubelet_size: tuple[int, int, int] = (2, 16, 16)
    num_channels: int = 3
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu_fast"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-6
    qkv_bias: bool = True
    num_labels: int | None = None
    id2label: dict[int, str] | None = field(default=None, hash=False)
    problem_type: str | None = None
    attn_implementation: str = "sdpa"
    pooler_act: str = "tanh"
    pooler_output_size: int | None = None
    variant: str = "spacetime"
    attention_order: str = "time_space"
    num_temporal_layers: int = 4
    classifier: str | None = None
    spatial_only_baseline: bool = False
    label_groups: dict[str, int] | None = field(default=None, hash=False)
    pruned_heads: dict[int, tuple[int, ...]] = field(default_factory=dict, hash=False)
    extra: dict[str, Any] = field(default_factory=dict, repr=False, hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.tubelet_size, (list, tuple)):
            raise ConfigError(f"tubelet_size must be three integers (frames, rows, columns), got {self.tubelet_size!r}")
        object.__setattr__(self, "tubelet_size", tuple(self.tubelet_size))
        if len(self.tubelet_size) != 3 or any(
            isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in self.tubelet_size
        ):
            raise ConfigError(f"tubelet_size must be three integers (frames, rows, columns), got {self.tubelet_size}")
        for name in ("image_size", "num_frames", "num_channels", "hidden_size", "num_hidden_layers"):
            self._check_positive(name)
        for name in ("num_attention_heads", "intermediate_size", "num_temporal_layers"):
            self._check_positive(name)
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"hidden_size={self.hidden_size} is not a multiple of num_attention_heads={self.num_attention_heads}"
            )
        _check_choice("hidden_act", self.hidden_act, tuple(ACTIVATIONS))
        _check_choice("pooler_act", self.pooler_act, tuple(ACTIVATIONS))
        if self.pooler_output_size is not None:
            self._check_positive("pooler_output_size")
            if self.pooler_output_size == self.hidden_size:  # the same thing said twice, which makes no other model
                object.__setattr__(self, "pooler_output_size", None)
        _check_choice("attn_implementation", self.attn_implementation, ATTENTION_IMPLEMENTATIONS)
        if self.problem_type is not None:
            _check_choice("problem_type", self.problem_type, PROBLEM_TYPES)
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range", "layer_norm_eps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise ConfigError(f"{name} must be a number, 0 or more, got {value!r:.100}")
            if value > 1000:
                raise ConfigError(f"{name} is larger than any model could have; wanted at most 1000")
            if name.endswith("_prob") and value >= 1:
                raise ConfigError(f"{name} must lie in [0, 1), got {value}")
        if not self.layer_norm_eps > 0:
            raise ConfigError("layer_norm_eps must be greater than 0, or a constant token gives NaN; got 0")
        for name in ("qkv_bias", "spatial_only_baseline"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if not isinstance(self.extra, dict):
            raise ConfigError(f"extra must be a dict, got {self.extra!r:.100}")
        for name in ("output_attentions", "output_hidden_states"):
            if not isinstance(self.extra.get(name), (bool, type(None))):
                raise ConfigError(f"{name} must be True or False, got {self.extra[name]!r:.100}")
        object.__setattr__(self, "classifier", check_variant(self))
        self._check_labels()
        self._check_pruned()
        try:
            self.grid  # noqa: B018 - builds the grid, to refuse sizes that do not divide
        except GridError as error:
            raise ConfigError(f"these sizes make no token grid: {error}") from error

    def _check_positive(self, name: str) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name} must be a positive integer, got {value!r:.100}")
        if value > _LARGEST[name]:
            raise ConfigError(f"{name}={value} is larger than any model could have; wanted at most {_LARGEST[name]}")

    def _check_labels(self) -> None:
        names = self.id2label
        if names is not None:
            # in order of the index: a sorted JSON has "10" before "2"
            names = dict(sorted(_numbered("id2label", names, "class index → name", str)))
            if sorted(names) != list(range(len(names))):
                raise ConfigError(
                    f"id2label must name every class from 0 to {len(names) - 1}, got {sorted(names)[:20]}"
                )
            if self.num_labels is not None and self.num_labels != len(names):
                raise ConfigError(
                    f"num_labels={self.num_labels}, but id2label names {len(names)} classes; give one of the two"
                )
        count = self.num_labels if names is None else len(names)
        count = 2 if count is None else count  # Hugging Face's default
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ConfigError(f"num_labels must be 0 or a positive integer, got {count!r:.100}")
        if count > _LARGEST["num_labels"]:
            raise ConfigError(f"num_labels={count} is larger than any model could have; wanted at most {2**20}")
        object.__setattr__(self, "num_labels", count)
        object.__setattr__(self, "id2label", names or {index: f"LABEL_{index}" for index in range(count)})
        groups = self.label_groups
        if groups is not None and not (
            isinstance(groups, dict)
            and all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in groups.values())
        ):
            raise ConfigError(f"label_groups must be name → number of classes, got {groups!r:.200}")
        if self.label_groups is not None and sum(self.label_groups.values()) != count:
            raise ConfigError(f"label_groups={self.label_groups} must add up to num_labels={count}")

    def _check_pruned(self) -> None:
        given = dict(_numbered("pruned_heads", self.pruned_heads, "layer → list of heads", _heads))
        layers, count = self.num_attention_layers, self.num_attention_heads
        for layer, heads in given.items():
            if not 0 <= layer < layers or any(not 0 <= head < count for head in heads):
                raise ConfigError(
                    f"pruned_heads names layer {layer}, heads {heads}; the model has layers 0..{layers - 1} of heads "
                    f"0..{count - 1}"
                )
        pruned = {layer: tuple(given[layer]) for layer in sorted(given) if given[layer]}
        object.__setattr__(self, "pruned_heads", pruned)

    @property
    def label2id(self) -> dict[str, int]:
        """Class name → index."""
        return {name: index for index, name in (self.id2label or {}).items()}

    @property
    def grid(self) -> TokenGrid:
        """The token grid of a clip of ``num_frames`` and ``image_size``."""
        size = self.image_size
        return TokenGrid.from_video(
            self.num_frames, size, size, self.tubelet_size, cls_token=self.classifier == "token"
        )

    @property
    def num_attention_layers(self) -> int:
        """Attention layers, each of them one of ``model.blocks``, in all parts of the variant."""
        return len(layer_axes(self))

    @property
    def head_dim(self) -> int:
        """Width of one head (d_head)."""
        return self.hidden_size // self.num_attention_heads

    def replace(self, **changes: Any) -> VivitConfig:
        """Return a configuration with some fields changed; a new ``num_labels`` drops the old names, and vice versa.

        Raises:
            ConfigError: there is no such field, or its value is wrong.
        """
        unknown = set(changes) - {entry.name for entry in fields(self)}
        if unknown:
            raise ConfigError(_unknown_message(unknown))
        if "num_labels" in changes and "id2label" not in changes and changes["num_labels"] != self.num_labels:
            changes["id2label"] = None
        if "id2label" in changes and "num_labels" not in changes:
            changes["num_labels"] = None
        if changes.get("variant", self.variant) != self.variant:
            changes = {"classifier": None, **changes}  # each variant has its own default
        return replace(self, **changes)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> VivitConfig:
        """Read the contents of a ``config.json`` as transformers 4 or 5 writes it.

        Raises:
            ConfigError: it is another model's or quantised, or a field has a value no ViViT can have.

        Warns:
            CheckpointWarning: it has fields that are not known, which have no effect here.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"wanted the contents of a config.json, name → value; got {type(values).__name__}")
        values = dict(values)
        kind = values.pop("model_type", "vivit")
        if kind not in ("vivit", _OWN_TYPE):
            raise ConfigError(f"wanted a ViViT's config.json (model_type 'vivit'), got {kind!r}")
        written = values.pop("pruned_heads", None) or {}
        pruned = dict(_numbered("pruned_heads", written, "layer → list of heads", _heads))
        heads = values.get("num_attention_heads", cls.num_attention_heads)
        constant = values.pop(_CONSTANT, ())  # layers written with a head of zeros, which transformers wants
        if constant:
            if not isinstance(heads, int) or not 0 < heads <= _LARGEST["num_attention_heads"]:
                raise ConfigError(f"num_attention_heads must be a positive integer, got {heads!r:.100}")
            if not isinstance(constant, (list, tuple)) or not all(type(layer) is int for layer in constant):
                raise ConfigError(f"{_CONSTANT} must be a list of layers, got {constant!r:.100}")
            pruned |= {layer: list(range(heads)) for layer in constant}
        label2id = values.pop("label2id", None)
        if label2id and not values.get("id2label"):
            if not isinstance(label2id, dict):
                raise ConfigError(f"label2id must be name → class index, got {label2id!r:.200}")
            try:
                values["id2label"] = {index: name for name, index in label2id.items()}
            except TypeError as error:
                raise ConfigError(f"label2id must be name → class index, got {label2id!r:.200}") from error
        implementation = values.pop("_attn_implementation", None) or values.pop("attn_implementation", None)
        extra = {name: values.pop(name) for name in list(values) if name in _FOREIGN or name.startswith("_")}
        if implementation in ATTENTION_IMPLEMENTATIONS:
            values["attn_implementation"] = implementation
        if isinstance(values.get("image_size"), (list, tuple)):
            sides = values["image_size"]
            if len(sides) != 2 or sides[0] != sides[1]:
                raise ConfigError(f"image_size must be square, one number or two equal ones, got {sides!r:.100}")
            values["image_size"] = sides[0]
        if values.get("id2label"):
            values.pop("num_labels", None)  # transformers derives it from the names
        if values.pop("quantization_config", None):
            raise ConfigError("this checkpoint is quantised, which is not supported; save it in float first")
        unknown = set(values) - {entry.name for entry in fields(cls)} | ({"extra"} & set(values))
        if unknown:  # a file may come from a fork or a newer release: it loads, but never in silence
            warnings.warn(f"{_unknown_message(unknown)}; kept, but without effect", CheckpointWarning, stacklevel=2)
            extra |= {name: values.pop(name) for name in unknown}
        return cls(**values, pruned_heads=pruned, extra=extra)

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str] | Checkpoint, **where: Any) -> VivitConfig:
        """Read the configuration of a directory, a Hub id, ``"bundled"`` or ``"planted"``.

        Args:
            name: the checkpoint.
            **where: ``revision``, ``cache_dir``, ``local_files_only``, ``token``.

        Raises:
            CheckpointNotFoundError: there is no such checkpoint.
            ConfigError: its configuration is not a ViViT's.
        """
        return cls.from_dict(with_kinetics_labels(Checkpoint.open(name, **where).config))

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Write ``config.json`` into a directory, made where absent."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"
        (Path(directory) / "config.json").write_text(text, encoding="utf-8")

    def _pruned_fields(self) -> dict[str, Any]:
        """Return ``pruned_heads`` as transformers 4 reads it, which leaves each layer a head at least."""
        constant = [layer for layer, heads in self.pruned_heads.items() if len(heads) == self.num_attention_heads]
        written = {
            str(layer): list(heads[1:] if layer in constant else heads) for layer, heads in self.pruned_heads.items()
        }
        return {"pruned_heads": written, **({_CONSTANT: constant} if constant else {})}

    def to_dict(self) -> dict[str, Any]:
        """Return the contents of a ``config.json`` that transformers reads."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        for name in ("extra", "attn_implementation", "num_labels", "pruned_heads"):
            values.pop(name)
        own = written_fields(self)
        values = {name: value for name, value in values.items() if name in own or name not in _VARIANT_NAMES}
        if self.pruned_heads:
            values |= self._pruned_fields()
        values["tubelet_size"] = list(self.tubelet_size)
        values["id2label"] = {str(index): name for index, name in (self.id2label or {}).items()}
        values["label2id"] = self.label2id
        if self.problem_type is None:
            values.pop("problem_type")
        if self.pooler_act == "tanh":  # transformers 4 knows neither field, and so no other value
            values.pop("pooler_act")
        if self.pooler_output_size is None:
            values.pop("pooler_output_size")
        if "video_size" in self.extra:
            values["video_size"] = [self.num_frames, self.image_size, self.image_size]
        if self.label_groups is None:
            values.pop("label_groups")
        return {**self.extra, "model_type": _OWN_TYPE if own else "vivit", **values}


def _numbered(name: str, given: Any, form: str, convert: Callable[[Any], Any]) -> list[tuple[int, Any]]:
    """Return the entries of a mapping from numbers, which JSON writes as text."""
    if not isinstance(given, Mapping):
        raise ConfigError(f"{name} must be {form}, got a {type(given).__name__}: {given!r:.200}")
    entries = []
    for index, value in given.items():
        try:
            entries.append((int(str(index)), convert(value)))  # "True" and "1.5" are no numbers of classes
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{name} must be {form}, got {index!r:.100} → {value!r:.100}") from error
    return entries


def _heads(heads: Any) -> list[int]:
    """Return heads in order; the caller turns what they are not into a ConfigError."""
    plain: list[Any] = [None if isinstance(head, bool) else head for head in heads]
    return sorted({operator.index(head) for head in plain})


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name}={value!r:.100} is not known; choose one of {', '.join(choices)}")


def _unknown_message(names: set[str]) -> str:
    known = [entry.name for entry in fields(VivitConfig)]
    hints = []
    for name in sorted(names):
        near = difflib.get_close_matches(name, known, n=1)
        hints.append(f"{name!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
    return f"not a field of a ViViT configuration: {', '.join(hints)}"
