"""Dense references: the textbook forward pass in float64, with every pattern in memory and autograd through it."""

import copy
from types import SimpleNamespace

import torch

from tests.model.tiny import TINY
from vivit_lab.families import VivitForVideoClassification
from vivit_lab.model import VivitConfig


def random_model(kind=VivitForVideoClassification, **fields):
    """A tiny model in evaluation mode whose biases, norms and positions are random too."""
    labels = {"num_labels": 5} if kind is VivitForVideoClassification else {}
    model = kind(VivitConfig(**{**TINY, **labels, **fields})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2 or parameter.shape[0] == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def dense(model, pixels, mask=None):
    """The forward pass written out: patterns before the mask (float64, in the graph), states that enter each layer."""
    model = copy.deepcopy(model).double()
    x = model.embed(pixels.double())
    count = len(model.blocks)
    mask = torch.ones(count, 4) if mask is None else mask
    mask = mask.double().reshape(count, -1, 4, 1, 1)
    patterns, states, values, outs = [], [], [], []
    for block, share in zip(model.blocks, mask, strict=True):
        states.append(x)
        attn, h = block.attn, block.ln1(x)
        q, k, v = (layer(h).unflatten(-1, (4, -1)).transpose(1, 2) for layer in (attn.q, attn.k, attn.v))
        pattern = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        x = x + attn.o(((share * pattern) @ v).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.ln2(x))
        patterns.append(pattern)
        values.append(v)
        outs.append(x)
    cls = model.ln_final(x)[:, 0]
    logits = model.classifier(cls) if hasattr(model, "classifier") else None
    return SimpleNamespace(
        model=model, patterns=patterns, states=states, values=values, outs=outs, mask=mask, logits=logits, cls=cls
    )


def gradients(score, tensors):
    """Gradients of the summed scores, zeros where there is no path."""
    return torch.autograd.grad(score.sum(), tensors, retain_graph=True, materialize_grads=True)


def close(got, want, tolerance=1e-5):
    """Compare to the largest value wanted: no entry may differ by more than that fraction of it."""
    assert got.dtype == torch.float32
    scale = want.abs().max()
    assert scale > 0
    assert (got.double() - want).abs().max() <= tolerance * scale
