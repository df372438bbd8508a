"""The recipe of the bundled classifier: a small ViViT trained from scratch on planted clips.

Run it as ``python -m vivit_lab.training.planted_classifier --out DIRECTORY``; or, with a share of the batch in each of
many processes, under ``accelerate launch -m`` or ``torchrun -m``: on two cores, two are quicker than one.
"""

from __future__ import annotations

import argparse
import os
from bisect import bisect_right
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vivit_lab.errors import InputError
from vivit_lab.families.vivit import VivitForVideoClassification
from vivit_lab.model.config import VivitConfig
from vivit_lab.planted.clip import PlantedDataset
from vivit_lab.planted.scene import LABELS, LEVELS, PlantedConfig
from vivit_lab.processing.processor import VivitImageProcessor
from vivit_lab.processing.sampling import note_sampling
from vivit_lab.training.config import TrainingConfig
from vivit_lab.training.loop import TrainingResult, train

__all__ = [
    "RECIPE",
    "STAGES",
    "Curriculum",
    "build_planted_model",
    "start_motion_filters",
    "train_planted_classifier",
]

#: From which share of the run on clips come from which levels, each as likely as it is often named.
STAGES = ((0.0, (0,)), (0.05, (0, 1)), (0.1, (0, 1, 2, 3)), (0.2, (1, 2, 3, 3, 3)))

RECIPE = TrainingConfig(
    steps=5000,
    batch_size=32,
    learning_rate=1e-3,
    warmup_steps=50,
    weight_decay=0.02,
    label_smoothing=0.05,
    stochastic_depth=0.02,
    shuffle=False,
    num_workers=1,
    log_every=50,
    evaluate_every=500,
    checkpoint_every=250,
)

_VALIDATION_CLIPS = 320


class Curriculum(Dataset[tuple[Tensor, int]]):
    """Planted clips that get harder in the course of a run; each is seen once.

    Args:
        length: clips of the whole run.
        config: frames, size, rule and seed; split and level are set here.
        stages: (share of the run from which on, levels), beginning at 0.

    Raises:
        InputError: the stages do not begin at 0 or do not rise, or name a level there is not.
    """

    def __init__(
        self,
        length: int,
        config: PlantedConfig,
        stages: tuple[tuple[float, tuple[int, ...]], ...] = STAGES,
    ) -> None:
        starts = [start for start, _ in stages]
        if not stages or starts[0] != 0 or starts != sorted(set(starts)):
            raise InputError(f"stages must begin at 0 and rise, got {starts}")
        if wrong := [level for _, levels in stages for level in levels if not 0 <= level < len(LEVELS)]:
            raise InputError(f"stages name the levels {wrong}; there are 0 … {len(LEVELS) - 1}")
        self.length, self.config, self.stages = length, config, stages
        self._starts = [start * length for start in starts]

    def __len__(self) -> int:
        return self.length

    def level(self, item: int) -> int:
        """Return the level of an item."""
        levels = self.stages[bisect_right(self._starts, item) - 1][1]
        return levels[int(np.random.default_rng([self.config.seed, item, 7]).integers(len(levels)))]

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        if not 0 <= item < self.length:
            raise IndexError(f"item {item} of a curriculum of {self.length} clips")
        return _dataset(self.config, self.level(item), "train", self.length)[item]


def _dataset(config: PlantedConfig, level: int, split: str, length: int) -> PlantedDataset:
    return PlantedDataset(PlantedConfig(**{**config.to_dict(), "level": level, "split": split}), length)


