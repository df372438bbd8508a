"""A tiny model, clips and configuration that the tests of training share."""

import torch
from torch.utils.data import Dataset

from vivit_lab.families import VivitForVideoClassification
from vivit_lab.model import VivitConfig
from vivit_lab.training import TrainingConfig

SHAPE = VivitConfig(
    image_size=8,
    num_frames=4,
    tubelet_size=(2, 4, 4),
    hidden_size=16,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=32,
    num_labels=3,
    hidden_dropout_prob=0.1,
    attention_probs_dropout_prob=0.1,
)
PLAIN = TrainingConfig(steps=12, batch_size=4, warmup_steps=2, log_every=3)


class Clips(Dataset):
    """Clips whose label is the channel that is brightest: learned in a few steps."""

    def __init__(self, count=24):
        generator = torch.Generator().manual_seed(0)
        self.pixels = torch.randn(count, 4, 3, 8, 8, generator=generator) * 0.1
        self.labels = torch.arange(count) % 3
        for index, label in enumerate(self.labels.tolist()):
            self.pixels[index, :, label] += 1

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.pixels[index], int(self.labels[index])


class CutOff(Clips):
    """The same clips from a disk that fails after a while."""

    def __init__(self, after):
        super().__init__()
        self.left = after

    def __getitem__(self, index):
        self.left -= 1
        if self.left < 0:
            raise OSError("the disk is gone")
        return super().__getitem__(index)


def model(dropout=True, seed=0):
    torch.manual_seed(seed)
    shape = SHAPE if dropout else SHAPE.replace(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return VivitForVideoClassification(shape)
