"""One pre-norm transformer block."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from vivit_lab.model.activations import ACTIVATIONS
from vivit_lab.model.attention import Attention, AttentionParts
from vivit_lab.model.config import VivitConfig

__all__ = ["MLP", "Block"]


class MLP(nn.Module):
    """Two linear layers with an activation between.

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: VivitConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, token, d_model) to the same shape."""
        return self.dropout(self.fc2(self.dropout(self.activation(self.fc1(x)))))


class Block(nn.Module):
    """x + attention(LN(x)), then x + MLP(LN(x)).

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: VivitConfig) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attn = Attention(config)
        self.ln2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        x: Tensor,
        head_mask: Tensor | None = None,
        need_pattern: bool = False,
        collect: Callable[[AttentionParts], None] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the residual stream (batch, token, d_model), and the pattern where it was asked for.

        The arguments are those of ``Attention.forward``.
        """
        attended, pattern = self.attn(self.ln1(x), head_mask, need_pattern, collect)
        x = x + self.dropout(attended)
        return x + self.mlp(self.ln2(x)), pattern
