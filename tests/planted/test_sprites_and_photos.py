"""Splits share no outline and no photograph; shapes are of one size and centred; crops stay in their range."""

import hashlib
from importlib import resources

import numpy as np
import pytest

from vivit_lab.errors import InputError
from vivit_lab.planted.scene import COUNTS, SPLITS, draw_crop, outline, photographs, render_crop, sprite_alpha


def test_no_two_outlines_are_alike_in_any_split_or_rotation():
    names = [(split, sprite) for split in SPLITS for sprite in range(COUNTS[split])]
    outlines = np.stack([outline(*name) for name in names])
    # turning an outline keeps the sizes of its Fourier coefficients: equal shapes would be at distance 0
    shape = np.abs(np.fft.rfft(outlines, axis=1))[:, 1:20] / 360
    distance = np.linalg.norm(shape[:, None] - shape[None], axis=-1) + np.eye(len(names))
    assert distance.min() > 1e-4


def test_no_photograph_serves_two_splits_and_each_has_its_terms():
    folder = resources.files("vivit_lab.planted") / "photos"
    pictures = [item for item in folder.iterdir() if item.name.endswith(".jpg")]
    terms = (folder / "README.md").read_text(encoding="utf-8")
    digests = {hashlib.sha256(item.read_bytes()).hexdigest() for item in pictures}
    assert len(digests) == len(pictures)
    assert {item.name.split("-")[0] for item in pictures} == set(SPLITS)
    assert {item.name.split("-", 1)[1] for item in pictures} == {
        item.name.split("-", 1)[1] for item in pictures if f"`{item.name}`" in terms
    }
    assert len({item.name.split("-", 1)[1] for item in pictures}) == len(pictures)
    assert sum(len(photographs(split, 32)) for split in SPLITS) == len(pictures)


def test_photographs_of_splits_do_not_resemble_each_other():
    small = [(split, photo[:96, :96].mean(-1)) for split in SPLITS for photo in photographs(split, 32)]
    for mine, ours in small:
        for other, theirs in small:
            if mine != other:
                assert abs(np.corrcoef(ours.ravel(), theirs.ravel())[0, 1]) < 0.6


@pytest.mark.parametrize("sprite", range(0, 100, 9))
@pytest.mark.parametrize("diameter", [8, 13, 15, 40])
def test_shapes_have_the_area_of_a_disc_and_outlines_are_a_part_of_it(sprite, diameter):
    filled = sprite_alpha("test", sprite, diameter, False)
    outlined = sprite_alpha("test", sprite, diameter, True)
    assert filled.shape == outlined.shape
    assert filled.shape[0] % 2 == 1
    assert filled.sum() == pytest.approx(np.pi * diameter**2 / 4, rel=0.04)
    assert np.all(outlined <= filled)
    middle = len(filled) // 2
    assert filled[middle, middle] == 1
    assert outlined[middle, middle] == 0  # the hole is open, at every size and for every outline
    assert 0.4 < outlined.sum() / filled.sum() < 0.85
    # nothing is cut off at the border of the array
    assert max(filled[0].max(), filled[-1].max(), filled[:, 0].max(), filled[:, -1].max()) < 1


def test_crops_are_cut_turned_and_tinted_within_their_range():
    rng = np.random.default_rng(0)
    photos = photographs("train", 40)
    seen = set()
    for _ in range(60):
        crop = draw_crop(rng, len(photos))
        seen.add((crop.photo, crop.turn))
        pixels = render_crop(crop, "train", 42, 40)
        assert pixels.shape == (42, 42, 3)
        assert pixels.dtype == np.float32
        assert pixels.min() >= 80
        assert pixels.max() <= 175
        assert pixels.std() > 0.5
    assert {photo for photo, _ in seen} == set(range(len(photos)))
    assert {turn for _, turn in seen} == set(range(8))


@pytest.mark.parametrize(("split", "sprite"), [("train", -1), ("test", 100), ("dev", 0)])
def test_outlines_that_are_not_there_are_refused(split, sprite):
    with pytest.raises(InputError, match=rf"no outline {sprite} of split '{split}': wanted one of"):
        outline(split, sprite)


def test_photographs_that_are_not_there_are_refused():
    with pytest.raises(InputError, match=r"there are no photographs of split 'dev'"):
        photographs("dev", 48)
