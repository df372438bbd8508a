import pytest
import torch

from tests.heads.pruning import model_of
from tests.model.tiny import clips
from vivit_lab.errors import GridError, InputError
from vivit_lab.grid import TokenGrid
from vivit_lab.heads import (
    HeadStatistics,
    Taxonomy,
    clip_set,
    estimate_motion,
    head_statistics,
    planted_motion,
    prune_heads,
)
from vivit_lab.heads.motion import motion_of
from vivit_lab.heads.roles import KINDS
from vivit_lab.planted import PlantedConfig, PlantedDataset, planted_clip

GRID = TokenGrid.from_video(16, 48, 48, (2, 8, 8))


def test_planted_motion_is_where_the_target_is():
    clip = planted_clip(PlantedConfig(split="test", level=0), 3)
    motion = planted_motion([clip], GRID)[0]
    covered = torch.from_numpy(clip.presence.copy()).float().unflatten(0, (8, 2)).mean(dim=1)
    covered = covered.unflatten(2, (6, 8)).unflatten(1, (6, 8)).mean(dim=(2, 4)).flatten()
    known = (motion >= 0).any(dim=1)
    assert known.sum() > 20
    assert torch.equal((motion >= 0).all(dim=1), known)
    assert (covered[known] > 0.2).all()
    own = torch.arange(288) % 36
    assert (motion[known, (torch.arange(288) // 36)[known]] == own[known]).all()  # at its own time it is where it is
    first, last = clip.window
    assert (motion[known] != own[known].unsqueeze(1)).any()
    still = (torch.arange(8) + 1) * 2 <= first
    before = known & still.repeat_interleave(36)
    assert (motion[before][:, still] == own[before].unsqueeze(1)).all()  # it rests before its window
    moved = [int(motion[token, -1]) for token in before.nonzero().flatten().tolist()]
    hit = [float(covered.view(8, 36)[-1, place]) for place in moved]
    assert sum(value > 0 for value in hit) / len(hit) > 0.7  # and the target is there at the end
    assert last > first


def test_estimated_motion_finds_a_shift_and_stillness():
    torch.manual_seed(0)
    grid = TokenGrid.from_video(8, 48, 48, (2, 8, 8))
    texture = torch.nn.functional.interpolate(torch.rand(1, 3, 24, 40), size=(48, 80), mode="bilinear")[0]
    moving = torch.stack([texture[:, :, 8 * (t // 2) : 8 * (t // 2) + 48] for t in range(8)])[None]
    motion = estimate_motion(moving, grid)[0].view(4, 6, 6, 4)
    for t in range(4):
        for y, x in ((2, 3), (3, 2)):
            for s in range(4):
                if 0 <= x - (s - t) < 6:  # what has left the picture cannot be found
                    assert motion[t, y, x, s] == y * 6 + x - (s - t)
    still = moving[:, :1].expand(-1, 8, -1, -1, -1)
    assert (estimate_motion(still, grid) == -1).all()
    assert (estimate_motion(torch.zeros(1, 8, 3, 48, 48), grid) == -1).all()


def test_the_truth_is_taken_where_there_is_one():
    config = PlantedConfig(split="test", level=0)
    data = PlantedDataset(config, 3, start=2)
    wanted = planted_motion([planted_clip(config, index) for index in (2, 3, 4)], GRID)
    assert torch.equal(motion_of(data, clip_set(data), GRID), wanted)
    pixels = clips(2)
    grid = model_of().config.grid
    assert torch.equal(motion_of(pixels, clip_set(pixels), grid), estimate_motion(pixels, grid))


def test_motion_refuses_what_does_not_fit():
    clip = planted_clip(PlantedConfig(), 0)
    with pytest.raises(InputError, match=r"coverage in \(0, 1\]"):
        planted_motion([clip], GRID, coverage=0)
    with pytest.raises(InputError, match="got 0 clips"):
        planted_motion([], GRID)
    with pytest.raises(GridError, match="the grid covers"):
        planted_motion([clip], TokenGrid(2, 2, 2))
    for pixels, options in ((clips(1), {}), (torch.rand(1, 16, 3, 48, 48), {"gain": 2})):
        with pytest.raises(InputError, match=r"wanted clips of \(frames, height, width\)"):
            estimate_motion(pixels, GRID, **options)
    with pytest.raises(InputError, match="radius must be an integer in 1"):
        estimate_motion(torch.rand(1, 16, 3, 48, 48), GRID, radius=0)


def statistics(**lifts):
    """Statistics of one layer of one head with these lifts, 1 for all others; cls_mass is the mass itself."""
    names = ("same_place", "same_frame", "effective_keys", "entropy", "cls_mass", "following")
    values = {name: torch.full((1, 1, 1), float(lifts.get(name, 1 if name != "cls_mass" else 0.01))) for name in names}
    values["effective_keys"] = torch.full((1, 1, 1), float(lifts.get("effective_keys", 0.3)))
    uniform = {name: torch.ones(1) for name in names}
    return HeadStatistics(values, values, uniform, torch.ones(1, 1, 1, 3), torch.ones(1, 3), TokenGrid(2, 2, 2))


@pytest.mark.parametrize(
    ("lifts", "kind"),
    [
        ({"cls_mass": 0.6, "following": 9}, "CLS sink"),
        ({"effective_keys": 0.9, "following": 9}, "uniform"),
        ({"following": 3, "same_place": 2.5}, "motion following"),
        ({"following": 3, "same_place": 4}, "same place across time"),
        ({"same_place": 2.5, "same_frame": 2}, "same place across time"),
        ({"same_frame": 2}, "same frame"),
        ({}, "other"),
        ({"entropy": float("nan")}, "pruned"),
    ],
)
def test_the_first_rule_that_holds_counts(lifts, kind):
    found = Taxonomy()(statistics(**lifts))
    assert found[0, 0] == kind
    assert found.heads(kind) == [(0, 0)]
    assert found.counts == {name: int(name == kind) for name in KINDS}


def test_thresholds_are_fields_and_are_shown():
    strict = Taxonomy(following=5)
    assert strict(statistics(following=3))[0, 0] == "other"
    with pytest.raises(InputError, match=r"cls_sink must lie in \(0, 1\]"):
        Taxonomy(cls_sink=0)
    with pytest.raises(InputError, match="same_place is a multiple of uniform attention"):
        Taxonomy(same_place=0.5)
    found = strict(statistics())
    assert "following=5" in found._repr_html_()
    with pytest.raises(InputError, match="'magic' is no kind of head"):
        found.heads("magic")


def test_kinds_of_a_model():
    pruned = prune_heads(model_of(), {1: [2]})
    found = Taxonomy()(head_statistics(pruned, clips(2)))
    assert found.heads("pruned") == [(1, 2)]
    assert not found.asked_about_motion
    assert "not asked about" in found._repr_html_()
    assert sum(found.counts.values()) == 12
    assert found.to_pandas().loc[1, 2] == "pruned"
    assert "1 pruned" in repr(found)
