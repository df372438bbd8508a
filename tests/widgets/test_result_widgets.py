"""Widgets of results: what they ship is the result's own numbers, and a click leads to its place."""

import json
import re

import numpy as np
import pytest
import torch

from vivit_lab.errors import InputError
from vivit_lab.evaluation import stored_report
from vivit_lab.heads import PruningCurves, PruningExperiment
from vivit_lab.interventions import ActivationPatching, EffectTable, ReverseFrames
from vivit_lab.model import LogitLens
from vivit_lab.records import logit_lens
from vivit_lab.widgets import (
    ClipExplorer,
    FaithfulnessTable,
    LogitLensStrip,
    PatchingHeatmap,
    PruningCurvesView,
    link_views,
)

# --- logit lens -------------------------------------------------------------------------------------------------------


@pytest.fixture
def lens(classifier, clip):
    return logit_lens(classifier, clip, incl_mid=True)


def test_the_strips_are_the_lenss(lens):
    strip = LogitLensStrip(lens)
    shipped = np.frombuffer(strip._strips, "<f4").reshape(5, len(lens.labels), 2)
    for label in range(5):
        np.testing.assert_allclose(shipped[label], lens.strip(label)[:, 0], rtol=1e-5, atol=1e-6)
    assert strip.label == int(lens.pooled[-1, 0].argmax())
    strip.set_state({"label": 3, "centred": False})
    torch.testing.assert_close(strip.strip(), lens.strip(3)[:, 0])
    strip.centred = True
    means = torch.stack([lens.strip(label)[:, 0] for label in range(5)]).mean(dim=0)
    torch.testing.assert_close(strip.strip(), lens.strip(3)[:, 0] - means)


def test_rows_of_the_lens_name_layers_and_clicks_move_the_explorer(lens, classifier, clip):
    strip, explorer = LogitLensStrip(lens), ClipExplorer(classifier, clip, threaded=False)
    assert strip._facts["layers"] == [0, 0, 1, 1, 2, 2, 2]
    link_views(strip, explorer, traits=("frame", "layer"))
    strip.set_state({"frame": 2, "layer": 1})
    assert (explorer.frame, explorer.layer) == (2, 1)
    explorer.frame = 3
    assert strip.frame == 3


def test_a_lens_that_cannot_be_laid_out_is_refused(lens):
    cut = LogitLens(lens.values[:, :, :3], lens.labels, lens.classes, lens.names, tokens=[0, 1, 2])
    with pytest.raises(InputError, match="does not hold all tokens"):
        LogitLensStrip(cut)
    with pytest.raises(InputError, match=r"clip must be one of 0..0"):
        LogitLensStrip(lens, clip=1)
    with pytest.raises(InputError, match="class 7 is not in the lens"):
        LogitLensStrip(lens, label=7)
    strip = LogitLensStrip(lens)
    strip.set_state({"layer": 5})
    assert "layer must be one of 0..2" in strip.error
    assert "Logit lens" in strip.to_html()
    assert strip._repr_html_() == lens._repr_html_()


# --- patching ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def patching(classifier, clip):
    return ActivationPatching(slabs=2, progress=False)(classifier, clip, ReverseFrames()(clip), 1)


def test_the_heat_is_the_tables_and_a_place_leads_to_the_clip(patching, classifier, clip):
    heat = PatchingHeatmap(patching, classifier.config.grid)
    shipped = np.frombuffer(heat._heat, "<f4").reshape(patching.shape)
    np.testing.assert_allclose(shipped, patching.heat[0].numpy(), rtol=1e-6)
    assert (heat.rows, heat.columns) == ("layer", "head")
    explorer = ClipExplorer(classifier, clip, threaded=False)
    link_views(heat, explorer, traits=("frame", "layer", "head"))
    heat.set_state({"place": {"layer": "2", "head": "1", "slab": "t 1", "region": "all"}})
    assert heat.error == ""
    assert (explorer.layer, explorer.head, explorer.frame) == (2, 1, 2)
    assert heat.at()["effect"] == pytest.approx(float(patching.mean[2, 1, 1, 0]))
    heat.set_state({"place": {"layer": "2", "head": "1", "slab": "CLS", "region": "all"}})
    assert explorer.frame == 2  # CLS has no time
    json.dumps(heat._columns, allow_nan=False)


