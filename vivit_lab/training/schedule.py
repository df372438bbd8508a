"""The learning rate as a function of the step."""

from __future__ import annotations

import math

from vivit_lab.training.config import TrainingConfig

__all__ = ["learning_rate"]


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Return the learning rate of update ``step``, counted from 0: a linear rise, then half a cosine.

    Args:
        step: 0 … ``config.steps - 1``.
        config: gives the highest rate, the length of the rise, and what share is left at the end.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - 1 - config.warmup_steps)
    left = config.final_learning_rate
    return config.learning_rate * (left + (1 - left) * (1 + math.cos(math.pi * done)) / 2)
