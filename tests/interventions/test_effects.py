"""The table of effects: statistics against their plain calls, labels, files, pictures."""

import builtins
import math
import re

import numpy as np
import pytest
import torch

from vivit_lab.errors import InputError, MissingExtraError
from vivit_lab.interventions import EffectTable, PatchingResult
from vivit_lab.statistics.intervals import bootstrap_interval, bootstrap_ratio, paired_difference
from vivit_lab.statistics.ranks import benjamini_hochberg

LABELS = {"layer": ["0", "1"], "head": ["0", "1", "2"], "slab": ["t 0–1", "CLS"]}
DIMS = tuple(LABELS)


def table(clips=6, **fields):
    effect = torch.randn(clips, 2, 3, 2) + torch.arange(12.0).reshape(2, 3, 2) * 0.3
    effect[:, 1, 2, 0] = torch.nan
    return EffectTable(effect, DIMS, LABELS, method="Made up", targets=["class 1 (b)"] * clips, **fields)


def patching(direction="denoising", pairs=6, **fields):
    clean, corrupt = torch.rand(pairs) + 3, torch.rand(pairs) - 2
    effect = torch.randn(pairs, 2, 3, 2)
    return PatchingResult(effect, DIMS, LABELS, clean=clean, corrupt=corrupt, direction=direction, **fields)


def test_statistics_are_the_plain_calls_place_by_place():
    found = table(resamples=200, seed=3, level=0.9)
    for place in np.ndindex(2, 3, 2):
        values = found.effect[(slice(None), *place)]
        interval = bootstrap_interval(values, resamples=200, seed=3, level=0.9)
        wanted = (interval.mean, interval.low, interval.high)
        got = tuple(float(each[place]) for each in (found.mean, found.low, found.high))
        assert got == pytest.approx(wanted, nan_ok=True)
        p = paired_difference(values, torch.zeros(6), resamples=200, seed=3, level=0.9).p
        assert float(found.p[place]) == pytest.approx(p, nan_ok=True)
    assert found.q.numpy() == pytest.approx(benjamini_hochberg(found.p.numpy()), nan_ok=True)


def test_chance_alone_is_found_rarely():
    found = [
        int((EffectTable(torch.randn(16, 36), ("head",), {"head": [*map(str, range(36))]}).q <= 0.05).sum() > 0)
        for _ in range(40)
    ]
    assert sum(found) <= 6  # two are expected


def test_rows_and_pandas_name_every_place_that_was_measured():
    found = table()
    rows = found.rows()
    assert len(rows) == 11
    assert list(rows[0]) == ["layer", "head", "slab", "effect", "low", "high", "p", "q"]
    frame = found.to_pandas()
    assert len(frame) == 11
    one = frame[(frame["layer"] == "1") & (frame["head"] == "0") & (frame["slab"] == "CLS")]
    assert one["effect"].item() == pytest.approx(float(found.mean[1, 0, 1]))
    assert [abs(row["effect"]) for row in found.top(3)] == sorted((abs(row["effect"]) for row in rows), reverse=True)[
        :3
    ]
    assert list(patching().to_pandas().columns)[-3:] == ["normalized", "normalized_low", "normalized_high"]


