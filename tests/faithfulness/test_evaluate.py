"""The driver: the same report whole, in parts, resumed or by several workers; and what it hands to each measure."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import psutil
import pytest
import torch

from vivit_lab.attribution import CheferRelevance, RawAttention
from vivit_lab.errors import ConfigError, DamagedFileError, DamagedFileWarning, InputError, NotAVideoError
from vivit_lab.faithfulness import (
    EvaluationPlan,
    Infidelity,
    Perturbation,
    SaCo,
    SensitivityN,
    check_sanity,
    evaluate,
    localise,
)
from vivit_lab.faithfulness.evaluation import EvaluationBatch, label_of
from vivit_lab.families import VivitForVideoClassification, VivitModel
from vivit_lab.model import VivitConfig

CONFIG = VivitConfig(
    image_size=16, num_frames=4, tubelet_size=(2, 8, 8), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
    intermediate_size=32, num_labels=3, initializer_range=0.4,
)  # fmt: skip
CURVES = (Perturbation(baseline="drop", steps=4), Perturbation(region="time", baseline="blur", steps=2))
PLAN = EvaluationPlan(
    curves=CURVES,
    saco=SaCo(groups=4),
    sensitivity=SensitivityN(sizes=(0.5,), subsets=4),
    infidelity=Infidelity(sizes=(0.5,), subsets=4),
    sanity_clips=2,
    batch_size=3,
)
METHODS = [RawAttention(), CheferRelevance()]


@dataclass(frozen=True)
class Data:
    """Seven random clips with made-up evidence; labels are what the model says, but for clip 3."""

    labels: tuple = ()
    seed: int = 0
    truth: bool = True

    def __len__(self):
        return 7

    def batch(self, indices):
        pixels = torch.stack(
            [torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(self.seed + i)) for i in indices]
        )
        labels = torch.tensor([self.labels[i] for i in indices]) if self.labels else None
        mask = torch.zeros(len(indices), 2, 2, 2)
        mask[:, 1, 0, 1] = 0.5
        window = torch.tensor([[0.0, 1.0]]).expand(len(indices), -1)
        truth = (mask, window) if self.truth else (None, None)
        return EvaluationBatch(pixels, [f"clip {i}" for i in indices], labels, *truth)

    def describe(self):
        return {"kind": "random", "seed": self.seed, "labels": list(self.labels)}


class Slow(Data):
    """The same, from a disk that takes an hour."""

    def batch(self, indices):
        time.sleep(3600)
        return super().batch(indices)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """As in a worker: sums in another order would give other last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return VivitForVideoClassification(CONFIG).eval()


@pytest.fixture(scope="module")
def labelled(model):
    guess = model(Data().batch(range(7)).pixel_values).logits.argmax(-1).tolist()
    guess[3] = (guess[3] + 1) % 3
    return Data(tuple(guess))


@pytest.fixture(scope="module")
def report(model, labelled):
    return evaluate(model, labelled, METHODS, plan=PLAN, progress=False)


def same(first, second, tolerance=0.0):
    assert first.clips == second.clips
    for name, metrics in first.scores.items():
        for metric, values in metrics.items():
            assert second.scores[name][metric] == pytest.approx(values, abs=tolerance, nan_ok=True), (name, metric)
    assert first.sanity == second.sanity
    assert first.curves.keys() == second.curves.keys()


def test_the_report_holds_every_method_control_and_measure(report):
    assert report.methods == ("RawAttention", "CheferRelevance", "RandomMap", "CentreGaussian", "FrameDifference")
    assert report.controls == ("RandomMap", "CentreGaussian", "FrameDifference")
    wanted = {
        "joint_ap",
        "when_auc",
        "srg",
        "deletion",
        "insertion",
        "srg_time_blur",
        "saco",
        "sensitivity",
        "infidelity",
    }
    assert wanted <= set(report.metrics)
    assert set(report.sanity) == {"RawAttention", "CheferRelevance"}
    assert report.sanity["RawAttention"].depends_on_classifier is False
    assert report.sanity["CheferRelevance"].depends_on_classifier is True
    assert set(report.curves["RandomMap"]) == {"space_time, drop", "time, blur"}
    assert report.settings["clips_seen"] == 7
    assert set(report.settings["seconds_per_clip"]) == set(report.methods)


