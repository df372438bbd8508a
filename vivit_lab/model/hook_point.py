"""A named place in the model where a tensor can be read or changed."""

from __future__ import annotations

from torch import nn

__all__ = ["HookPoint"]


class HookPoint(nn.Identity):
    """The identity, under a name: its module path is the hook's name (``blocks.3.attn.hook_q``).

    ``register_forward_hook`` reads the tensor or replaces it. A hook point without hooks costs one Python call.
    """