def test_pandas_is_an_extra(monkeypatch):
    real = builtins.__import__

    def missing(name, *rest, **more):
        if name == "pandas":
            raise ImportError("No module named 'pandas'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingExtraError, match=r"vivit-lab\[lab\]"):
        table().to_pandas()


def test_select_takes_labels_and_indices():
    found = patching()
    part = found.select(head=["2", 0], slab="CLS")
    assert part.shape == (2, 2, 1)
    assert torch.equal(part.effect, found.effect[:, :, [2, 0]][..., [1]])
    assert part.labels == {"layer": ["0", "1"], "head": ["2", "0"], "slab": ["CLS"]}
    assert torch.equal(part.gap, found.gap)
    assert torch.equal(found.select(layer=-1).effect, found.effect[:, 1:])
    with pytest.raises(InputError, match="has the axes layer, head, slab, not 'tokens'"):
        found.select(tokens=0)
    with pytest.raises(InputError, match="slab has no place 't 9'; there are t 0–1, CLS"):
        found.select(slab="t 9")


@pytest.mark.parametrize("made", [table, patching])
def test_a_file_gives_it_back(made, tmp_path):
    found = made(parameters={"at": "z", "slabs": None}, model_id="tiny", provenance={"dtype": "float32"})
    found.save(tmp_path / "effects.safetensors")
    again = type(found).load(tmp_path / "effects.safetensors")
    assert torch.equal(again.effect.nan_to_num(9), found.effect.nan_to_num(9))
    for name in ("dims", "labels", "what", "method", "parameters", "targets", "model_id", "provenance", "seed"):
        assert getattr(again, name) == getattr(found, name)
    if made is patching:
        assert torch.equal(again.clean, found.clean)
        assert again.direction == found.direction


def test_other_files_are_refused(tmp_path):
    found = table()
    found.save(tmp_path / "effects.safetensors")
    with pytest.raises(InputError, match=r"not a PatchingResult .* kind 'EffectTable'"):
        PatchingResult.load(tmp_path / "effects.safetensors")
    (tmp_path / "notes.txt").write_text("no tensors")
    with pytest.raises(InputError, match=r"notes.txt is not an EffectTable"):
        EffectTable.load(tmp_path / "notes.txt")
    with pytest.raises(FileNotFoundError):
        EffectTable.load(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_normalised_values_are_their_definition(direction):
    found = patching(direction)
    base = found.corrupt if direction == "denoising" else found.clean
    patched = base.reshape(-1, 1, 1, 1) + found.effect
    assert torch.allclose(found.patched, patched)
    each = (patched - found.corrupt.reshape(-1, 1, 1, 1)) / (found.clean - found.corrupt).reshape(-1, 1, 1, 1)
    assert torch.allclose(found.normalized_per_pair, each)
    won = (patched - found.corrupt.reshape(-1, 1, 1, 1)).sum(0)
    assert torch.allclose(found.normalized, won / found.gap.sum())
    share = found.mean / found.gap.mean() * (1 if direction == "denoising" else -1)
    assert torch.allclose(found.share, share)
    low, high = found.normalized_interval
    wanted = bootstrap_ratio(patched[:, 0, 1, 0] - found.corrupt, found.gap)
    assert (float(low[0, 1, 0]), float(high[0, 1, 0])) == pytest.approx((wanted.low, wanted.high))


def test_pairs_without_a_gap_have_no_value_of_their_own():
    found = PatchingResult(
        torch.ones(3, 1), ("layer",), {"layer": ["0"]}, clean=torch.tensor([2.0, 1.0, 1.02]), corrupt=torch.ones(3)
    )
    assert found.usable.tolist() == [True, False, False]
    assert found.normalized_per_pair.flatten().tolist() == pytest.approx([1.0, math.nan, math.nan], nan_ok=True)
    assert float(found.normalized) == pytest.approx(3 / 1.02, rel=1e-5)
    balanced = PatchingResult(
        torch.ones(2, 1), ("layer",), {"layer": ["0"]}, clean=torch.tensor([1.0, -1.0]), corrupt=torch.zeros(2)
    )
    assert math.isnan(float(balanced.normalized))
    assert balanced.heat[1] == "mean effect"
    assert "nan" not in balanced._repr_html_().split("<table", 2)[1]


@pytest.mark.parametrize("made", [table, patching])
def test_it_shows_itself_without_a_kernel(made):
    found = made()
    text = found._repr_html_()
    assert text.count("<img") == 3  # a colour bar and two slabs
    assert "slab CLS" in text
    assert "rows are layer, columns head" in text
    assert "95% interval" in text
    assert re.search(r"(http|src=\"/)", text) is None
    assert repr(found).startswith(f"{type(found).__name__}({found.method}, 6 clips, 2 layer × 3 head × 2 slab; ")


def test_one_axis_and_many_axes_are_drawn():
    line = EffectTable(torch.randn(4, 5), ("slab",), {"slab": [f"t {i}" for i in range(5)]})
    figure = line.plot()
    assert len(figure.axes) == 2  # the heat and its bar
    many = EffectTable(
        torch.randn(4, 2, 2, 7, 5),
        ("layer", "head", "slab", "region"),
        {"layer": ["0", "1"], "head": ["0", "1"], "slab": [*"abcdefg"], "region": [*"vwxyz"]},
    )
    assert len(many.plot().axes) == 36 + 1
    assert "11 more pictures are not shown" in many._repr_html_()
    single = EffectTable(torch.randn(4, 1), ("slab",), {"slab": ["all"]})
    assert single._repr_html_().count("<img") == 2
    assert len(single.plot()._repr_png_()) > 1000


def test_dots_mark_the_places_that_pass():
    effect = torch.zeros(10, 2, 3) + torch.randn(10, 2, 3) * 0.01
    effect[:, 1, 2] += 1
    found = EffectTable(effect, ("layer", "head"), {"layer": ["0", "1"], "head": ["0", "1", "2"]}, what="change")
    axis = found.plot(alpha=0.02).axes[0]
    (dots,) = axis.lines
    assert dots.get_xydata().tolist() == [[2.0, 1.0]]
    assert "q ≤ 0.02 over 6 places" in axis.figure.get_suptitle().replace("\n", " ")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: EffectTable(torch.zeros(2, 3), ("head",), {"head": ["0"]}), r"got \(2, 3\) and labels of head"),
        (lambda: EffectTable(torch.zeros(2, 1), ("head",), {"layer": ["0"]}), "labels of layer"),
        (lambda: EffectTable(torch.full((2, 1), math.inf), ("head",), {"head": ["0"]}), "is not finite"),
        (lambda: patching(direction="sideways"), "one of denoising, noising"),
        (lambda: patching(min_gap=1), r"min_gap in \[0, 1\)"),
        (
            lambda: PatchingResult(torch.zeros(2, 1), ("head",), {"head": ["0"]}),
            r"one score a pair, \(2,\), got \(0,\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
