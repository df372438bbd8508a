import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivit_lab.errors import ConfigError, InputError
from vivit_lab.training import PRESETS
from vivit_lab.training.config import preset_by_name
from vivit_lab.training.loop import learning_rate

# the released configurations: batch, epochs, warm-up epochs, rate, droplayer, smoothing, mixup, colour, stride
PAPER = {
    "kinetics400": (64, 30, 2.5, 0.1, 0.0, 0.0, 0.0, 0.8, 2),
    "epic_kitchens": (64, 50, 2.5, 0.5, 0.2, 0.2, 0.1, 0.0, 1),
    "something_something_v2": (64, 35, 2.5, 0.4, 0.3, 0.3, 0.3, 0.0, 1),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_presets_are_the_papers(name):
    preset = PRESETS[name]
    config = preset.config(6400)
    assert PAPER[name] == (
        config.batch_size,
        config.steps / 100,
        config.warmup_steps / 100,
        config.learning_rate,
        config.stochastic_depth,
        config.label_smoothing,
        config.mixup,
        preset.augmentation.colour,
        preset.augmentation.stride[1],
    )
    assert (config.optimizer, config.momentum, config.weight_decay, config.max_grad_norm) == ("sgd", 0.9, 0.0, 1.0)
    assert preset.augmentation.scale == (0.9, 1.33)
    assert preset.augmentation.flip == "auto"
    assert learning_rate(config.steps - 1, config) == pytest.approx(0, abs=1e-9)
    assert "Arnab et al. 2021" in preset.about


@given(
    st.sampled_from(sorted(PRESETS)), st.integers(1, 5000), st.floats(0.1, 60), st.integers(1, 70), st.integers(1, 4)
)
def test_epochs_become_steps_and_sgd_follows_the_batch(name, clips, epochs, batch, accumulate):
    preset = PRESETS[name]
    config = preset.config(clips, epochs=epochs, batch_size=batch, accumulate=accumulate)
    update = batch * accumulate
    assert config.steps == max(math.ceil(epochs * clips / update), 1)
    assert 0 <= config.warmup_steps < config.steps
    assert config.evaluate_every == config.checkpoint_every == max(math.ceil(clips / update), 1)
    base = preset.training["learning_rate"]
    assert config.learning_rate == pytest.approx(base * update / 64 if preset.scale_rate else base)
    assert preset.config(clips, learning_rate=0.3, batch_size=batch).learning_rate == 0.3


def test_processes_make_an_update_larger():
    config = PRESETS["kinetics400"].config(640, epochs=1, batch_size=8, processes=4)
    assert (config.steps, config.learning_rate) == (20, pytest.approx(0.05))


def test_steps_go_in_place_of_epochs():
    assert PRESETS["small"].config(100, steps=7).steps == 7
    with pytest.raises(ConfigError, match=r"give epochs or steps, not both, got epochs=3 and steps=7"):
        PRESETS["small"].config(100, epochs=3, steps=7)


def test_what_is_not_known_is_refused():
    with pytest.raises(ConfigError, match=r"no preset 'imagenet'; choose one of small, kinetics400"):
        preset_by_name("imagenet")
    with pytest.raises(ConfigError, match=r"training has no field flop; the fields are steps"):
        preset_by_name("small").config(10, flop=1)
    with pytest.raises(InputError, match=r"wanted clips and a positive number of epochs, got 0 and 20"):
        preset_by_name("small").config(0)
    with pytest.raises(InputError, match=r"a positive number of epochs, got 10 and 0"):
        preset_by_name("small").config(10, epochs=0)
