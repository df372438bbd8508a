"""The models that users call, with Hugging Face's names, arguments and output fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from vivit_lab.errors import ConfigError, InputError
from vivit_lab.model.activations import ACTIVATIONS
from vivit_lab.model.config import VivitConfig
from vivit_lab.model.encoder import Encoded, VivitPreTrainedModel
from vivit_lab.model.outputs import VideoClassifierOutput, VivitModelOutput

__all__ = ["VivitForVideoClassification", "VivitModel"]


class Pooler(nn.Module):
    """``pooler_act`` (tanh) of dense(CLS), or of dense(mean of all tokens) where the model has no CLS.

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: VivitConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.pooler_output_size or config.hidden_size)
        self.activation = ACTIVATIONS[config.pooler_act]

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, d_model) to (batch, ``pooler_output_size``)."""
        return self.activation(self.dense(x))


class VivitModel(VivitPreTrainedModel):
    """The bare ViViT: joint space-time attention over all tubelets and a CLS token (Arnab et al. 2021, model 1).

    Args:
        config: the model's configuration.
        add_pooling_layer: whether to add the pooler, ``pooler_act`` of dense(CLS).

    Example:
        >>> model = VivitModel(VivitConfig(num_hidden_layers=2)).eval()
        >>> model(torch.zeros(1, 32, 3, 224, 224)).last_hidden_state.shape
        torch.Size([1, 3137, 768])
    """

    def __init__(self, config: VivitConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.pooler = Pooler(config) if add_pooling_layer else None
        self.init_weights()

    def forward(
        self,
        pixel_values: Tensor | None = None,
        head_mask: Tensor | None = None,
        output_attentions: bool | Sequence[int] | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool = False,
        return_dict: bool | None = None,
    ) -> Any:
        """Encode a batch of clips.

        Args:
            pixel_values: (batch, frames, channels, height, width), normalised; cast to the model's dtype.
            head_mask: (heads,), (layers, heads) or (layers, 1 or batch, heads, 1, 1); 1 keeps and 0 removes a head;
                differentiable, in every attention implementation.
            output_attentions: True for the patterns of all layers, or a list of layers; those layers alone are computed
                eagerly. 5.67 GB a clip for all of ViViT-B: ``record_attention`` gives the same on demand. None is what
                the checkpoint's configuration says, else False.
            output_hidden_states: also return the embeddings and each block's output; None as above.
            interpolate_pos_encoding: allow other frame counts and pixel sizes; resizes the positions.
            return_dict: False returns a tuple of the fields that are present.

        Returns:
            ``VivitModelOutput``.

        Raises:
            InputError: ``pixel_values``, ``head_mask`` or ``output_attentions`` do not fit the model.
            GridError: frames or pixels are no whole number of tubelets.
            OutOfMemoryBudgetError: the attentions asked for do not fit into the memory that is free.
        """
        encoded = self.encode(
            pixel_values, head_mask, output_attentions, output_hidden_states, interpolate_pos_encoding
        )
        output = self.outputs_of(encoded)
        return output.to_tuple() if return_dict is False else output

    def outputs_of(self, encoded: Encoded) -> VivitModelOutput:
        """Return the output that the backbone's result gives."""
        pooled = None if self.pooler is None else self.pooler(self.summary_of(encoded))
        output = VivitModelOutput(encoded.last_hidden_state, pooled, encoded.hidden_states, encoded.attentions)
        return output.on_grid(encoded.grid) if self.config.spatial_only_baseline else output


