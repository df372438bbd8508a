"""Activation patching against one `patch` a place, its identities, and its labels."""

import numpy as np
import pytest
import torch

from tests.interventions.models import clips, same, small_model, snapshot
from vivit_lab.errors import GridError, InputError
from vivit_lab.interventions import ActivationPatching, Region, patch
from vivit_lab.interventions.points import STREAM_PARTS
from vivit_lab.records import LogitDifference, Probability

TARGET = LogitDifference(1, 3)


def score(output):
    return (output.logits[:, 1] - output.logits[:, 3]).double()


def box(region, slab, cls=False):
    return region if slab is None else Region(t=slab, y=region.y, x=region.x, cls=cls)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("at", ["z", "k", "pattern"])
def test_every_place_is_one_patch(attention, direction, at):
    model, clean, corrupt = small_model(attention), clips(3), clips(3)
    regions = {"left": Region(x=0), "top": Region(y=0)}
    method = ActivationPatching(direction, at, layers=[2, 0], slabs=2, regions=regions, batch_size=2)
    before = snapshot(model)
    found = method(model, clean, corrupt, TARGET)
    assert same(before, snapshot(model))
    assert found.dims == ("layer", "head", "slab", "region")
    assert found.labels["layer"] == ["2", "0"]
    assert found.labels["slab"] == ["t 0", "t 1", "CLS"]
    base, source = (corrupt, clean) if direction == "denoising" else (clean, corrupt)
    for row, layer in enumerate([2, 0]):
        for head in (0, 3):
            for slab in (1, 2):
                for column, region in enumerate(regions.values()):
                    tokens = "cls" if slab == 2 else box(region, slab)
                    change = patch(model, source, heads=[(layer, head)], part=at, tokens=tokens)
                    wanted = score(change(base)) - score(model(base))
                    assert torch.allclose(found.effect[:, row, head, slab, column], wanted, atol=1e-4)
    assert torch.allclose(found.clean, score(model(clean)), atol=1e-5)
    assert torch.allclose(found.corrupt, score(model(corrupt)), atol=1e-5)
    assert found.direction == direction


@pytest.mark.parametrize("at", STREAM_PARTS)
def test_parts_without_heads(at):
    model, clean, corrupt = small_model(), clips(), clips()
    found = ActivationPatching(at=at, slabs=[slice(0, 1), "cls"])(model, clean, corrupt, TARGET)
    assert found.dims == ("layer", "slab", "region")
    change = patch(model, clean, points=[f"blocks.1.hook_{at}"], tokens=Region(t=0))
    assert torch.allclose(found.effect[:, 1, 0, 0], score(change(corrupt)) - score(model(corrupt)), atol=1e-4)


def test_patching_the_whole_stream_restores_everything():
    model, clean, corrupt = small_model(), clips(4), clips(4)
    for direction in ("denoising", "noising"):
        found = ActivationPatching(direction, "resid_pre")(model, clean, corrupt, TARGET)
        assert torch.allclose(found.share, torch.ones(3, 1, 1, dtype=torch.float64), atol=1e-4)
        each = found.normalized_per_pair[found.usable]
        assert len(each) >= 1
        assert torch.allclose(each, torch.full_like(each, float(direction == "denoising")), atol=1e-3)
    heads = ActivationPatching(heads="all")(model, clean, corrupt, TARGET)
    assert heads.dims == ("layer", "slab", "region")
    together = patch(model, clean, heads=[(1, head) for head in range(4)])
    assert torch.allclose(heads.effect[:, 1, 0, 0], score(together(corrupt)) - score(model(corrupt)), atol=1e-4)


def test_a_batch_or_a_pair_at_a_time_is_the_same():
    model, clean, corrupt = small_model(), clips(5), clips(5)
    one, other = (ActivationPatching(batch_size=size)(model, clean, corrupt, TARGET).effect for size in (1, 4))
    assert torch.allclose(one, other, atol=1e-4)


def test_half_precision_and_other_targets():
    model, clean, corrupt = small_model().to(torch.bfloat16), clips(), clips()
    found = ActivationPatching(layers=[1])(model, clean, corrupt, Probability())
    assert found.what == "patched − corrupt, probability"
    assert found.targets[0].startswith("probability of class")
    assert torch.isfinite(found.effect).all()
    named = ActivationPatching(layers=[1])(model, clean, corrupt, lambda output: output.logits[:, 0].float())
    assert named.targets[0].endswith("(output)")


def test_slabs_and_regions_that_share_nothing_are_left_out():
    model, clean, corrupt = small_model(), clips(), clips()
    regions = {"early": Region(t=0), "late": Region(t=1)}
    found = ActivationPatching(at="resid_post", slabs=2, regions=regions)(model, clean, corrupt, TARGET)
    missing = found.effect.isnan().all(dim=0)[0].tolist()
    assert missing == [[False, True], [True, False], [False, False]]
    assert len(found.rows()) == 3 * 4
    assert found.parameters["regions"] == {"early": "Region(t=0)", "late": "Region(t=1)"}


def test_interpolated_positions():
    model, clean, corrupt = small_model(), *(torch.randn(2, 4, 3, 48, 32) for _ in range(2))
    found = ActivationPatching(at="resid_pre", slabs=2)(model, clean, corrupt, TARGET, interpolate_pos_encoding=True)
    sums = ActivationPatching(at="resid_pre")(model, clean, corrupt, TARGET, interpolate_pos_encoding=True)
    assert found.shape == (3, 3, 1)
    assert torch.allclose(sums.share.flatten(), torch.ones(3, dtype=torch.float64), atol=1e-4)


def test_a_seed_moves_the_intervals_alone():
    model, clean, corrupt = small_model(), clips(9), clips(9)
    one, other = (ActivationPatching(layers=[0], seed=seed)(model, clean, corrupt, TARGET) for seed in (0, 1))
    assert torch.equal(one.effect, other.effect)
    assert not np.array_equal(one.low.numpy(), other.low.numpy())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"direction": "both"}, InputError, "direction must be one of denoising, noising"),
        ({"batch_size": 0}, InputError, "batch_size must be a positive integer"),
        ({"at": "o"}, InputError, "at is one of z, q, k, v"),
        ({"heads": "every"}, InputError, "heads 'each' or 'all'"),
        ({"layers": [3]}, InputError, "layer 3 does not exist"),
        ({"layers": []}, InputError, "at least one layer"),
        ({"slabs": 3}, GridError, "2 tubelet rows make 1 to 2 time slabs"),
        ({"slabs": []}, GridError, "at least one time slab"),
        ({"regions": {}}, GridError, "at least one region"),
        ({"slabs": [0], "regions": {"late": Region(t=1)}}, GridError, "no region shares a tubelet"),
    ],
)
def test_what_does_not_fit_is_refused(options, error, message):
    model, clean, corrupt = small_model(), clips(), clips()
    with pytest.raises(error, match=message):
        ActivationPatching(**options)(model, clean, corrupt, TARGET)


def test_pairs_must_fit_and_differ():
    model, x = small_model(), clips()
    with pytest.raises(InputError, match="a corrupt clip for each clean one"):
        ActivationPatching()(model, x, clips(3), TARGET)
    with pytest.raises(InputError, match="nothing to patch between them"):
        ActivationPatching()(model, x, x.clone(), TARGET)
