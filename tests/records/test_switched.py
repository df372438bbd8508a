"""A flag that several threads need off comes back on when the last of them leaves, and not before."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from tests.attribution.naive import random_model
from tests.model.tiny import clips
from vivit_lab.records import record_attention
from vivit_lab.records.attention import Switch, evaluating
from vivit_lab.records.values import frozen


def some(*states):
    return [SimpleNamespace(on=state) for state in states]


def states(objects):
    return [one.on for one in objects]


def test_what_was_on_comes_back_and_nothing_else():
    switch, objects = Switch("on"), some(True, False, True)
    with switch.off(objects):
        assert states(objects) == [False, False, False]
    assert states(objects) == [True, False, True]
    with pytest.raises(KeyError, match="x"), switch.off(objects):
        raise KeyError("x")
    assert states(objects) == [True, False, True]


def test_the_last_to_leave_restores_in_any_order():
    switch, objects = Switch("on"), some(True, False)
    first, second = switch.off(objects), switch.off(objects[:1])
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert states(objects) == [False, False]
    second.__exit__(None, None, None)
    assert states(objects) == [True, False]


def test_what_is_switched_on_meanwhile_is_switched_off_for_the_next():
    switch, objects = Switch("on"), some(True, False)
    with switch.off(objects):
        objects[1].on = True
        with switch.off(objects):
            assert states(objects) == [False, False]
        assert states(objects) == [False, True]
    assert states(objects) == [True, True]


@pytest.mark.parametrize("enter", [evaluating, frozen])
def test_a_thread_that_leaves_does_not_wake_the_model_of_another(enter):
    model = random_model().train()
    entered, left = threading.Event(), threading.Event()

    def flags():
        return [part.training for part in model.modules()], [part.requires_grad for part in model.parameters()]

    awake = flags()

    def other():
        with enter(model):
            entered.set()
            assert left.wait(10)
            return flags()

    with ThreadPoolExecutor(1) as pool:
        with enter(model):
            seen = pool.submit(other)
            assert entered.wait(10)
            asleep = flags()
        left.set()
        assert seen.result() == asleep
    assert asleep != awake
    assert flags() == awake


def test_threads_that_record_a_training_model_never_see_dropout():
    model = random_model(hidden_dropout_prob=0.5)
    pixels = clips(1)
    want = record_attention(model, pixels).rows(2, 0)
    model.train()
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda _: record_attention(model, pixels).rows(2, 0), range(60)))
    for rows in got:
        torch.testing.assert_close(rows, want)
    assert all(module.training for module in model.modules())
