"""Clips look as they did when the bundled classifier was trained on them."""

import hashlib

import numpy as np
import pytest

from vivit_lab.planted import PlantedConfig, planted_clip
from vivit_lab.planted.scene import LEVELS, RULES, SPLITS, draw_scene

SCENES = {
    "outlined": "616e5bc879e49dd9395ea12699a325a2cb3c17d67b661521a208d113570f6c4a",
    "odd": "e6b877332f8023b106b9317d600bc26d3a3ff8085c8de07788b9f55bc3a26494",
}
PIXELS = {
    "outlined": "e0f331078aad7d7b3ba2d11205f8466657b06d8e34048b64795dd1e3c2ad6043",
    "odd": "a8daf6803f7533ed09e23c3af8a7f2441e816db7fa1c8fe4887ff4de3f297c3d",
}


def _configs(rule):
    """40 clips over all levels and splits."""
    return [
        (
            PlantedConfig(level=index % len(LEVELS), split=SPLITS[index % len(SPLITS)], rule=rule, seed=index // 24),
            index,
        )
        for index in range(40)
    ]


@pytest.mark.parametrize("rule", RULES)
def test_scenes_are_drawn_as_ever(rule):
    digest = hashlib.sha256()
    for config, index in _configs(rule):
        scene = draw_scene(config, index, index % 8)
        digest.update(repr((scene.target, scene.decoys, scene.slots, scene.bars, scene.shake)).encode())
        digest.update(repr((scene.background, scene.front, scene.noise_seed)).encode())
    assert digest.hexdigest() == SCENES[rule]


@pytest.mark.parametrize("rule", RULES)
def test_frames_labels_and_masks_are_as_ever(rule):
    digest = hashlib.sha256()
    for config, index in _configs(rule):
        clip = planted_clip(config, index)
        for array in (clip.frames, clip.mask, clip.track, np.array([clip.label, *clip.window])):
            digest.update(np.ascontiguousarray(array).tobytes())
    assert digest.hexdigest() == PIXELS[rule]