class VivitForVideoClassification(VivitPreTrainedModel):
    """A ViViT with a linear classifier on the CLS token.

    Args:
        config: the model's configuration; ``num_labels=0`` leaves the classifier out (logits are then the CLS token).
    """

    def __init__(self, config: VivitConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.classifier = nn.Linear(config.hidden_size, config.num_labels) if config.num_labels else nn.Identity()
        self.init_weights()

    def forward(
        self,
        pixel_values: Tensor | None = None,
        head_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | Sequence[int] | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool = False,
        return_dict: bool | None = None,
    ) -> Any:
        """Classify a batch of clips.

        Args:
            pixel_values: see ``VivitModel.forward``.
            head_mask: see ``VivitModel.forward``.
            labels: (batch,) integer classes, (batch, num_labels) floats for several labels a clip, or (batch,) floats
                for regression; gives the loss that ``problem_type`` names, or else that these imply.
            output_attentions: see ``VivitModel.forward``.
            output_hidden_states: see ``VivitModel.forward``.
            interpolate_pos_encoding: see ``VivitModel.forward``.
            return_dict: see ``VivitModel.forward``.

        Returns:
            ``VideoClassifierOutput``.

        Raises:
            InputError: see ``VivitModel.forward``; or the labels do not fit.
        """
        encoded = self.encode(
            pixel_values, head_mask, output_attentions, output_hidden_states, interpolate_pos_encoding
        )
        output = self.outputs_of(encoded)
        if labels is not None and output.logits is not None:
            output.loss = classification_loss(output.logits, labels, self.config)
        return output.to_tuple() if return_dict is False else output

    def outputs_of(self, encoded: Encoded) -> VideoClassifierOutput:
        """Return the output, without a loss, that the backbone's result gives."""
        logits = self.classifier(self.summary_of(encoded))
        return VideoClassifierOutput(None, logits, encoded.hidden_states, encoded.attentions)

    def split_logits(self, logits: Float[Tensor, "*batch num_labels"]) -> dict[str, Tensor]:
        """Return the logits of each group of classes, where several classifiers stand side by side.

        Args:
            logits: (…, num_labels).

        Returns:
            Name of the group → (…, classes of the group), in the order of ``config.label_groups``.

        Raises:
            ConfigError: the configuration has no ``label_groups``.
        """
        groups = self.config.label_groups
        if groups is None:
            raise ConfigError("this model has one group of classes: config.label_groups is None")
        return dict(zip(groups, logits.split(list(groups.values()), dim=-1), strict=True))


def classification_loss(
    logits: Float[Tensor, "batch num_labels"], labels: Shaped[Tensor, "batch ..."], config: VivitConfig
) -> Float[Tensor, ""]:
    """Return the mean loss: squared error, cross entropy, or binary cross entropy with logits.

    Args:
        logits: (batch, num_labels).
        labels: see ``VivitForVideoClassification.forward``.
        config: names the ``problem_type``; where it is None, one label means regression, integer labels cross entropy,
            and floating-point labels binary cross entropy.

    Raises:
        ConfigError: the model has no classifier.
        InputError: the labels do not have the shape or range that the loss wants.
    """
    count = config.num_labels or 0
    if not count:
        raise ConfigError("labels were given, but the model has no classifier (num_labels=0)")
    kind = config.problem_type
    if kind is None and count == 1:
        kind = "regression"
    elif kind is None:
        kind = "multi_label_classification" if labels.is_floating_point() else "single_label_classification"
    labels = labels.to(logits.device)
    batch = len(logits)
    wanted = {
        "regression": ((batch,), (batch, 1)) if count == 1 else ((batch, count),),
        "single_label_classification": ((batch,), (batch, 1)),
        "multi_label_classification": ((batch, count),),
    }[kind]
    if tuple(labels.shape) not in wanted:
        raise InputError(
            f"{kind} wants labels {' or '.join(map(str, wanted))}, got {tuple(labels.shape)} {labels.dtype}"
        )
    if kind == "regression":
        return functional.mse_loss(logits.reshape(labels.shape), labels.to(logits.dtype))
    if kind == "multi_label_classification":
        return functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    labels = labels.reshape(-1).long()
    if labels.device.type == "cpu" and not torch.compiler.is_compiling() and bool((labels >= count).any()):
        raise InputError(f"labels must lie in 0..{count - 1}, got {labels.tolist()}")
    return functional.cross_entropy(logits, labels)
