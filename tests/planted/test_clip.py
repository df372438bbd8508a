"""The truth is where pixels change; one change makes one difference; the same index is the same clip."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.planted.laws import HARD, SMALL, clips, wrapped
from vivit_lab.errors import GridError, InputError
from vivit_lab.grid import TokenGrid
from vivit_lab.planted import PlantedConfig, PlantedDataset, planted_clip
from vivit_lab.planted.clip import normalise, planted_batch, stack_clips
from vivit_lab.planted.scene import DIRECTIONS, LABELS, LEVELS, RULES, draw_scene, opposite

CONFIGS = st.builds(
    PlantedConfig,
    frames=st.integers(8, 20),
    size=st.integers(32, 72),
    level=st.integers(0, len(LEVELS) - 1),
    split=st.sampled_from(["train", "validation", "test"]),
    rule=st.sampled_from(RULES),
    seed=st.integers(0, 5),
)


@settings(max_examples=40)
@given(CONFIGS, st.integers(0, 10**6))
def test_frames_mask_and_track_agree(config, index):
    clip = planted_clip(config, index)
    start, stop = clip.window
    shape = (config.frames, config.size, config.size)
    assert clip.frames.shape == (*shape, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.mask.shape == clip.presence.shape == clip.decoy_mask.shape == shape
    assert 0 <= start < stop <= config.frames
    assert stop - start == config.moves + 1
    # leaving the target out changes pixels inside its silhouette only
    changed = np.any(clip.frames != clip.frames_without_target, axis=-1)
    assert not np.any(changed & ~clip.presence)
    # the mask is the silhouette while it moves, and nothing at other times
    np.testing.assert_array_equal(clip.mask[start:stop], clip.presence[start:stop])
    assert not clip.mask[:start].any()
    assert not clip.mask[stop:].any()
    assert not np.any(clip.decoy_mask & clip.mask)
    # the track moves in the window, in the direction of the class, and rests outside it
    steps = wrapped(np.diff(clip.track - np.array(clip.scene.shake), axis=0), config.size)
    speed = clip.scene.target.speed
    expected = np.zeros_like(steps)
    expected[start : stop - 1] = np.array(DIRECTIONS[clip.label]) * speed
    np.testing.assert_array_equal(steps, expected)


def test_the_mask_is_where_the_target_shows():
    for clip in (*clips(PlantedConfig(level=0), 8), *clips(PlantedConfig(level=0, rule="odd"), 8)):
        changed = np.any(clip.frames != clip.frames_without_target, axis=-1)
        filled = not clip.scene.target.outlined
        share = changed.sum() / clip.presence.sum()
        # an outlined target leaves its hole unchanged, and the faintest rim rounds away
        assert (0.85 if filled else 0.4) < share <= 1


def test_the_track_is_the_middle_of_the_silhouette():
    for clip in clips(PlantedConfig(level=1), 8):
        for frame in (0, 8, 15):
            rows, columns = np.nonzero(clip.presence[frame])
            away = np.stack([rows + 0.5, columns + 0.5], 1) - clip.track[frame]
            assert np.abs(wrapped(away, 48).mean(0)).max() < 1.5  # dented outlines have no exact middle


def test_frame_differences_without_noise_lie_where_something_moves():
    for clip in clips(PlantedConfig(level=1), 8):
        changes = np.any(np.diff(clip.frames.astype(int), axis=0) != 0, axis=-1)
        moving = clip.mask | clip.decoy_mask | clip.presence  # a decoy behind it shows through its hole
        assert not np.any(changes & ~(moving[1:] | moving[:-1]))
        assert changes.any((1, 2)).sum() == 2 * clip.scene.config.moves


def test_nothing_else_moves_on_level_0():
    clip = planted_clip(PlantedConfig(level=0), 4)
    start, stop = clip.window
    assert not clip.decoy_mask.any()
    assert np.all(clip.frames[:start] == clip.frames[0])
    assert np.all(clip.frames[stop:] == clip.frames[-1])
    assert np.any(clip.frames[0] != clip.frames[-1])


def test_the_hardest_level_changes_everywhere_so_frame_differences_do_not_point_at_the_target():
    for clip in clips(HARD, 16):
        difference = np.abs(np.diff(clip.frames.astype(float), axis=0)).mean(-1)
        inside = difference[clip.mask[1:]].sum() / difference.sum()
        assert inside < 0.15


@settings(max_examples=25)
@given(CONFIGS, st.integers(0, 10**6))
def test_reversing_changes_the_label_and_the_targets_pixels_only(config, index):
    clip = planted_clip(config, index)
    back = clip.counterfactual("reverse")
    assert back.label == opposite(clip.label)
    assert back.window == clip.window
    start, stop = clip.window
    shake = np.array(clip.scene.shake)
    track, reversed_track = ((each.track - shake) % config.size for each in (clip, back))
    np.testing.assert_array_equal(reversed_track[start:stop], track[start:stop][::-1])
    changed = np.any(clip.frames != back.frames, axis=-1)
    assert changed.any()
    assert not np.any(changed & ~(clip.presence | back.presence))
    again = back.counterfactual("reverse")
    assert again.scene == clip.scene
    np.testing.assert_array_equal(again.frames, clip.frames)


@settings(max_examples=25)
@given(CONFIGS, st.integers(0, 10**6))
def test_moving_the_window_keeps_the_label_and_the_way(config, index):
    clip = planted_clip(config, index)
    later = clip.counterfactual("window")
    assert later.label == clip.label
    assert later.window != clip.window
    np.testing.assert_array_equal(later.track[0], clip.track[0])
    np.testing.assert_array_equal(later.track[-1], clip.track[-1])
    slots = [actor.slot for actor in (later.scene.target, *later.scene.decoys) if actor.slot is not None]
    assert len(set(slots)) == len(slots)
    thrice = later.counterfactual("window").counterfactual("window")
    assert thrice.scene == clip.scene


def test_reversed_targets_share_all_frames_with_the_clip_but_in_rest_and_motion_of_the_target():
    clip = planted_clip(PlantedConfig(level=0), 9)
    back = clip.counterfactual("reverse")
    start, stop = clip.window
    np.testing.assert_array_equal(back.frames[start:stop], clip.frames[start:stop][::-1])


def test_unknown_counterfactuals_are_refused():
    with pytest.raises(InputError, match=r"counterfactual must be one of reverse, window, got 'mirror'"):
        planted_clip(SMALL, 0).counterfactual("mirror")


def test_the_same_index_is_the_same_clip_in_another_process():
    code = (
        "from vivit_lab.planted.clip import planted_clip; from vivit_lab.planted.scene import PlantedConfig; "
        "import hashlib; clip = planted_clip(PlantedConfig(frames=10, size=32), 7); "
        "print(hashlib.sha256(clip.frames.tobytes()).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    planted_clip(SMALL, 8).frames  # noqa: B018  another clip drawn before does not matter
    assert there == hashlib.sha256(planted_clip(SMALL, 7).frames.tobytes()).hexdigest()


def test_other_indices_seeds_and_splits_are_other_clips():
    drawn = [planted_clip(SMALL, 0), planted_clip(SMALL, 8)]
    drawn += [planted_clip(PlantedConfig(frames=10, size=32, **other), 0) for other in ({"seed": 1}, {"split": "test"})]
    for first in range(len(drawn)):
        for second in range(first):
            assert not np.array_equal(drawn[first].frames, drawn[second].frames)


def test_a_clip_keeps_its_scene_from_level_to_level():
    for index in range(5):
        scenes = [draw_scene(PlantedConfig(level=level), index, 2) for level in range(4)]
        for scene in scenes:
            assert scene.target == scenes[-1].target
            assert scene.background == scenes[-1].background
            assert scene.slots == scenes[-1].slots or scene.config.level == 0
            for mine, hardest in zip(scene.decoys, scenes[-1].decoys, strict=True):
                assert mine.slot in (None, hardest.slot)
                assert (mine.start, mine.sprite) == (hardest.start, hardest.sprite)


def test_noise_is_as_strong_as_the_level_says():
    found = []
    for clip in clips(PlantedConfig(level=2), 8):
        # what rests, and is far from black and white, where noise is cut off
        still = ~(clip.presence.any(0) | clip.decoy_mask.any(0))
        still &= (clip.frames > 40).all((0, 3)) & (clip.frames < 216).all((0, 3))
        values = clip.frames[:, still].astype(float)
        found.append(values.var(0, ddof=1).mean())
        noise = (values - values.mean(0))[..., 0]
        assert abs(np.corrcoef(noise[0], noise[1])[0, 1]) < 0.15  # frames do not share it
    assert np.sqrt(np.mean(found)) == pytest.approx(LEVELS[2].noise, rel=0.03)


def test_bars_hide_a_part_of_the_target_and_its_mask():
    shares = []
    for index in range(24):
        free, barred = (planted_clip(PlantedConfig(level=level), index) for level in (1, 2))
        assert not np.any(barred.presence & ~free.presence)
        shares.append(barred.presence.sum() / free.presence.sum())
    assert min(shares) < 0.9
    assert np.mean(shares) > 0.8  # most of it shows: a bar is narrower than any shape


def test_tokens_get_the_fraction_of_their_pixels():
    clip = planted_clip(PlantedConfig(), 3)
    grid = TokenGrid.from_video(16, 48, 48, (2, 8, 8))
    tokens = clip.token_mask(grid)
    assert tokens.shape == grid.shape
    for t, y, x in ((0, 0, 0), (3, 2, 5), (7, 5, 1)):
        top, left, bottom, right = grid.pixel_box(y, x)
        block = clip.mask[slice(*grid.frame_span(t)), top:bottom, left:right]
        assert tokens[t, y, x] == pytest.approx(block.mean())
    assert tokens.sum() * 2 * 8 * 8 == pytest.approx(clip.mask.sum())
    when = clip.token_window(grid)
    assert when.sum() * 2 == clip.window[1] - clip.window[0]
    np.testing.assert_array_equal(when > 0, [clip.mask[2 * t : 2 * t + 2].any() for t in range(8)])


def test_grids_of_other_videos_are_refused():
    clip = planted_clip(PlantedConfig(), 3)
    with pytest.raises(GridError, match=r"the grid covers 16 frames of \(64, 64\), the clip has 16 of \(48, 48\)"):
        clip.token_mask(TokenGrid.from_video(16, 64, 64, (2, 8, 8)))
    with pytest.raises(GridError, match=r"the grid covers 8 frames, the clip has 16"):
        clip.token_window(TokenGrid.from_video(8, 48, 48, (2, 8, 8)))


@pytest.mark.parametrize(
    ("index", "label", "message"),
    [
        (-1, None, r"index must be an integer from 0, got -1"),
        (1.5, None, r"index must be an integer from 0, got 1\.5"),
        (True, None, r"index must be an integer from 0, got True"),
        (0, 8, r"label must lie in 0 … 7, got 8"),
    ],
)
def test_clips_that_cannot_be_are_refused(index, label, message):
    with pytest.raises(InputError, match=message):
        planted_clip(SMALL, index, label)


def test_what_is_handed_out_twice_cannot_be_changed():
    clip = planted_clip(SMALL, 0)
    for array in (clip.frames, clip.mask, clip.presence, clip.decoy_mask, clip.track, clip.frames_without_target):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_a_clip_says_what_it_is():
    clip = planted_clip(PlantedConfig(split="test"), 6)
    start, stop = clip.window
    assert repr(clip) == (
        f"PlantedClip(test 6, level 3: 'up', 16 frames 48×48, evidence in frames {start} … {stop - 1})"
    )
    as_clip = clip.clip(fps=10)
    np.testing.assert_array_equal(as_clip.frames, clip.frames)
    assert as_clip.end == pytest.approx(1.6)
    told = clip.describe()
    assert told["label_name"] == LABELS[6] == told["target"]["direction"]
    assert told["window"] == told["target"]["window"] == [start, stop]
    assert [decoy["window"] is None for decoy in told["decoys"]] == [False, False, True]


def test_the_dataset_gives_normalised_tensors_and_labels():
    data = PlantedDataset(SMALL, 16, start=3)
    assert len(data) == 16
    pixel_values, label = data[2]
    frames = planted_clip(SMALL, 5).frames
    assert label == 5
    assert pixel_values.dtype == torch.float32
    assert pixel_values.shape == (10, 3, 32, 32)
    assert pixel_values.is_contiguous()
    assert float(pixel_values.min()) >= -1
    assert float(pixel_values.max()) <= 1
    back = ((pixel_values + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(back, frames)
    torch.testing.assert_close(data[-1][0], normalise(planted_clip(SMALL, 18).frames))
    assert sorted(label for _, label in data) == sorted(2 * list(range(8)))
    assert data.clip(2).scene == planted_clip(SMALL, 5).scene


def test_the_dataset_refuses_what_it_has_not():
    with pytest.raises(InputError, match=r"got length=0, start=0"):
        PlantedDataset(SMALL, 0)
    with pytest.raises(InputError, match=r"got length=1, start=-1"):
        PlantedDataset(SMALL, 1, start=-1)
    with pytest.raises(IndexError, match=r"item 4 of a dataset of 4 clips"):
        PlantedDataset(SMALL, 4)[4]


def test_a_batch_is_the_datasets_items_with_their_truth():
    data = PlantedDataset(SMALL, 8)
    pixel_values, labels, drawn = planted_batch(SMALL, [5, 2, 7])
    assert (pixel_values.shape, pixel_values.dtype, labels.dtype) == ((3, 10, 3, 32, 32), torch.float32, torch.int64)
    torch.testing.assert_close(pixel_values, torch.stack([data[item][0] for item in (5, 2, 7)]), rtol=0, atol=0)
    assert labels.tolist() == [clip.label for clip in drawn] == [5, 2, 7]
    assert [clip.scene for clip in drawn] == [data.clip(item).scene for item in (5, 2, 7)]


def test_batches_of_nothing_or_of_two_shapes_are_refused():
    with pytest.raises(InputError, match=r"wanted at least one clip, all of one shape .*, got 0 of \[\]"):
        planted_batch(SMALL, [])
    with pytest.raises(InputError, match=r"got 2 of \[\(10, 32, 32, 3\), \(16, 48, 48, 3\)\]"):
        stack_clips([planted_clip(SMALL, 0), planted_clip(HARD, 0)])


def test_loaders_in_other_processes_give_the_same_clips():
    data = PlantedDataset(SMALL, 4)
    loader = torch.utils.data.DataLoader(data, batch_size=4, num_workers=1, multiprocessing_context="spawn")
    (pixel_values, labels), *rest = loader
    assert not rest
    torch.testing.assert_close(pixel_values, torch.stack([item for item, _ in data]), rtol=0, atol=0)
    assert labels.tolist() == [0, 1, 2, 3]
