"""References for measures that take tubelets away: pixels painted by loops, tokens masked out of every attention."""

import itertools
from contextlib import contextmanager

import torch

from tests.attribution.naive import random_model
from vivit_lab.grid import TokenGrid
from vivit_lab.model import attention

#: 4 × 3 × 2 tubelets of 2 frames and 16 × 24 pixels: no two axes alike, so that no two can be mixed up.
WIDE = {"image_size": 48, "num_frames": 8, "tubelet_size": [2, 16, 24]}
GRID = TokenGrid(4, 3, 2, (2, 16, 24))
UNITS = GRID.num_tubelets


def wide_model(**fields):
    """A tiny model whose grid has three different sizes, with a decisive classifier."""
    return random_model(**{**WIDE, **fields})


def wide_clips(batch=2):
    """Random clips with a structure in time and space, so that baselines differ from one another."""
    frames, size = WIDE["num_frames"], WIDE["image_size"]
    return torch.randn(batch, frames, 3, size, size) + torch.randn(batch, frames, 3, 1, 1)


def painted(clip, blank, keep):
    """One clip (frame, channel, row, column) with the tubelets that are not kept (t·h·w) painted over, one by one."""
    out = clip.clone()
    depth, rows, columns = GRID.tubelet
    for index, (t, y, x) in enumerate(itertools.product(*map(range, GRID.shape))):
        if not keep[index]:
            box = (
                slice(t * depth, (t + 1) * depth),
                slice(None),
                slice(y * rows, (y + 1) * rows),
                slice(x * columns, (x + 1) * columns),
            )
            out[box] = blank[box]
    return out


def mean_clip(clip):
    """The clip's mean colour everywhere."""
    return torch.stack([clip[:, channel].mean() for channel in range(3)]).view(1, 3, 1, 1).expand_as(clip)


@contextmanager
def attention_without(keep):
    """Eager attention in which the tubelets that are not kept (t·h·w) get no weight from any query."""
    hidden = torch.cat((torch.zeros(1, dtype=torch.bool), ~torch.as_tensor(keep)))
    whole = attention.attention_pattern

    def masked(query, key, scale):
        scores = query @ key.transpose(-1, -2) * scale
        return scores.masked_fill(hidden, -torch.inf).softmax(-1)

    attention.attention_pattern = masked
    try:
        yield
    finally:
        attention.attention_pattern = whole


def logits_without(model, clip, keep, baseline):
    """Logits (class,) of one clip without some tubelets, by the definition of each baseline."""
    with torch.no_grad():
        if baseline == "drop":
            model.set_attn_implementation("eager")
            with attention_without(keep):
                return model(clip[None]).logits[0]
        assert baseline == "mean"
        return model(painted(clip, mean_clip(clip), keep)[None]).logits[0]
