"""Classes that a mirror image changes are found by their names, and clips get the label of what they show."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.training.tiny_run import SHAPE
from tests.training.videos import PROCESSOR
from vivit_lab.families import VivitForVideoClassification
from vivit_lab.planted.scene import LABELS
from vivit_lab.training import Augmentation, LabelledClip, finetune, mirror_of
from vivit_lab.training.data import RunClips
from vivit_lab.video import MovieWriter


@pytest.mark.parametrize(
    ("classes", "partner"),
    [
        (["moving_left", "moving_right", "jump"], {"moving_left": "moving_right", "moving_right": "moving_left"}),
        (["TurnLeft", "TurnRight"], {"TurnLeft": "TurnRight", "TurnRight": "TurnLeft"}),
        (
            ["Pushing [something] from left to right", "Pushing [something] from right to left"],
            {
                "Pushing [something] from left to right": "Pushing [something] from right to left",
                "Pushing [something] from right to left": "Pushing [something] from left to right",
            },
        ),
        (
            ["spin clockwise", "spin anti-clockwise"],
            {"spin clockwise": "spin anti-clockwise", "spin anti-clockwise": "spin clockwise"},
        ),
        (["cw", "CCW"], {"cw": "CCW", "CCW": "cw"}),
        (["north east", "northwest"], {"north east": "northwest", "northwest": "north east"}),
        (["←", "→", "↑", "↓"], {"←": "→", "→": "←"}),
        (["↖ fast", "↗ fast"], {"↖ fast": "↗ fast", "↗ fast": "↖ fast"}),
        (["swipe_l", "swipe_r"], {"swipe_l": "swipe_r", "swipe_r": "swipe_l"}),
        (["turnleft", "turnright"], {"turnleft": "turnright", "turnright": "turnleft"}),
        (["<-", "->"], {"<-": "->", "->": "<-"}),
        (["Linksabbieger", "Rechtsabbieger"], {"Linksabbieger": "Rechtsabbieger", "Rechtsabbieger": "Linksabbieger"}),
        (["-90", "90", "C", "C++", "jump!", "jump", "brightleft"], {}),
        (
            ["left 5", "left -5", "right 5", "right -5"],
            {"left 5": "right 5", "right 5": "left 5", "left -5": "right -5", "right -5": "left -5"},
        ),
        (["up", "down", "zoom in", "bright", "leftover", "letter l"], {}),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[0],
)
def test_partners_are_found(classes, partner):
    mirror = mirror_of(classes)
    assert dict(mirror.partner) == partner
    assert mirror.alone == ()
    for name in classes:
        assert mirror.of(name) == partner.get(name, name)
        assert mirror.of(mirror.of(name)) == name


def test_a_class_with_two_possible_images_is_not_mirrored():
    mirror = mirror_of(["Left", "left", "right"])
    assert dict(mirror.partner) == {}
    assert mirror.alone == ("Left", "left", "right")


def test_a_side_without_its_partner_is_not_mirrored():
    mirror = mirror_of(["turn left", "go", "rotate counterclockwise", "drive east"])
    assert mirror.alone == ("turn left", "rotate counterclockwise", "drive east")
    assert [mirror.of(name) for name in ("turn left", "go")] == [None, "go"]
    named = "turn left, rotate counterclockwise, drive east"
    assert mirror.sentences() == [f"clips of classes that a mirror would change are not mirrored: {named}"]


def test_the_planted_directions_have_their_mirror_images():
    mirror = mirror_of(LABELS)
    assert mirror.alone == ()
    upright = {name for name in LABELS if mirror.of(name) == name}
    assert upright == {"up", "down"}
    for name in set(LABELS) - upright:
        swapped = name.replace("left", "#").replace("right", "left").replace("#", "right")
        assert mirror.of(name) == swapped


def test_labels_without_sides_say_nothing():
    assert mirror_of(["abseiling", "air drumming"]).sentences() == []


def move(path, step, seed):
    """A bright bar that moves to one side."""
    random = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    start = random.integers(0, 24)
    with MovieWriter(path, 20, 24, end=1.2) as movie:
        for number in range(12):
            frame = random.integers(0, 40, (20, 24, 3), dtype=np.uint8)
            columns = (start + step * number + np.arange(6)) % 24
            frame[:, columns] += 200
            movie.write(frame, number / 10)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("sides")
    for number in range(12):
        move(root / "moving_left" / f"{number}.mp4", -2, number)
        move(root / "moving_right" / f"{number}.mp4", 2, number + 100)
    return root


def test_a_mirrored_clip_has_the_label_of_what_it_shows(tmp_path):
    """The side that is bright, measured in the pixels, is the label's, mirrored or not."""
    clips = []
    for side, name in enumerate(("light left", "light right")):
        path = tmp_path / f"{side}.mp4"
        with MovieWriter(path, 20, 24, end=0.4) as movie:
            for number in range(4):
                frame = np.zeros((20, 24, 3), np.uint8)
                frame[:, 12 * side : 12 * side + 12] = 200
                movie.write(frame, number / 10)
        clips.append(LabelledClip(path, name))
    plain = replace(Augmentation.none(stride=1), flip="auto")
    run = RunClips(clips, ["light left", "light right"], 40, 4, PROCESSOR, plain)
    seen = set()
    for item in range(40):
        pixels, label = run[item]
        assert int(pixels[..., 4:].mean() > pixels[..., :4].mean()) == label
        seen.add((run.clips[run.clip_of(item)].label, label))
    assert len(seen) == 4  # each class, as it is and mirrored


def test_sides_are_learned_with_the_default_settings(folders, tmp_path):
    torch.manual_seed(0)
    start = VivitForVideoClassification(SHAPE.replace(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    settings = {"learning_rate": 5e-3, "layer_decay": 1.0, "steps": 200, "views": 1, "cpu": True, "progress": False}
    result = finetune(start, PROCESSOR, folders, tmp_path / "run", **settings)
    assert any("get each other's label: moving_left and moving_right" in line for line in result.summary())
    assert result.report is not None
    assert result.report.accuracy > 0.7
    low, high = result.report.accuracy_interval
    assert 0 <= low < result.report.accuracy <= high <= 1
    assert f"[{low:.3f}, {high:.3f}]" in result.summary()[-1]


def test_a_number_mirrors_all_and_says_so(folders, tmp_path):
    start = VivitForVideoClassification(SHAPE)
    settings = {"steps": 2, "views": 1, "cpu": True, "progress": False, "augmentation": Augmentation(flip=0.5)}
    result = finetune(start, PROCESSOR, folders, tmp_path / "run", **settings)
    assert any("flip=0.5 mirrors clips whose class a mirror changes" in line for line in result.changes)
