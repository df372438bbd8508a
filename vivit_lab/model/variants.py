"""The four models of the paper, as the layers that they are made of: which tokens each attention layer joins.

``spacetime`` (model 1 of Arnab et al. 2021, https://arxiv.org/abs/2103.15691)
    CLS and all tubelets attend to each other.
``factorized_encoder`` (model 2)
    first ``num_hidden_layers`` layers in which the tubelets of one tubelet row (one time) and a CLS of their own attend
    to each other, then ``num_temporal_layers`` layers over those CLS tokens, one for each time, and a CLS in front.
``factorized_self_attention_block`` (model 3)
    every block attends along one axis, then along the other. No CLS: the classifier reads the mean of all tokens.
``factorized_dot_product_attention`` (model 4)
    in every layer the first half of the heads attends along time and the second half along space. No CLS.

A *layer* is an attention layer, here and wherever layers are counted: head masks, records, ``output_attentions``.
``model.blocks`` holds one block a layer, so model 3 has 2·``num_hidden_layers`` of them: an even one attends along the
first axis of ``attention_order``, the odd one after it along the other and has the MLP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vivit_lab.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vivit_lab.grid import TokenGrid
    from vivit_lab.model.config import VivitConfig

__all__ = [
    "ATTENTION_ORDERS",
    "CLASSIFIERS",
    "VARIANTS",
    "VARIANT_FIELDS",
    "AttentionLayout",
    "check_variant",
    "layer_axes",
    "layer_layouts",
    "written_fields",
]

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
