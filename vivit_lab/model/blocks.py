"""One pre-norm transformer block: attention, MLP, LayerNorm with hook points."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vivit_lab.grid import TokenGrid
from vivit_lab.model.attention import Attention, AttentionParts
from vivit_lab.model.config import ACTIVATIONS, VivitConfig
from vivit_lab.model.hooks import HookPoint

__all__ = ["MLP", "Block", "LayerNorm"]


class LayerNorm(nn.LayerNorm):
    """(x - mean) / scale · weight + bias, with scale = √(variance + eps).

    ``hook_scale`` sees the scale (…, 1), ``hook_normalized`` the output. Only a hook that may change the scale makes
    the steps run one by one, which rounds differently in the last place.

    Args:
        size: length of the last axis.
        eps: added to the variance.
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__(size, eps=eps)
        self.hook_scale = HookPoint()
        self.hook_normalized = HookPoint()

    def forward(self, input: Tensor) -> Tensor:
        """Normalise the last axis."""
        if self.hook_scale.edited:
            return self.hook_normalized(self.scaled(input, self.hook_scale(self.scale_of(input))))
        if self.hook_scale.hooked:
            self.hook_scale(self.scale_of(input))
        return self.hook_normalized(super().forward(input))

    def scale_of(self, x: Tensor) -> Tensor:
        """Return √(variance + eps) of the last axis, (…, 1), in the dtype of ``x``."""
        variance = _wide(x).var(dim=-1, keepdim=True, correction=0)
        return torch.sqrt(variance + self.eps).to(x.dtype)

    def scaled(self, x: Tensor, scale: Tensor) -> Tensor:
        """Return (x - mean) / scale · weight + bias for a scale of any origin, broadcast to ``x``."""
        wide = _wide(x)
        normalised = (wide - wide.mean(dim=-1, keepdim=True)) / _wide(scale)
        return (normalised * self.weight + self.bias).to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    """The tensor in float32 where it is narrower, because half precision cannot hold a sum of squares."""
    return x.float() if x.dtype.itemsize < 4 else x


class MLP(nn.Module):
    """Two linear layers with an activation between, and hook points before and after it.

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: VivitConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.hook_pre = HookPoint()
        self.hook_post = HookPoint()

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, token, d_model) to the same shape."""
        hidden = self.hook_post(self.activation(self.hook_pre(self.fc1(x))))
        return self.dropout(self.fc2(self.dropout(hidden)))


class Block(nn.Module):
    """x + attention(LN(x)), then x + MLP(LN(x)), with hook points on the residual stream and both branches.

    Args:
        config: the model's configuration.
        attention: the attention layer; None makes a joint one.
    """

    def __init__(self, config: VivitConfig, attention: Attention | None = None) -> None:
        super().__init__()
        self.ln1 = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attn = Attention(config) if attention is None else attention
        self.ln2 = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.hook_resid_pre = HookPoint()
        self.hook_resid_mid = HookPoint()
        self.hook_resid_post = HookPoint()
        self.hook_attn_out = HookPoint()
        self.hook_mlp_out = HookPoint()

    def forward(
        self,
        x: Tensor,
        head_mask: Tensor | None = None,
        need_pattern: bool = False,
        collect: Callable[[AttentionParts], None] | None = None,
        grid: TokenGrid | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the residual stream (batch, token, d_model), and the pattern where it was asked for.

        The arguments are those of ``Attention.forward``.
        """
        x = self.hook_resid_pre(x)
        attended, pattern = self.attn(self.ln1(x), head_mask, need_pattern, collect, grid)
        x = self.hook_resid_mid(x + self.hook_attn_out(self.dropout(attended)))
        return self.hook_resid_post(x + self.hook_mlp_out(self.mlp(self.ln2(x)))), pattern
