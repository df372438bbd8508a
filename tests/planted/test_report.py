"""The report counts what models do that we wrote ourselves; its intervals are Wilson's."""

import json
from types import SimpleNamespace

import pytest
import torch

from tests.planted.laws import SMALL
from vivit_lab.errors import InputError
from vivit_lab.planted import PlantedConfig, planted_clip, planted_report
from vivit_lab.planted.clip import normalise, stack_clips
from vivit_lab.planted.scene import LABELS, opposite
from vivit_lab.statistics import wilson_interval


class Memory:
    """Answers from a book of clips, and "right" to any clip that is not in it."""

    def __init__(self):
        self.book = {}

    def learn(self, pixel_values, label):
        self.book[pixel_values.numpy().tobytes()] = label

    def __call__(self, pixel_values):
        told = [self.book.get(clip.numpy().tobytes(), 0) for clip in pixel_values]
        return SimpleNamespace(logits=torch.nn.functional.one_hot(torch.tensor(told), len(LABELS)).float())


class FirstFrame(torch.nn.Module):
    """Any function of one frame; in bfloat16, to see that the report follows."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(3 * 32 * 32, len(LABELS), dtype=torch.bfloat16))

    def forward(self, pixel_values):
        assert pixel_values.dtype == self.weight.dtype
        return pixel_values[:, 0].flatten(1) @ self.weight


def _knows(config, count, kinds=()):
    """A model that knows clips, and the named counterfactuals of them."""
    model = Memory()
    for index in range(count):
        clip = planted_clip(config, index)
        for version in (clip, *(clip.counterfactual(kind) for kind in kinds)):
            model.learn(normalise(version.frames), version.label)
    return model


def _values(report):
    return {name: rate["hits"] for name, rate in report["rates"].items()}


def test_a_perfect_model_flips_with_the_motion_and_keeps_to_it_in_another_window():
    found = planted_report(_knows(SMALL, 16, ("reverse", "window")), SMALL, 16, seed=1)
    hits = _values(found)
    full = ("accuracy", "reversal_flip", "reversed_accuracy", "moved_window", "moved_window_same")
    assert [hits[name] for name in full] == [16] * 5
    assert hits["decoy"] == 0
    # what it does not know it calls "right": the class of two of the sixteen, and the opposite of other two
    assert (hits["single_frame"], hits["without_target"], hits["backwards_flip"]) == (2, 2, 2)
    assert [row["label_name"] for row in found["classes"]] == list(LABELS)
    assert all(row["reversal_flip"]["hits"] == row["accuracy"]["hits"] == 2 for row in found["classes"])


def test_a_model_that_learnt_clips_by_heart_does_not_pass_for_one_that_sees_motion():
    hits = _values(planted_report(_knows(SMALL, 16), SMALL, 16, seed=1))
    assert hits["accuracy"] == 16
    assert hits["reversal_flip"] == hits["moved_window"] == 2  # those that "right" happens to fit
    assert hits["reversed_accuracy"] == 2


def test_a_model_that_follows_a_decoy_is_found_out():
    model = Memory()
    for index in range(16):
        clip = planted_clip(SMALL, index)
        decoy = clip.scene.decoys[0].direction
        for version in (clip, clip.counterfactual("reverse"), clip.counterfactual("window")):
            model.learn(normalise(version.frames), decoy)
        model.learn(normalise(clip.frames_without_target), decoy)
        model.learn(normalise(clip.frames[::-1]), opposite(decoy))
    hits = _values(planted_report(model, SMALL, 16, seed=1))
    assert hits["accuracy"] == hits["reversal_flip"] == hits["moved_window"] == hits["without_target"] == 0
    assert hits["decoy"] == hits["moved_window_same"] == hits["backwards_flip"] == 16


def test_without_moving_decoys_none_is_followed():
    easy = PlantedConfig(frames=10, size=32, level=0)
    assert _values(planted_report(Memory(), easy, 8))["decoy"] == 0


def test_a_constant_model_is_at_chance_and_flips_nothing():
    found = planted_report(Memory(), SMALL, 24)
    hits = _values(found)
    assert hits["accuracy"] == hits["single_frame"] == hits["shuffled"] == hits["moved_window"] == 3
    assert hits["reversal_flip"] == hits["backwards_flip"] == 0
    assert hits["moved_window_same"] == 24
    assert found["rates"]["accuracy"]["rate"] == found["chance"] == 1 / 8


def test_batches_change_nothing_and_runs_add_up():
    # a module in bfloat16: the report follows its parameters
    model = FirstFrame().eval()
    found = planted_report(model, SMALL, 16)
    first = planted_report(model, SMALL, 16, batch_size=5)
    assert found == first
    later = _values(planted_report(model, SMALL, 8, start=8, seed=3))
    assert later["accuracy"] + _values(planted_report(model, SMALL, 8))["accuracy"] == _values(found)["accuracy"]


def test_the_same_seed_is_the_same_report_in_plain_json():
    model = _knows(SMALL, 8)
    found = planted_report(model, SMALL, 8, seed=2)
    assert json.loads(json.dumps(found)) == found == planted_report(model, SMALL, 8, seed=2)
    assert (found["config"], found["count"], found["start"], found["seed"]) == (SMALL.to_dict(), 8, 0, 2)
    low, high = wilson_interval(8, 8)
    assert found["rates"]["accuracy"] == {"rate": 1.0, "low": low, "high": high, "hits": 8, "count": 8}


def test_fewer_clips_than_classes_leave_classes_out():
    found = planted_report(Memory(), SMALL, 3, start=6)
    assert [row["label"] for row in found["classes"]] == [0, 6, 7]


def test_single_frames_and_orders_are_drawn_anew_for_each_clip():
    seen = []

    def watch(pixel_values):
        seen.append(pixel_values)
        return torch.zeros(len(pixel_values), len(LABELS))

    planted_report(watch, SMALL, 8, batch_size=8)
    plain, still, mixed, back, *_ = seen
    assert torch.equal(still, still[:, :1].expand_as(still))
    shown = [(still[i, 0] == plain[i]).flatten(1).all(1).nonzero()[0].item() for i in range(8)]
    assert len(set(shown)) > 2
    orders = [
        tuple((mixed[i, t] == plain[i]).flatten(1).all(1).nonzero()[0].item() for t in range(10)) for i in range(8)
    ]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len(set(orders)) == 8
    torch.testing.assert_close(back, plain.flip(1))
    reverse = [planted_clip(SMALL, i).counterfactual("reverse") for i in range(8)]
    torch.testing.assert_close(seen[4], stack_clips(reverse)[0])


def test_gradients_are_off():
    model = FirstFrame().eval()
    states = []
    model.register_forward_hook(lambda *_: states.append(torch.is_grad_enabled()))
    planted_report(model, SMALL, 1)
    assert len(states) == 7
    assert not any(states)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "count must be a positive integer, got 0"),
        ({"count": 8, "batch_size": 0}, "batch_size must be a positive integer, got 0"),
        ({"count": 8, "start": -1}, "start must be an integer from 0, got -1"),
    ],
)
def test_counts_that_cannot_be_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        planted_report(Memory(), SMALL, **options)


def test_models_in_training_mode_are_refused():
    model = torch.nn.Sequential(torch.nn.Linear(1, 1)).eval()
    model[0].train()
    with pytest.raises(InputError, match=r"in training mode, where dropout is random: call model\.eval\(\) first"):
        planted_report(model, SMALL, 1)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (torch.zeros(1, 5), r"wanted finite logits \(1, 8\) of the 8 directions, got shape \(1, 5\)"),
        (torch.full((1, 8), float("nan")), r"got shape \(1, 8\) with NaN or infinity"),
        ([0.0] * 8, r"got list; take a model that was trained on planted clips"),
    ],
)
def test_answers_that_are_no_logits_are_refused(answer, message):
    with pytest.raises(InputError, match=message):
        planted_report(lambda _: answer, SMALL, 1)
