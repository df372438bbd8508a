"""What tests of heads share: a tiny model whose heads all matter, and an eager forward written out by hand."""

import torch

from tests.model.tiny import TINY
from vivit_lab.families import VivitForVideoClassification
from vivit_lab.model import VivitConfig

LAYERS, HEADS, LABELS = TINY["num_hidden_layers"], TINY["num_attention_heads"], 5


def model_of(seed=0, **fields):
    """A tiny classifier whose biases are not zero."""
    torch.manual_seed(seed)
    model = VivitForVideoClassification(VivitConfig(**{**TINY, "num_labels": LABELS, **fields})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2 or parameter.shape[0] == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def naive_logits(model, pixels, context_of):
    """The classifier's logits by explicit matrix products; ``context_of(layer, z)`` edits (batch, head, token, d)."""
    x = model.embed(pixels)
    for layer, block in enumerate(model.blocks):
        attention, h = block.attn, block.ln1(x)
        q, k, v = (
            torch.stack(part(h).split(attention.head_dim, dim=-1), dim=1)
            for part in (attention.q, attention.k, attention.v)
        )
        pattern = torch.softmax(q @ k.transpose(-1, -2) / attention.head_dim**0.5, dim=-1)
        z = context_of(layer, pattern @ v)
        x = x + attention.o(torch.cat(z.unbind(dim=1), dim=-1))
        x = x + block.mlp(block.ln2(x))
    return model.classifier(model.ln_final(x)[:, 0])