def test_clips_that_the_model_names_wrongly_are_left_out_unless_asked_for(model, labelled, report):
    assert report.clips == tuple(f"clip {i}" for i in (0, 1, 2, 4, 5, 6))
    plan = EvaluationPlan(
        curves=CURVES, saco=None, sensitivity=None, infidelity=None, sanity_clips=0, only_correct=False
    )
    every = evaluate(model, labelled, METHODS, plan=plan, progress=False)
    assert len(every.clips) == 7
    assert every.settings["clips_judged"] == 7
    assert not every.sanity
    assert {"saco", "sensitivity", "infidelity"}.isdisjoint(every.metrics)


def test_each_score_is_the_measure_called_by_hand(model, report):
    index = 4  # the fifth clip, fourth of those judged
    clip = Data().batch([index])
    for method in METHODS:
        heat = method(model, clip.pixel_values)
        scores = {
            metric: values[report.clips.index("clip 4")] for metric, values in report.scores[label_of(method)].items()
        }
        found = localise(heat, clip.mask, clip.window)
        for name, values in found.values.items():
            assert scores[name] == pytest.approx(float(values), abs=1e-5), name
        for curve, suffix in zip(CURVES, ("", "_time_blur"), strict=True):
            by_hand = curve(model, clip.pixel_values, heat)
            assert scores["srg" + suffix] == pytest.approx(float(by_hand.srg), abs=1e-4)
            assert scores["deletion" + suffix] == pytest.approx(float(by_hand.deletion), abs=1e-4)
        assert scores["saco"] == pytest.approx(float(PLAN.saco(model, clip.pixel_values, heat)), abs=1e-4)


def test_sanity_is_the_check_called_by_hand(model, labelled, report):
    pixels = labelled.batch([0, 1]).pixel_values
    by_hand = check_sanity(CheferRelevance(), model, pixels, progress=False)
    ours = report.sanity["CheferRelevance"]
    assert ours.stages == by_hand.stages
    for mine, theirs in zip(ours.spearman, by_hand.spearman, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-6, nan_ok=True)


def test_a_run_that_was_cut_off_goes_on_where_it_was(model, labelled, report, tmp_path, monkeypatch):
    class Broken(Data):
        def batch(self, indices):
            if 3 in indices:
                raise OSError("no such disk")
            return super().batch(indices)

    with pytest.raises(OSError, match="no such disk"):
        evaluate(model, Broken(labelled.labels), METHODS, plan=PLAN, out=tmp_path, progress=False)
    done = (tmp_path / "part-00000.json").stat().st_mtime_ns
    assert not list(tmp_path.glob("part-00001*"))
    again = evaluate(model, labelled, METHODS, plan=PLAN, out=tmp_path, progress=False)
    assert (tmp_path / "part-00000.json").stat().st_mtime_ns == done
    same(again, report)


def test_two_workers_find_what_one_finds(model, labelled, report, tmp_path):
    same(evaluate(model, labelled, METHODS, plan=PLAN, out=tmp_path, workers=2, progress=False), report, 1e-4)