def test_patching_refuses_what_is_not_there(patching):
    heat = PatchingHeatmap(patching)
    heat.set_state({"rows": "depth"})
    assert "there is no axis 'depth'; there are layer, head" in heat.error
    heat.set_state({"place": {"layer": "9"}})
    assert "a place has a label of each of" in heat.error
    assert "ActivationPatching" in heat.to_html()
    assert heat._repr_html_() == patching._repr_html_()


def test_a_table_of_one_axis():
    table = EffectTable(torch.tensor([[0.5, -1.0, torch.nan]]), ("layer",), {"layer": ["0", "1", "2"]}, "drop")
    heat = PatchingHeatmap(table)
    assert (heat.rows, heat.columns, heat.frame) == ("layer", "", 0)
    assert heat._columns["effect"] == [0.5, -1.0, None]


# --- pruning ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def curves(classifier):
    clips = (torch.randn(8, 4, 3, 32, 32), torch.arange(8) % 5)
    return PruningExperiment(classifier, clips, random=1, shares=(0.25, 0.5), timing_repeats=0).run(progress=False)


def test_the_curves_are_the_experiments_and_a_point_gives_its_mask(curves):
    view = PruningCurvesView(curves)
    for metric, found in view._curves.items():
        for series, shipped in found.items():
            curve = curves.curve(series, metric)
            assert shipped["shares"] == list(curve.shares)
            np.testing.assert_allclose([np.nan if v is None else v for v in shipped["mean"]], curve.mean)
    assert len(view.mask.kept) == 12
    view.set_state({"series": curves.series[1], "share": 0.5})
    assert view.mask == curves.mask(curves.series[1], 0.5) == view.chosen()
    assert len(view.mask.kept) == 6
    assert "6 of 12 heads left" in view.status
    view.share = 0.3  # the nearest point
    assert view.share == 0.25


def test_pruning_refuses_what_is_not_there(curves):
    view = PruningCurvesView(curves)
    view.set_state({"metric": "beauty"})
    assert "there is no 'beauty'; there are top1" in view.error
    view.set_state({"series": "alphabetical"})
    assert "no series 'alphabetical'" in view.error
    with pytest.raises(InputError, match="no point yet"):
        PruningCurvesView(PruningCurves(curves.settings, []))
    assert "Pruning curves" in view.to_html()
    assert view._repr_html_() == curves._repr_html_()


# --- faithfulness -----------------------------------------------------------------------------------------------------


def test_the_table_is_the_reports_and_a_clip_is_opened():
    report = stored_report()
    opened = []
    table = FaithfulnessTable(report, open_clip=lambda clip, method: opened.append((clip, method)) or "view")
    assert table.method == report.best(report.metrics[0])
    for row in report.table(report.metrics[:2]):
        assert table._report["cells"][f"{row.method} / {row.metric}"] == [row.mean, row.low, row.high, row.n]
    table.set_state({"method": "AttentionRollout", "metric": "joint_ap"})
    scores = report.scores["AttentionRollout"]["joint_ap"]
    assert [np.nan if value is None else value for value in table._scores] == pytest.approx(list(scores), nan_ok=True)
    table.set_state({"clip": "planted-00002"})
    assert opened == [("planted-00002", "AttentionRollout")]
    assert table.opened == "view"
    json.dumps(table._report, allow_nan=False)


def test_an_opener_that_fails_is_shown():
    def fail(clip, method):
        raise InputError(f"{clip} is gone")

    table = FaithfulnessTable(stored_report(), open_clip=fail)
    table.set_state({"clip": "planted-00000"})
    assert table.error == "planted-00000 is gone"
    table.set_state({"metric": "beauty"})
    assert re.search("the report has no 'beauty'; it has", table.error)
    table.set_state({"method": "Guess"})
    assert "the report has no 'Guess'" in table.error
    table.set_state({"clip": "mine"})
    assert "the report has no 'mine'" in table.error


def test_an_offline_table_has_every_clip():
    report = stored_report()
    table = FaithfulnessTable(report, clip="planted-00000")
    every = table.offline_state()["_every"]
    assert len(every) == sum(len(scores) for scores in report.scores.values())
    assert len(table.to_html()) < 2_000_000
    assert table._repr_html_() == report._repr_html_()
    assert "Faithfulness" in table.offline_title()
