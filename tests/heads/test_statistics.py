import math
from dataclasses import replace

import pytest
import torch

from tests.heads.pruning import HEADS, LAYERS, model_of
from tests.model.tiny import clips
from vivit_lab.attribution import artefact_tokens
from vivit_lab.errors import InputError
from vivit_lab.grid import TokenGrid
from vivit_lab.heads import HeadStatistics, head_statistics, prune_heads
from vivit_lab.heads.statistics import Places, uniform_profile, uniform_values
from vivit_lab.records import AttentionRecord, record_attention
from vivit_lab.records.values import record_values

FIELDS = {"num_frames": 6, "image_size": 48}  # 3 × 3 × 3 tubelets


def record_of(pattern_scores, grid):
    """A record whose one layer of one head has these scores (token, token), by one-hot keys."""
    count = grid.num_tokens
    query = (pattern_scores).view(1, 1, count, count)
    key = torch.eye(count).view(1, 1, count, count)
    return AttentionRecord(grid, {0: query}, {0: key}, scale=1.0, num_layers=1)


def test_uniform_anchors_of_vivit_b():
    base = uniform_values(TokenGrid(16, 14, 14))
    assert base["spatial_distance"] == pytest.approx(116.5, abs=0.05)
    assert base["temporal_distance"] == pytest.approx(10.6, abs=0.05)
    assert base["same_frame"] == 1 / 16
    assert base["same_place"] == 15 / 3136
    assert base["effective_keys"] == 3136
    assert base["cls_mass"] == 1 / 3137
    assert float(uniform_profile(TokenGrid(16, 14, 14)).sum()) == pytest.approx(1)


def test_uniform_attention_has_lift_one_everywhere_whatever_the_sample():
    grid = TokenGrid(4, 3, 5)
    record = record_of(torch.zeros(61, 61), grid)
    for queries in (None, 7, 30):
        found = head_statistics(record, queries=queries, seed=2)
        for name in found.names:
            if name != "past_future":
                torch.testing.assert_close(found.lift(name), torch.ones(1, 1), rtol=1e-4, atol=0)
        torch.testing.assert_close(found.value("past_future"), torch.zeros(1, 1), rtol=0, atol=1e-5)
        asked = found.profile_uniform[0] > 0  # few queries may be at no end of the clip
        profile = found.offset_profile[0, 0, asked]
        torch.testing.assert_close(profile, torch.ones_like(profile), rtol=1e-4, atol=0)
        assert asked.sum() > 3
    exact, wanted = head_statistics(record, queries=None), uniform_values(grid)
    for name, value in wanted.items():
        assert float(exact.value(name)) == pytest.approx(value, rel=1e-4, abs=1e-6)
        assert float(exact.error(name)) == 0
    torch.testing.assert_close(exact.profile[0, 0, 0], uniform_profile(grid).float())


def naive(pattern, grid):
    """Each statistic of one pattern (token, token), entry by entry."""
    names = ("spatial_distance", "temporal_distance", "same_frame", "same_place", "entropy", "effective_keys")
    sums = dict.fromkeys((*names, "maximal_weight", "cls_mass", "past", "future"), 0.0)
    share = {"past": 0.0, "future": 0.0}
    n = grid.num_tubelets
    for i in range(1, n + 1):
        row = pattern[i]
        rest = (row[1:] / row[1:].sum()).tolist()
        t, y, x = grid.position(i)
        sums["cls_mass"] += float(row[0]) / n
        entropy = -sum(p * math.log(p) for p in rest if p > 0)
        sums["entropy"] += entropy / n
        sums["effective_keys"] += math.exp(entropy) / n
        sums["maximal_weight"] += max(rest) / n
        for j, p in enumerate(rest, start=1):
            s, v, u = grid.position(j)
            sums["spatial_distance"] += p * math.hypot((y - v) * grid.tubelet[1], (x - u) * grid.tubelet[2]) / n
            sums["temporal_distance"] += p * abs(t - s) * grid.tubelet[0] / n
            sums["same_frame"] += p * (t == s) / n
            sums["same_place"] += p * (t != s and (y, x) == (v, u)) / n
            sums["past"] += p * (s < t) / n
            sums["future"] += p * (s > t) / n
            share["past"] += (s < t) / n**2
            share["future"] += (s > t) / n**2
    past, future = sums.pop("past") / share["past"], sums.pop("future") / share["future"]
    return {**sums, "past_future": (past - future) / (past + future)}


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_all_are_their_definition(implementation):
    model, pixels = model_of(**FIELDS, attn_implementation=implementation), clips(2, **FIELDS)
    with torch.no_grad():
        patterns = model(pixels, output_attentions=True).attentions
    found = head_statistics(model, pixels, queries=None)
    again = head_statistics(record_attention(model, pixels), queries=None)
    for clip, layer, head in ((0, 0, 1), (1, 2, 3)):
        for name, value in naive(patterns[layer][clip, head], model.config.grid).items():
            assert float(found.values[name][clip, layer, head]) == pytest.approx(value, rel=1e-4, abs=1e-5), name
            assert float(again.values[name][clip, layer, head]) == pytest.approx(value, rel=1e-4, abs=1e-5), name


