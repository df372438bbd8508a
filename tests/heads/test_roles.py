from dataclasses import replace

import pytest
import torch

from tests.heads.pruning import HEADS, LAYERS, model_of
from tests.model.tiny import clips
from vivit_lab.errors import InputError
from vivit_lab.heads import head_roles
from vivit_lab.heads.roles import ROLES
from vivit_lab.interventions import AblationEffects, CausalTemporalScore, EffectTable, FreezeFrame


def table(means, noise=0.1, clips=20):
    """A table whose places have these means over clips."""
    means = torch.tensor(means, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    effect = means + noise * torch.randn(clips, *means.shape, generator=generator, dtype=torch.float64)
    labels = {"layer": [str(i) for i in range(means.shape[0])], "head": [str(i) for i in range(means.shape[1])]}
    return EffectTable(effect, ("layer", "head"), labels, what="test")


def test_roles_follow_effect_and_temporal_score():
    effects = table([[-1.0, -1.0, 0.0, 1.0]])
    temporal = table([[0.8, 0.0, 0.0, -0.8]])
    found = head_roles(effects, temporal)
    assert found.roles == [["motion", "place", "nothing", "nothing"]]  # better without it is no role
    assert found.heads("place") == [(0, 1)]
    row = found.rows()[0]
    assert row["role"] == "motion"
    assert row["effect_low"] <= row["effect_mean"] <= row["effect_high"] < 0 < row["temporal_low"]
    assert row["temporal_q"] <= 0.05
    assert len(found.to_pandas()) == 4
    assert "1 motion, 1 place, 0 undecided, 2 nothing" in repr(found)
    assert "false discoveries ≤ 0.05" in found._repr_html_()
    assert len(found.plot().axes) == 2


def test_place_wants_an_effect_on_the_clip_standing_still():
    noise = torch.randn(20, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    effects = table([[-0.3]], noise=0.1)
    temporal = replace(effects, effect=0.3 + 2 * noise)  # too noisy to be found, and no effect is left without it
    found = head_roles(effects, temporal)
    assert found.roles == [["undecided"]]
    assert torch.equal(found.still.effect, effects.effect + temporal.effect)
    assert found.still.what == "test, standing still"
    assert found.rows()[0]["still_q"] > 0.05 >= found.rows()[0]["effect_q"]


def test_the_still_effects_of_a_model_are_those_of_its_frozen_clips():
    model, pixels = model_of(), clips(3)
    by = AblationEffects(mode="mean", over="tokens", progress=False)
    found = head_roles(by(model, pixels, 1), CausalTemporalScore(by)(model, pixels, 1))
    frozen = FreezeFrame()(pixels)
    wanted = by(model, frozen, 1, reference=frozen).effect.reshape_as(found.still.effect)
    assert torch.allclose(found.still.effect, wanted, atol=1e-6)


def test_the_tables_of_a_model_are_taken():
    model, pixels = model_of(), clips(3)
    by = AblationEffects(mode="mean", over="tokens", progress=False)
    found = head_roles(by(model, pixels, 1), CausalTemporalScore(by)(model, pixels, 1))
    assert sum(len(found.heads(role)) for role in ROLES) == LAYERS * HEADS


def test_heads_bear_the_numbers_of_the_tables():
    model, pixels = model_of(), clips(2)
    by = AblationEffects(layers=[2], mode="mean", over="tokens", progress=False)
    found = head_roles(by(model, pixels, 1), CausalTemporalScore(by)(model, pixels, 1))
    heads = [(2, head) for head in range(HEADS)]
    assert sorted(head for role in ROLES for head in found.heads(role)) == heads
    assert [(row["layer"], row["head"]) for row in found.rows()] == heads
    part = table([[-1.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0]]).select(layer=1, head=[3, 2])
    still = table([[0.0] * 4] * 2).select(layer=1, head=[3, 2])
    found = head_roles(part, still)
    assert found.heads("place") == [(1, 2)]
    assert found.rows()[1]["effect_mean"] == pytest.approx(-1, abs=0.1)
    html = found._repr_html_()
    assert html.index("head 3") < html.index("head 2")
    assert "head 0" not in html


def test_what_does_not_fit_is_refused():
    effects = table([[0.0, 1.0], [0.0, 1.0]])
    with pytest.raises(InputError, match="wanted two tables of layer × head of the same clips"):
        head_roles(effects, table([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]]))
    with pytest.raises(InputError, match="wanted two tables of layer × head of the same clips"):
        head_roles(effects, table([[0.0, 1.0], [0.0, 1.0]], clips=5))
    twin = table([[0.0, 1.0], [0.0, 1.0]])
    for labels in ({"layer": ["0", "2"]}, {"head": ["1", "0"]}):
        with pytest.raises(InputError, match="wanted two tables of layer × head of the same clips"):
            head_roles(effects, replace(twin, labels=twin.labels | labels))
    named = replace(twin, labels=twin.labels | {"head": ["a", "b"]})
    with pytest.raises(InputError, match="with labels "):
        head_roles(named, named)
    with pytest.raises(InputError, match=r"rate must lie in \(0, 1\)"):
        head_roles(effects, effects, rate=1)
    with pytest.raises(InputError, match="'memory' is no role"):
        head_roles(effects, effects).heads("memory")
