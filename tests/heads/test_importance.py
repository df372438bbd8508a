import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vivit_lab.errors import InputError
from vivit_lab.heads import HeadImportance, HeadMask
from vivit_lab.heads.registry import IMPORTANCES, make_importance
from vivit_lab.statistics.intervals import bootstrap_interval


def importance(n=12, layers=3, heads=4, seed=0, **fields):
    generator = torch.Generator().manual_seed(seed)
    base = torch.rand(layers, heads, generator=generator)
    rows = base + 0.1 * torch.randn(n, layers, heads, generator=generator)
    return HeadImportance(rows, "Test", **fields)


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_rank_correlation_is_spearmans(seed):
    a, b = importance(seed=seed), importance(seed=seed + 1)
    both = pandas.DataFrame({"a": a.values.flatten().numpy(), "b": b.values.flatten().numpy()})
    wanted = both.corr(method="spearman").loc["a", "b"]
    assert a.spearman(b) == pytest.approx(wanted, abs=1e-9)
    assert a.spearman(a) == pytest.approx(1)
    assert a.spearman(b) == pytest.approx(b.spearman(a))


def test_ranking_is_by_value_and_leaves_out_what_is_not_there():
    rows = torch.tensor([[[1.0, 5.0], [float("nan"), 3.0]], [[1.0, 5.0], [float("nan"), 3.0]]])
    found = HeadImportance(rows, "Test")
    assert found.ranking() == [(0, 1), (1, 1), (0, 0)]
    assert found.ranking(descending=False) == [(0, 0), (1, 1), (0, 1)]
    assert found.mask(keep=2).kept == [(0, 1), (1, 1)]
    assert found.interval()[0][1, 0].isnan()
    assert found.normalised().interval()[0][1, 0].isnan()
    assert found.to_pandas()["rank"].tolist()[:2] == [3, 1]


def test_layer_norm_makes_every_layer_of_length_one():
    found = importance().normalised()
    torch.testing.assert_close(found.values.norm(dim=1), torch.ones(3))
    assert HeadImportance(torch.zeros(2, 1, 3), "Test", layer_norm=True).values.tolist() == [[0, 0, 0]]


def test_intervals_are_bootstrap_intervals_and_hold_the_values():
    found = importance(n=30)
    low, high = found.interval(resamples=500, seed=3)
    wanted = bootstrap_interval(found.per_example[:, 1, 2], resamples=500, seed=3)
    assert (float(low[1, 2]), float(high[1, 2])) == pytest.approx((wanted.low, wanted.high))
    for each in (found, found.normalised()):
        low, high = each.interval(resamples=500)
        assert (low <= each.values).all()
        assert (each.values <= high).all()
        assert (low < high).all()
    assert importance(n=1).interval()[0].isnan().all()


def test_rank_stability_rises_with_clips_and_the_bootstrap_agrees_more():
    few, many = importance(n=4), importance(n=200)
    assert few.rank_stability().mean < many.rank_stability().mean
    assert many.rank_stability("bootstrap").mean > many.rank_stability().mean
    assert many.rank_stability().low <= many.rank_stability().mean <= many.rank_stability().high
    assert "split-half" in str(few.rank_stability())
    flat = HeadImportance(torch.ones(4, 2, 2), "Test").rank_stability()
    assert flat.n == 0
    with pytest.raises(InputError, match="wants two examples at least"):
        importance(n=1).rank_stability()
    with pytest.raises(InputError, match="kind='jackknife' is not known"):
        few.rank_stability("jackknife")


def test_which_heads_matter_holds_chance_findings_down():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 10, 10, generator=generator)
    noise = HeadImportance(rows, "Test", signed=True)
    assert len(noise.which_matter().kept) <= 3  # uncorrected, about five of a hundred would be found
    assert (noise.p_values() < 0.05).sum() >= 1
    real = HeadImportance(rows + 2 * (torch.arange(10) < 3), "Test", signed=True)
    found = real.which_matter()
    assert {(layer, head) for layer in range(10) for head in range(3)} <= set(found.kept)
    assert len(found.kept) <= 34
    assert isinstance(found, HeadMask)
    with pytest.raises(InputError, match="Test gives sizes"):
        importance().which_matter()
    with pytest.raises(InputError, match=r"rate must lie in \(0, 1\)"):
        real.which_matter(rate=0)


def test_files_hold_everything(tmp_path):
    found = importance(parameters={"mode": "mean"}, unit="nats", target="a", signed=True, layer_norm=True, model_id="m")
    found.save(tmp_path / "scores.safetensors")
    again = HeadImportance.load(tmp_path / "scores.safetensors")
    assert torch.equal(again.per_example, found.per_example)
    for name in ("method", "parameters", "unit", "target", "signed", "layer_norm", "model_id", "rows"):
        assert getattr(again, name) == getattr(found, name)
    (tmp_path / "other").write_bytes(b"nothing")
    with pytest.raises(InputError, match="is not a head importance"):
        HeadImportance.load(tmp_path / "other")
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(InputError, match="but not a head importance"):
        HeadImportance.load(tmp_path / "plain.safetensors")
    with pytest.raises(FileNotFoundError):
        HeadImportance.load(tmp_path / "absent.safetensors")


def test_what_people_see():
    found = importance(unit="nats", signed=True)
    assert "3 layers × 4 heads, 12 clips" in repr(found)
    page = found.normalised()._repr_html_()
    assert "divided by each layer" in page
    assert "<img" in page
    table = found.to_pandas()
    assert list(table) == ["layer", "head", "value", "low", "high", "rank"]
    assert sorted(table["rank"]) == list(range(1, 13))


def test_shapes_are_checked():
    with pytest.raises(InputError, match=r"per_example must be \(n, layers, heads\)"):
        HeadImportance(torch.ones(3, 4), "Test")
    with pytest.raises(InputError, match="two importances of one shape"):
        importance().spearman(importance(heads=5))


def test_methods_by_name():
    assert make_importance("Ablation-Zero") == IMPORTANCES["ablation_zero"]
    with pytest.raises(InputError, match="there is no importance 'magic'; choose one of michel"):
        make_importance("magic")