def test_the_standard_error_is_that_of_the_samples():
    model, pixels = model_of(**FIELDS), clips(1, **FIELDS)
    exact = head_statistics(model, pixels, queries=None)
    samples = [head_statistics(model, pixels, queries=9, seed=seed) for seed in range(60)]
    for name in ("same_frame", "spatial_distance", "entropy", "past_future"):
        values = torch.stack([sample.value(name) for sample in samples])
        errors = torch.stack([sample.error(name) for sample in samples]).square().mean(dim=0).sqrt()
        spread = values.std(dim=0)
        ratio = float((errors / spread).mean())
        assert 0.6 < ratio < 1.4, (name, ratio)
        assert ((values.mean(dim=0) - exact.value(name)).abs() < 0.2 * exact.value(name).abs() + 0.05).all()
    assert torch.equal(head_statistics(model, pixels, queries=9).profile, samples[0].profile)


def test_a_head_that_looks_back_one_step_at_its_own_place():
    grid = TokenGrid(4, 2, 2)
    scores = torch.zeros(17, 17)
    for token in range(1, 17):
        t, y, x = grid.position(token)
        scores[token, grid.token(max(t - 1, 0), y, x)] = 60
    found = head_statistics(record_of(scores, grid), queries=None)
    assert float(found.value("same_place")) == pytest.approx(3 / 4)
    assert float(found.value("same_frame")) == pytest.approx(1 / 4)
    assert float(found.value("temporal_distance")) == pytest.approx(2 * 3 / 4)
    assert float(found.value("spatial_distance")) == pytest.approx(0, abs=1e-6)
    assert float(found.value("past_future")) == pytest.approx(1)
    assert float(found.value("effective_keys")) == pytest.approx(1)
    profile = found.profile[0, 0, 0]
    assert profile[grid.t - 2] == pytest.approx(3 / 4)
    assert found.offsets[grid.t - 2] == -2
    assert float(found.offset_profile[0, 0, grid.t - 2]) == pytest.approx((3 / 4) / (3 / 16))


def test_cls_is_kept_apart():
    grid = TokenGrid(2, 2, 2)
    scores = torch.zeros(9, 9)
    scores[:, 0] = 60
    found = head_statistics(record_of(scores, grid), queries=None)
    assert float(found.value("cls_mass")) == pytest.approx(1)
    scores[:, 0] = 3
    found = head_statistics(record_of(scores, grid), queries=None)
    torch.testing.assert_close(found.lift("same_frame"), torch.ones(1, 1))
    bare = TokenGrid(2, 2, 2, cls=False)
    assert "cls_mass" not in head_statistics(record_of(torch.zeros(8, 8), bare), queries=None).names


def test_following_is_the_mass_where_the_content_went():
    grid = TokenGrid(3, 1, 3)
    motion = torch.full((1, 9, 3), -1)
    motion[0, 0] = torch.tensor([0, 1, 2])  # what is at place 0 first is at 1 and 2 later
    motion[0, 4] = torch.tensor([0, 1, 2])
    scores = torch.zeros(10, 10)
    scores[1, grid.token(1, 0, 1)] = 60
    scores[grid.token(1, 0, 1), grid.token(0, 0, 0)] = 60
    found = head_statistics(record_of(scores, grid), queries=None, motion=motion)
    assert float(found.value("following")) == pytest.approx(1)
    assert float(found.lift("following")) == pytest.approx(9 / 2)
    uniform = head_statistics(record_of(torch.zeros(10, 10), grid), queries=None, motion=motion)
    assert float(uniform.lift("following")) == pytest.approx(1, rel=1e-4)
    nothing = head_statistics(record_of(scores, grid), motion=torch.full((1, 9, 3), -1))
    assert nothing.value("following").isnan().all()
    staying = torch.full((1, 9, 3), -1)
    staying[0, 1] = 1  # its own place: no motion
    assert head_statistics(record_of(scores, grid), motion=staying).value("following").isnan().all()