def test_workers_end_with_a_run_that_is_killed(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import sys, torch\n"
        "from tests.faithfulness.test_evaluate import CONFIG, METHODS, PLAN, Slow\n"
        "from vivit_lab.faithfulness.evaluation import evaluate\n"
        "from vivit_lab.families.vivit import VivitForVideoClassification\n"
        "if __name__ == '__main__':\n"
        "    model = VivitForVideoClassification(CONFIG).eval()\n"
        "    evaluate(model, Slow(), METHODS, plan=PLAN, out=sys.argv[1], workers=2, progress=False)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    run = subprocess.Popen([sys.executable, str(script), str(tmp_path / "out")], env=environment)
    try:
        workers = wait_for(lambda: [each for each in psutil.Process(run.pid).children(True) if working(each)])
    finally:
        run.kill()
        run.wait()
    assert wait_for(lambda: not psutil.wait_procs(workers, timeout=0.1)[1])


def working(process):
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def wait_for(found, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.2)
    raise AssertionError(f"nothing happened for {seconds} s")


def test_the_cut_into_parts_does_not_matter(model, labelled, report):
    other = EvaluationPlan(**{**vars(PLAN), "batch_size": 7})
    found = evaluate(model, labelled, METHODS, plan=other, progress=False)
    for name, metrics in report.scores.items():
        for metric in ("joint_ap", "srg", "deletion", "saco", "sensitivity", "infidelity"):
            assert found.scores[name][metric] == pytest.approx(metrics[metric], abs=1e-3, nan_ok=True), (name, metric)


def test_another_run_is_refused(model, labelled, tmp_path):
    plan = EvaluationPlan(curves=CURVES[:1], saco=None, sensitivity=None, infidelity=None, sanity_clips=0)
    evaluate(model, labelled, METHODS, plan=plan, out=tmp_path, progress=False)
    with pytest.raises(ConfigError, match=r"holds the parts of a run with other methods; name another directory"):
        evaluate(model, labelled, METHODS[:1], plan=plan, out=tmp_path, progress=False)
    with pytest.raises(ConfigError, match=r"other data"):
        evaluate(model, Data(seed=5), METHODS, plan=plan, out=tmp_path, progress=False)
    torch.manual_seed(1)
    other = VivitForVideoClassification(CONFIG)
    with pytest.raises(ConfigError, match=r"other weights"):
        evaluate(other, labelled, METHODS, plan=plan, out=tmp_path, progress=False)


def test_other_settings_of_the_model_are_refused(model, labelled, tmp_path):
    plan = EvaluationPlan(curves=CURVES[:1], saco=None, sensitivity=None, infidelity=None, sanity_clips=0)
    evaluate(model, labelled, METHODS, plan=plan, out=tmp_path, progress=False)
    other = VivitForVideoClassification(replace(CONFIG, layer_norm_eps=1e-3)).eval()
    other.load_state_dict(model.state_dict())
    with pytest.raises(ConfigError, match=r"a run with other model; name another directory"):
        evaluate(other, labelled, METHODS, plan=plan, out=tmp_path, progress=False)


def test_methods_may_be_named_in_another_order_when_a_run_goes_on(model, labelled, report, tmp_path):
    evaluate(model, labelled, METHODS, plan=PLAN, out=tmp_path, progress=False)
    (tmp_path / "sanity-001.json").unlink()
    again = evaluate(model, labelled, METHODS[::-1], plan=PLAN, out=tmp_path, progress=False)
    assert again.sanity == report.sanity


def test_a_clip_that_cannot_be_read_is_left_out_and_named(model, labelled, report):
    class Holed(Data):
        def batch(self, indices):
            if 4 in indices:
                raise NotAVideoError("clip 4 has no video")
            return super().batch(indices)

    found = evaluate(model, Holed(labelled.labels), METHODS, plan=PLAN, progress=False)
    assert found.settings["clips_failed"] == ["clip 4 has no video"]
    assert found.settings["clips_seen"] == 6
    kept = [place for place, name in enumerate(report.clips) if name != "clip 4"]
    assert found.clips == tuple(report.clips[place] for place in kept)
    for name in ("RawAttention", "CheferRelevance"):
        want = [report.scores[name]["srg"][place] for place in kept]
        assert found.scores[name]["srg"] == pytest.approx(want, abs=1e-5)

    class Nothing(Data):
        def batch(self, indices):
            raise FileNotFoundError("there is no clip")

    with pytest.raises(InputError, match="none of 7 videos can be read, the first: there is no clip"):
        evaluate(model, Nothing(), METHODS, plan=PLAN, progress=False)


def test_a_backbone_takes_labelled_clips(labelled):
    plan = EvaluationPlan(curves=CURVES[:1], saco=None, sensitivity=None, infidelity=None, sanity_clips=0)
    found = evaluate(VivitModel(CONFIG).eval(), labelled, METHODS[:1], plan=plan, progress=False)
    assert len(found.clips) == 7


def test_without_classes_or_evidence_the_target_is_the_own_embedding(tmp_path):
    torch.manual_seed(0)
    backbone = VivitModel(CONFIG).eval()
    report = evaluate(backbone, Data(truth=False), METHODS, plan=PLAN, progress=False)
    assert len(report.clips) == 7
    assert "joint_ap" not in report.metrics
    assert {"srg", "saco"} <= set(report.metrics)


def another_digit(text):
    """The same JSON with one digit of a score changed."""
    place = text.index('"scores"')
    place = next(number for number in range(place, len(text)) if text[number] in "12345678")
    return text[:place] + str(int(text[place]) + 1) + text[place + 1 :]


def cut_off(text):
    return text[: len(text) // 2]


@pytest.mark.parametrize("damage", [cut_off, another_digit, lambda text: "", lambda text: "[1]", lambda text: "{}"])
def test_damaged_parts_are_named_and_computed_again(damage, model, labelled, tmp_path):
    plan = EvaluationPlan(curves=CURVES[:1], saco=None, sensitivity=None, infidelity=None, sanity_clips=0, batch_size=3)
    first = evaluate(model, labelled, METHODS, plan=plan, out=tmp_path, progress=False)
    part, other = tmp_path / "part-00001.json", tmp_path / "part-00000.json"
    whole, kept = json.loads(part.read_text()), other.stat().st_mtime_ns
    part.write_text(damage(part.read_text()))
    with pytest.warns(
        DamagedFileWarning, match=r"part-00001\.json is damaged .*part-00001\.json\.damaged; it is computed"
    ):
        again = evaluate(model, labelled, METHODS, plan=plan, out=tmp_path, progress=False)
    assert other.stat().st_mtime_ns == kept
    assert json.loads(part.read_text())["scores"].keys() == whole["scores"].keys()
    for name, scores in first.scores.items():
        for metric, values in scores.items():
            assert again.scores[name][metric] == pytest.approx(values, abs=1e-5, nan_ok=True)


def test_damaged_settings_of_an_evaluation_are_named(model, labelled, tmp_path):
    plan = EvaluationPlan(curves=CURVES[:1], saco=None, sensitivity=None, infidelity=None, sanity_clips=0, batch_size=3)
    evaluate(model, labelled, METHODS[:1], plan=plan, out=tmp_path, progress=False)
    assert json.loads((tmp_path / "run.json").read_text())["data"]["kind"] == "random"
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(
        DamagedFileError, match=r"run\.json is damaged .* put back a copy of it, or name another directory"
    ):
        evaluate(model, labelled, METHODS[:1], plan=plan, out=tmp_path, progress=False)


def test_wrong_use_is_refused(model, labelled):
    with pytest.raises(InputError, match=r"wanted clips and differently named methods, got 7 clips and \[\]"):
        evaluate(model, labelled, [])
    with pytest.raises(InputError, match=r"differently named methods"):
        evaluate(model, labelled, [RawAttention(), RawAttention()])
    with pytest.raises(InputError, match=r"workers=0 wants a model on the CPU"):
        evaluate(model, labelled, METHODS, workers=0)
    wrong = Data(tuple((label + 1) % 3 if index != 3 else label for index, label in enumerate(labelled.labels)))
    with pytest.raises(InputError, match=r"names none of 7 clips rightly"):
        evaluate(model, wrong, METHODS, plan=PLAN, progress=False)
    with pytest.raises(ConfigError, match=r"sanity_clips must be an integer from 0, got -1"):
        EvaluationPlan(sanity_clips=-1)
    with pytest.raises(ConfigError, match=r"two curves of one region and baseline"):
        EvaluationPlan(curves=(*CURVES, CURVES[1]))


def test_methods_are_called_by_class_and_what_is_not_the_default():
    assert label_of(CheferRelevance()) == "CheferRelevance"
    assert label_of(CheferRelevance(centred=True, start_layer=1)) == "CheferRelevance(centred, start_layer=1)"
    assert label_of(test_wrong_use_is_refused) == "test_wrong_use_is_refused"
