import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivit_lab.errors import ConfigError
from vivit_lab.training import TrainingConfig
from vivit_lab.training.loop import learning_rate

RUNS = st.integers(1, 300).flatmap(
    lambda steps: st.builds(
        TrainingConfig,
        steps=st.just(steps),
        warmup_steps=st.integers(0, steps - 1),
        learning_rate=st.floats(1e-6, 1),
        final_learning_rate=st.floats(0, 1),
    )
)


@given(RUNS)
def test_the_rate_rises_to_the_highest_and_falls_to_the_last(config):
    rates = [learning_rate(step, config) for step in range(config.steps)]
    rising, falling = rates[: config.warmup_steps], rates[config.warmup_steps :]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    assert max(rates) == pytest.approx(config.learning_rate)
    assert min(rates) >= 0
    if len(falling) > 1:
        assert rates[-1] == pytest.approx(config.learning_rate * config.final_learning_rate, abs=1e-12)


def test_the_rate_is_linear_then_half_a_cosine():
    config = TrainingConfig(steps=105, warmup_steps=4, learning_rate=2.0, final_learning_rate=0.0)
    assert [learning_rate(step, config) for step in range(4)] == [0.5, 1.0, 1.5, 2.0]
    assert learning_rate(4, config) == 2.0
    assert learning_rate(54, config) == pytest.approx(1.0)
    assert learning_rate(29, config) == pytest.approx(1 + math.cos(math.pi / 4))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("steps", 0, r"steps must be an integer of at least 1, got 0"),
        ("batch_size", 2.5, r"batch_size must be an integer, got 2\.5"),
        ("seed", -1, r"seed must be an integer from 0, got -1"),
        ("num_workers", True, r"num_workers must be an integer, got True"),
        ("warmup_steps", 1000, r"warmup_steps=1000 must be fewer than steps=1000"),
        ("label_smoothing", 1.5, r"label_smoothing must lie in 0 … 1, got 1\.5"),
        ("final_learning_rate", -0.1, r"final_learning_rate must lie in 0 … 1"),
        ("stochastic_depth", float("nan"), "stochastic_depth must be a finite number, got nan"),
        ("stochastic_depth", 1.0, r"stochastic_depth must lie in 0 … 1 \(1 excluded\), got 1\.0"),
        ("weight_decay", -1, r"weight_decay must not be negative, got -1"),
        ("mixup", float("nan"), r"mixup must be a finite number, got nan"),
        ("learning_rate", 0, r"learning_rate must be positive, got 0"),
        ("max_grad_norm", 0, r"max_grad_norm must be positive or None, got 0"),
        ("betas", (0.9, 1.0), r"betas must be two numbers in 0 … 1"),
        ("betas", (0.9,), "betas must be 2 numbers"),
        ("optimizer", "adam", r"optimizer='adam' is not known; choose one of adamw, sgd"),
        ("momentum", 1.0, r"momentum must lie in 0 … 1 \(1 excluded\), got 1\.0"),
        ("layer_decay", 0.0, r"layer_decay must lie in 0 … 1 \(0 excluded\), got 0\.0"),
        ("freeze_layers", -1, r"freeze_layers must be an integer of at least 0, got -1"),
        ("freeze_backbone", 1, r"freeze_backbone must be True or False, got 1"),
        ("mixed_precision", "half", r"mixed_precision='half' is not known; choose one of no, bf16, fp16"),
    ],
)
def test_wrong_fields_are_refused(field, value, message):
    with pytest.raises(ConfigError, match=message):
        TrainingConfig(**{field: value})


def test_differences_name_what_changes_the_result_and_nothing_else():
    config = TrainingConfig()
    assert replace(config, log_every=7, checkpoint_every=3, num_workers=2).differences(config.to_dict()) == []
    changed = replace(config, learning_rate=0.5, seed=3)
    assert changed.differences(config.to_dict()) == ["learning_rate: 0.001 then, 0.5 now", "seed: 0 then, 3 now"]


def test_a_run_from_before_a_field_existed_did_what_its_default_does():
    config = TrainingConfig()
    old = {name: value for name, value in config.to_dict().items() if name not in ("optimizer", "layer_decay")}
    assert config.differences(old) == []
    assert replace(config, layer_decay=0.5).differences(old) == ["layer_decay: 1.0 then, 0.5 now"]