def test_mass_on_artefacts_is_that_of_the_outliers():
    model, pixels = model_of(**FIELDS), clips(2, **FIELDS)
    artefacts = artefact_tokens(record_values(model, pixels, final_state=True), deviations=0.5)
    assert artefacts.outliers.any()
    found = head_statistics(model, pixels, queries=None, artefacts=artefacts)
    with torch.no_grad():
        pattern = model(pixels, output_attentions=[1]).attentions[0][0, 2][1:, 1:]
    rows = pattern / pattern.sum(dim=1, keepdim=True)
    wanted = rows[:, artefacts.outliers[0].flatten()].sum(dim=1).mean()
    assert float(found.values["artefact_mass"][0, 1, 2]) == pytest.approx(float(wanted), rel=1e-4)
    assert float(found.uniform["artefact_mass"][0]) == pytest.approx(float(artefacts.outliers[0].float().mean()))
    with pytest.raises(InputError, match="artefacts are of 2 clips"):
        head_statistics(model, pixels[:1], artefacts=artefacts)
    none = replace(artefacts, outliers=torch.zeros_like(artefacts.outliers))
    assert head_statistics(model, pixels, artefacts=none).lift("artefact_mass").isnan().all()


def test_pruned_heads_are_not_there():
    found = head_statistics(prune_heads(model_of(), {1: [2], 2: range(HEADS)}), clips(2))
    gone = found.value("entropy").isnan()
    assert gone.nonzero().tolist() == [[1, 2], *([2, head] for head in range(HEADS))]
    assert found.profile.isnan().any(dim=-1)[0].equal(gone)


def test_pruned_heads_are_not_there_in_a_record_either():
    model, pixels = prune_heads(model_of(), {1: [2], 2: range(HEADS)}), clips(2)
    mask = torch.ones(LAYERS, HEADS)
    mask[0, 1] = 0  # masked, yet there
    direct = head_statistics(model, pixels, queries=None)
    for layers in (None, [1, 2]):
        found = head_statistics(record_attention(model, pixels, layers=layers, head_mask=mask), queries=None)
        rows = slice(None) if layers is None else layers
        for name in direct.names:
            assert found.values[name].isnan().equal(direct.values[name][:, rows].isnan())
            assert found.errors[name].isnan().equal(direct.errors[name][:, rows].isnan())
        assert found.profile.isnan().equal(direct.profile[:, rows].isnan())
        assert not found.uniform["entropy"].isnan().any()


def test_large_samples_go_through_in_parts(monkeypatch):
    model, pixels = model_of(**FIELDS), clips(1, **FIELDS)
    whole = head_statistics(model, pixels, queries=None)
    monkeypatch.setattr("vivit_lab.heads.statistics._ROWS_BYTES", 1)
    parts = head_statistics(model, pixels, queries=None)
    for name in whole.names:
        torch.testing.assert_close(parts.values[name], whole.values[name], rtol=1e-4, atol=1e-6)


def test_files_and_tables(tmp_path):
    found = head_statistics(model_of(), clips(2), queries=3, seed=5)
    found.save(tmp_path / "stats.safetensors")
    again = HeadStatistics.load(tmp_path / "stats.safetensors")
    assert (again.grid, again.queries, again.seed, again.names) == (found.grid, 3, 5, found.names)
    for name in found.names:
        assert torch.equal(again.values[name].nan_to_num(9), found.values[name].nan_to_num(9))
    table = found.to_pandas()
    assert len(table) == LAYERS * HEADS
    assert {"same_frame", "same_frame_lift", "same_frame_error", "past_future"} <= set(table)
    assert "past_future_lift" not in table
    assert "3 queries a clip" in repr(found)
    assert "3 sampled, seed 5" in found._repr_html_()
    (tmp_path / "other").write_bytes(b"nothing")
    with pytest.raises(InputError, match="is not a file of head statistics"):
        HeadStatistics.load(tmp_path / "other")
    with pytest.raises(FileNotFoundError):
        HeadStatistics.load(tmp_path / "absent")
    with pytest.raises(InputError, match="'speed' was not measured"):
        found.value("speed")
    with pytest.raises(InputError, match="past_future is 0 under uniform attention"):
        found.lift("past_future")


def test_what_does_not_fit_is_refused():
    model, pixels = model_of(), clips(2)
    record = record_attention(model, pixels)
    for call, message in (
        (lambda: head_statistics(model), "wants clips beside a model"),
        (lambda: head_statistics(record, pixels), "give a record, or a model and clips"),
        (lambda: head_statistics(model, pixels, queries=0), "queries must be a positive integer"),
        (lambda: head_statistics(model, pixels, motion=torch.ones(1, 2, 3)), r"motion must be \(clips, tubelets, t\)"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_one_moment_has_no_past_or_future():
    found = head_statistics(record_of(torch.zeros(5, 5), TokenGrid(1, 2, 2)), queries=None)
    assert found.value("past_future").isnan().all()
    single = head_statistics(record_of(torch.zeros(9, 9), TokenGrid(2, 2, 2)), queries=1)
    assert single.error("entropy").isnan().all()
    assert Places(TokenGrid(1, 2, 2), torch.device("cpu")).times.tolist() == [0] * 4