def build_planted_model(
    config: PlantedConfig, *, hidden_size: int = 96, layers: int = 6, heads: int = 6, seed: int = 0
) -> VivitForVideoClassification:
    """Return a new classifier for planted clips: tubelets of 2 frames × 8 × 8 pixels, with motion filters started.

    Args:
        config: gives frames and size.
        hidden_size: width of the residual stream; the MLP is twice as wide.
        layers: number of blocks.
        heads: heads in a block.
        seed: of the initial weights.
    """
    shape = VivitConfig(
        image_size=config.size,
        num_frames=config.frames,
        tubelet_size=(2, 8, 8),
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=2 * hidden_size,
        hidden_act="gelu",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.08,  # 0.02, made for wider models, leaves this one's MLPs nearly linear: long at chance
        id2label=dict(enumerate(LABELS)),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VivitForVideoClassification(shape)
        start_motion_filters(model)
    return model


def start_motion_filters(model: VivitForVideoClassification, gain: float = 4.0) -> None:
    """Start half of the tubelet filters as differences of two frames; the rest stay as they were drawn.

    From filters drawn frame by frame, what moves and what rests look alike for as long as no filter has found
    the difference by itself; a run then begins with a long plateau at chance.

    Args:
        model: its tubelets must span two frames.
        gain: how much larger these filters are than the others: differences of frames are small.

    Raises:
        InputError: the tubelets do not span two frames.
    """
    weight = model.embed.projection.weight
    if weight.shape[2] != 2:
        raise InputError(f"motion filters want tubelets of 2 frames, the model's have {weight.shape[2]}")
    half = len(weight) // 2
    with torch.no_grad():
        weight[:half, :, 0] = -weight[:half, :, 1]
        weight[:half] *= gain


def train_planted_classifier(
    out: str | Path,
    recipe: TrainingConfig = RECIPE,
    config: PlantedConfig | None = None,
    *,
    model: VivitForVideoClassification | None = None,
    resume: bool = False,
    cpu: bool = False,
    progress: bool | None = None,
) -> TrainingResult:
    """Train a classifier on planted clips from scratch and save it with its processor.

    Args:
        out: a directory.
        recipe: how to train.
        config: which clips (frames, size, rule, seed); the defaults are those of the bundled classifier.
        model: a trained one to go on from, on the mixture of levels that a run ends with; by default a new
            ``build_planted_model`` and all stages.
        resume: continue a run that was cut off.
        cpu: stay on the CPU although there is a GPU.
        progress: show a bar; None shows it on a terminal.

    Raises:
        InputError, ConfigError, MissingExtraError: see ``train``.
    """
    config = config or PlantedConfig(rule="outlined")
    stages = STAGES if model is None else ((0.0, STAGES[-1][1]),)
    model = model if model is not None else build_planted_model(config, seed=recipe.seed)
    world = int(os.environ.get("WORLD_SIZE", "1"))  # set by ``accelerate launch``: each process takes its own clips
    data = Curriculum(recipe.steps * recipe.batch_size * recipe.accumulate * world, config, stages)
    evaluation = _dataset(config, len(LEVELS) - 1, "validation", _VALIDATION_CLIPS)
    result = train(model, data, recipe, out, evaluation=evaluation, resume=resume, cpu=cpu, progress=progress)
    size = {"height": config.size, "width": config.size}
    processor = VivitImageProcessor.trained_range(size={"shortest_edge": config.size}, crop_size=size)
    note_sampling(processor, config.frames, 1).save_pretrained(out)
    return result


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="directory of the run")
    parser.add_argument("--steps", type=int, default=RECIPE.steps, help="updates")
    parser.add_argument("--batch-size", type=int, default=RECIPE.batch_size, help="clips a step, in each process")
    parser.add_argument("--learning-rate", type=float, default=RECIPE.learning_rate, help="the highest")
    parser.add_argument("--seed", type=int, default=RECIPE.seed, help="of weights and clips")
    parser.add_argument("--init", help="a directory with a model to go on from, with hard clips from the start")
    parser.add_argument("--resume", action="store_true", help="continue a run that was cut off")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    arguments = parser.parse_args()
    recipe = replace(
        RECIPE,
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
    )
    model = VivitForVideoClassification.from_pretrained(arguments.init) if arguments.init else None
    config = PlantedConfig(seed=arguments.seed)
    result = train_planted_classifier(
        arguments.out, recipe, config, model=model, resume=arguments.resume, cpu=arguments.cpu
    )
    print(f"{result.directory}: accuracy {result.accuracy} on validation clips after {result.seconds / 60:.1f} min")


if __name__ == "__main__":
    main()
