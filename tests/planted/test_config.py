"""Configurations refuse what they cannot draw; levels add up; opposite classes are opposite."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivit_lab.errors import ConfigError, InputError
from vivit_lab.planted import PlantedConfig
from vivit_lab.planted.scene import DIRECTIONS, LABELS, LEVELS, SLOTS, opposite

SIZES = st.builds(
    PlantedConfig, frames=st.integers(8, 64), size=st.integers(32, 256), level=st.integers(0, len(LEVELS) - 1)
)


def test_there_are_eight_classes_each_with_its_opposite():
    assert len(LABELS) == len(set(LABELS)) == len(set(DIRECTIONS)) == 8
    names = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
    for label, name in enumerate(LABELS):
        assert DIRECTIONS[label] == tuple(np.sum([names[part] for part in name.split("-")], axis=0))
        back = opposite(label)
        assert opposite(back) == label
        assert tuple(-step for step in DIRECTIONS[back]) == DIRECTIONS[label]


@pytest.mark.parametrize("label", [-1, 8])
def test_there_is_no_opposite_of_no_class(label):
    with pytest.raises(InputError, match=rf"label must lie in 0 … 7, got {label}"):
        opposite(label)


def test_each_level_is_the_one_before_and_more():
    for easy, hard in pairwise(LEVELS):
        assert easy.moving_decoys <= hard.moving_decoys
        assert easy.noise <= hard.noise
        assert easy.bars <= hard.bars
        assert easy.shake <= hard.shake
        assert easy != hard
    assert LEVELS[0].moving_decoys == 0
    assert LEVELS[-1].moving_decoys == SLOTS - 1


@given(SIZES)
def test_windows_fit_into_the_clip_and_ways_into_the_frame(config):
    slow, fast = config.speeds
    assert 1 <= slow < fast
    assert config.moves >= 2
    if not config.difficulty.long:
        assert config.moves * SLOTS <= config.frames - 1
        # shorter than half the torus, or the way back round would be the shorter one
        assert config.moves * fast < config.size / 2
    assert config.frames - config.moves >= SLOTS
    assert 8 <= config.diameters[0] <= config.diameters[1] < config.size / 2


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("frames", 7, r"frames must be an integer from 8, got 7"),
        ("frames", 16.0, r"frames must be an integer from 8, got 16\.0"),
        ("size", 31, r"size must be an integer from 32, got 31"),
        ("size", True, r"size must be an integer from 32, got True"),
        ("level", 4, r"level must be an integer in 0 … 3, got 4"),
        ("level", -1, r"level must be an integer in 0 … 3, got -1"),
        ("seed", -1, r"seed must be an integer from 0, got -1"),
        ("split", "dev", r"split must be one of train, validation, test, got 'dev'"),
        ("rule", "first", r"rule must be one of outlined, odd, got 'first'"),
    ],
)
def test_wrong_fields_are_refused(field, value, message):
    with pytest.raises(ConfigError, match=message):
        PlantedConfig(**{field: value})


def test_the_outlined_shape_is_the_target_unless_asked_otherwise():
    assert PlantedConfig().rule == "outlined"
    assert PlantedConfig(**PlantedConfig(rule="odd", level=1).to_dict()) == PlantedConfig(rule="odd", level=1)


def test_numpy_integers_become_plain_ones():
    config = PlantedConfig(size=np.int64(48))
    assert config == PlantedConfig()
    assert type(config.to_dict()["size"]) is int
