"""What a model costs, from its configuration alone: multiply–accumulate operations of one clip, and parameters."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from vivit_lab.families.vivit import VivitForVideoClassification
from vivit_lab.grid import TokenGrid
from vivit_lab.html import facts_table, report_html, rows_table
from vivit_lab.model.attention import heads_left
from vivit_lab.model.config import VivitConfig, layer_layouts
from vivit_lab.numbers import checked_numbers

__all__ = ["ModelCost", "model_cost"]


@dataclass(frozen=True)
class ModelCost:
    """Operations of one forward pass of one clip, and parameters, of a classifier.

    Args:
        macs: multiply–accumulate operations. Papers print them as FLOPs; a FLOP count of additions and multiplications
            is twice as much.
        parameters: how many numbers are learned.
        parts: the same operations by part: ``"embedding"``, ``"projections"`` (queries, keys, values, output),
            ``"attention"`` (scores and their product with the values), ``"mlp"`` and ``"classifier"``.
    """

    macs: int
    parameters: int
    parts: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.macs / 1e9:.1f} G MACs, {self.parameters / 1e6:.1f} M parameters"

    def _repr_html_(self) -> str:
        rows = [[name, f"{macs / 1e9:.2f}", f"{macs / self.macs:.1%}"] for name, macs in self.parts.items()]
        return report_html(facts_table({"cost": str(self)}), rows_table(["part", "G MACs", "share"], rows))


@checked_numbers(num_frames=(1, None), image_size=(1, None))
def model_cost(config: VivitConfig, *, num_frames: int | None = None, image_size: int | None = None) -> ModelCost:
    """Return what a classifier of a configuration costs; nothing of its size is allocated.

    Counted are the products of matrices and the convolution, exactly; not counted are what is linear in the tokens
    beside them (LayerNorm, softmax, activations, additions).

    Args:
        config: the model; heads that were pruned are not counted.
        num_frames: frames of a clip, where other than the configuration's.
        image_size: height and width of a frame in pixels, where other than the configuration's.

    Raises:
        GridError: the sizes are no whole number of tubelets.

    Example:
        >>> str(model_cost(VivitConfig(num_labels=400)))
        '451.5 G MACs, 89.0 M parameters'
    """
    size = config.image_size if image_size is None else image_size
    frames = config.num_frames if num_frames is None else num_frames
    grid = TokenGrid.from_video(frames, size, size, config.tubelet_size, cls_token=config.grid.cls)
    frames, rows, columns = config.tubelet_size
    width = config.hidden_size
    parts = {
        "embedding": grid.num_tubelets * width * config.num_channels * frames * rows * columns,
        "projections": 0,
        "attention": 0,
        "mlp": 0,
        "classifier": width * (config.num_labels or 0),
    }
    for layer, layout in enumerate(layer_layouts(config, grid)):
        heads = heads_left(config, layer)
        inner = len(heads) * config.head_dim
        parts["projections"] += 4 * layout.tokens * width * inner
        parts["attention"] += 2 * layout.scores(heads, config.num_attention_heads) * config.head_dim
        if _has_mlp(config, layer):
            parts["mlp"] += 2 * layout.tokens * width * config.intermediate_size
    with torch.device("meta"):
        parameters = VivitForVideoClassification(config).num_parameters()
    return ModelCost(sum(parts.values()), parameters, parts)


def _has_mlp(config: VivitConfig, layer: int) -> bool:
    # model 3 has one after the second of each pair of attentions
    return config.variant != "factorized_self_attention_block" or layer % 2 == 1
