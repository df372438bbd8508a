"""The report that the package ships: of this model, as the README shows it, and with what it must show."""

import json
import math
import re
from pathlib import Path

import pytest
import torch

import vivit_lab as lab
from tests.golden.make_planted import table
from vivit_lab.attribution.registry import METHODS
from vivit_lab.checkpoints import bundled_model_path
from vivit_lab.evaluation import all_methods
from vivit_lab.faithfulness import EvaluationPlan, evaluate
from vivit_lab.faithfulness.evaluation import label_of
from vivit_lab.faithfulness.sanity import randomised_stages

ROOT = Path(__file__).resolve().parent.parent
SHOWN = ["joint_ap", "spatial_ap", "when_auc", "srg", "saco", "deletion"]


@pytest.fixture(scope="module")
def report():
    return lab.evaluation.stored_report()


@pytest.fixture(scope="module")
def planted():
    return lab.load_pair("planted")


def test_it_is_of_every_method_and_control_on_as_many_clips_as_the_readme_says(report):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    count = report.settings["clips_seen"]
    assert f"--data planted --clips {count} " in text
    assert f"{len(report.clips)} of {count} clips" in text
    assert set(report.methods) - set(report.controls) == {label_of(method) for method in all_methods()}
    assert {name.split("(")[0] for name in report.methods} >= {kind.__name__ for kind in METHODS.values()}
    assert len(report.controls) == 3
    assert report.settings["data"] == {
        "kind": "planted", "count": count, "frames": 16, "size": 48, "level": 3, "split": "test", "rule": "outlined",
        "seed": 0,
    }  # fmt: skip
    for name in report.methods:
        assert not any(math.isnan(value) for metric in SHOWN for value in report.scores[name][metric])


def test_the_readme_shows_it():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- table: stored report -->\n(.*?)<!-- end of table -->", text, re.DOTALL)
    assert found
    assert found[1].strip() == lab.evaluation.stored_report().markdown(SHOWN).strip()


@pytest.mark.parametrize("metric", ["when_auc", "srg"])
def test_the_best_method_beats_all_three_controls(report, metric):
    best = report.best(metric)
    assert best not in report.controls
    leads = report.beats_controls(metric, best)
    assert set(leads) == set(report.controls)
    assert all(lead.low > 0 for lead in leads.values())


def test_rollouts_do_not_react_to_the_classifier_and_the_report_says_so(report):
    assert not report.sanity["AttentionRollout"].depends_on_classifier
    said = [line for line in report.verdicts() if line.startswith("AttentionRollout")]
    assert any("does not depend on the classifier" in line for line in said)


def test_the_readme_names_the_methods_that_fail_sanity_checks(report):
    assert set(report.sanity) == set(report.methods) - set(report.controls)
    agnostic = {name for name, result in report.sanity.items() if not result.depends_on_classifier}
    assert agnostic == {"RawAttention", "AttentionRollout", "ValueNormRollout"}
    kept = {name.split("(")[0] for name, result in report.sanity.items() if not result.passes} - agnostic
    assert kept == {"Rise"}


def test_gradient_methods_lose_their_maps_with_the_weights(report):
    without_gradients = {"RawAttention", "AttentionRollout", "ValueNormRollout", "Occlusion", "Rise"}
    found = {name: result for name, result in report.sanity.items() if name.split("(")[0] not in without_gradients}
    assert len(found) == 10
    for name, result in found.items():
        assert result.mean_spearman["embed"] < 0.3, name


def test_signed_smooth_gradients_lose_their_map_with_the_weights(planted):
    model, _ = planted
    clips = lab.planted.PlantedDataset(lab.planted.PlantedConfig(split="test"), 6)
    pixels = torch.stack([clips[index][0] for index in range(6)])
    last = randomised_stages(model)[-1]
    found = {}
    for signed in (False, True):
        method = lab.SmoothGrad(samples=8, times_input=signed)
        result = lab.faithfulness.check_sanity(method, model, pixels, stages=[last], progress=False)
        found[signed] = result.mean_spearman[last]
    assert abs(found[True]) < 0.2 < 0.3 < found[False]


def test_scores_of_its_first_clips_come_out_again(report, planted):
    model, processor = planted
    data = lab.evaluation.open_data("planted", model.config, processor, count=8)
    plan = EvaluationPlan(EvaluationPlan().curves[:1], None, None, None, 0)
    again = evaluate(model, data, [lab.AttentionRollout(), lab.CheferRelevance()], plan=plan, progress=False)
    assert again.clips == report.clips[: len(again.clips)]
    assert len(again.clips) >= 4
    for name in again.methods:
        for metric in ("joint_ap", "when_auc", "srg"):
            stored = report.scores[name][metric][: len(again.clips)]
            assert again.scores[name][metric] == pytest.approx(stored, abs=0.02), (name, metric)


def test_the_classifier_is_what_its_card_says(planted):
    model, _ = planted
    folder = bundled_model_path("planted")
    card, stored = (folder / "README.md").read_text(encoding="utf-8"), json.loads((folder / "report.json").read_text())
    assert table(stored) in card
    rates = {name: rate["rate"] for name, rate in stored["rates"].items()}
    assert stored["count"] >= 1000
    assert rates["accuracy"] >= 0.9
    assert abs(rates["single_frame"] - stored["chance"]) <= 0.03
    assert rates["shuffled"] < 0.5
    assert rates["reversal_flip"] >= 0.8
    assert sum(path.stat().st_size for path in folder.glob("*.safetensors")) <= 6_000_000
    assert model.config.num_hidden_layers >= 6
    assert model.config.num_attention_heads >= 6
    assert model.config.grid.t >= 8
    assert min(model.config.grid.h, model.config.grid.w) >= 6
    again = lab.planted.planted_report(model, lab.planted.PlantedConfig(split="test"), count=96, progress=False)[
        "rates"
    ]
    assert again["accuracy"]["rate"] == pytest.approx(stored["rates"]["accuracy"]["rate"], abs=0.12)
    assert again["shuffled"]["rate"] < 0.5
    assert again["single_frame"]["rate"] < 0.25
    assert again["reversal_flip"]["rate"] > 0.7


@pytest.mark.peer
def test_transformers_loads_the_classifier(planted):
    transformers = pytest.importorskip("transformers")
    model, _ = planted
    peer = transformers.VivitForVideoClassification.from_pretrained(bundled_model_path("planted")).eval()
    pixels = torch.stack(
        [lab.planted.PlantedDataset(lab.planted.PlantedConfig(split="test"), 2)[index][0] for index in range(2)]
    )
    with torch.inference_mode():
        torch.testing.assert_close(peer(pixels).logits, model(pixels).logits, rtol=1e-4, atol=1e-4)
