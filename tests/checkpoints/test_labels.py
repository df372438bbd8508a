"""The Kinetics-400 names, and when they are used."""

import pytest

from vivit_lab.checkpoints import kinetics400_labels
from vivit_lab.checkpoints.checkpoint import are_placeholders, with_kinetics_labels

# spread over the whole list: an error in one name or place moves those behind it
PLACES = {
    0: "abseiling", 1: "air drumming", 5: "archery", 19: "bench pressing", 31: "bowling", 37: "brushing teeth",
    66: "climbing a rope", 93: "diving cliff", 99: "dribbling basketball", 116: "eating spaghetti", 148: "hammer throw",
    166: "javelin throw", 183: "lunge", 198: "mopping floor", 232: "playing guitar", 255: "pull ups", 260: "push up",
    298: "shot put", 306: "skateboarding", 340: "swimming breast stroke", 346: "tai chi", 358: "throwing discus",
    378: "walking the dog", 397: "yawning", 398: "yoga", 399: "zumba",
}  # fmt: skip


@pytest.mark.parametrize(("index", "name"), PLACES.items())
def test_names_are_at_their_places(index, name):
    assert kinetics400_labels()[index] == name


def test_there_are_400_names_in_alphabetical_order():
    labels = kinetics400_labels()
    assert len(labels) == len(set(labels)) == 400
    assert list(labels) == sorted(labels, key=str.lower)
    assert all(label == label.strip() and label for label in labels)


def placeholders(count):
    return {str(index): f"LABEL_{index}" for index in range(count)}


@pytest.mark.parametrize(
    "config", [{"id2label": placeholders(400)}, {"num_labels": 400}, {"num_labels": 400, "id2label": {}}]
)
def test_400_nameless_classes_are_named(config):
    before = dict(config)
    named = with_kinetics_labels(config)
    assert named["id2label"]["116"] == "eating spaghetti"
    assert named["label2id"]["zumba"] == 399
    assert config == before


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"num_labels": 399},
        {"id2label": placeholders(10)},
        {"id2label": placeholders(399) | {"399": "juggling"}},
        {"id2label": {str(index): f"LABEL_{399 - index}" for index in range(400)}},
    ],
)
def test_others_keep_what_they_have(config):
    assert with_kinetics_labels(config) is config


def test_placeholders_carry_their_own_index():
    assert are_placeholders(None)
    assert are_placeholders({0: "LABEL_0", 1: "LABEL_1"})
    assert not are_placeholders({0: "LABEL_1", 1: "LABEL_0"})
    assert not are_placeholders({0: "cat", 1: "LABEL_1"})
