import json
import shutil

import numpy as np
import pytest
import torch

from tests.heads.pruning import HEADS, LAYERS, model_of
from tests.model.tiny import clips
from vivit_lab.errors import DamagedFileError, DamagedFileWarning, InputError
from vivit_lab.heads import (
    HeadImportance,
    HeadMask,
    MichelImportance,
    PruningCurves,
    PruningExperiment,
    SingleHeadAblation,
    clip_set,
    head_means,
    prune_heads,
)
from vivit_lab.heads.pruning import COSTS, _digest, attention_bytes, clip_metrics, speed_up
from vivit_lab.records import CosineSimilarity
from vivit_lab.training import TrainingConfig

QUICK = {"random": 2, "shares": (0.25, 0.75), "timing_repeats": 1}


@pytest.fixture(scope="module")
def data():
    torch.manual_seed(1)
    return clips(10), torch.arange(10) % 5


@pytest.fixture(scope="module")
def study(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    experiment = PruningExperiment(model_of(), data, **QUICK)
    return experiment, out, experiment.run(out)


def flipped(content):
    """One bit of a number's last digits or bytes."""
    changed = bytearray(content)
    place = len(changed) - 120
    changed[place] ^= 1
    return bytes(changed)


def test_points_are_those_of_the_masked_model_on_the_clips_that_judge(study, data):
    experiment, _, curves = study
    assert curves.series == ["least important first", "most important first", "random"]
    assert len(curves.points) == 3 * (1 + 1 + 2)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    scoring, judging = sorted(order[:5].tolist()), sorted(order[5:].tolist())
    scores = MichelImportance()(experiment.model, (data[0][scoring], data[1][scoring]))
    np.testing.assert_allclose(np.array(curves.importance), scores.values, rtol=1e-4)
    mask = scores.mask(keep=9)
    assert curves.mask("least important first", 0.25) == mask
    assert (
        curves.mask("most important first", 0.25).pruned == HeadMask.without(scores.ranking()[:3], LAYERS, HEADS).pruned
    )
    with torch.no_grad():
        full = experiment.model(data[0][judging]).logits
        left = experiment.model(data[0][judging], head_mask=mask).logits
    metrics = curves.at("least important first", 0.25)["metrics"]
    p, q = full.softmax(-1), left.softmax(-1)
    np.testing.assert_allclose(metrics["kl"], (p * (p / q).log()).sum(-1), rtol=1e-3, atol=1e-6)
    labels = data[1][judging]
    np.testing.assert_allclose(metrics["target_logit"], left[range(5), labels], rtol=1e-4, atol=1e-5)
    assert metrics["top1"] == (left.argmax(-1) == labels).tolist()
    assert metrics["agreement"] == (left.argmax(-1) == full.argmax(-1)).tolist()


def test_curves_begin_at_the_full_model_and_memory_falls_with_the_heads(study):
    _, _, curves = study
    for series in curves.series:
        assert curves.curve(series, "kl").mean[0] == 0
        assert curves.curve(series, "agreement").mean[0] == 1
        assert curves.curve(series, "attention_memory").mean == pytest.approx((1, 0.75, 0.25))
        assert curves.curve(series, "speed").mean[0] == 1
        assert np.diff(curves.curve(series, "parameters").mean).max() < 0
    kl = curves.curve("random", "kl")
    assert len(kl.runs) == 2
    assert kl.mean[1] == pytest.approx(np.mean([run[1] for run in kl.runs]))
    assert kl.low[1] <= kl.mean[1] <= kl.high[1]
    assert curves.mask("random", 0.25, 0) != curves.mask("random", 0.25, 1)
    assert set(curves.mask("random", 0.25).pruned) <= set(curves.mask("random", 0.75).pruned)


def test_a_run_that_was_cut_off_goes_on(study, data, monkeypatch):
    experiment, out, curves = study
    gone = sorted((out / "points").glob("*.json"))[-2:]
    before = [path.read_text() for path in gone]
    for path in gone:
        path.unlink()
    monkeypatch.setattr(MichelImportance, "__call__", None)  # heads are not scored again
    again = experiment.run(out)
    kept = [json.loads(text)["metrics"] for text in before]
    assert [json.loads(path.read_text())["metrics"] for path in gone] == kept
    speeds = [point.get("speed") for point in again.points]
    assert len(speeds) == len(curves.points)
    assert not list(out.rglob("*.part"))


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda content: b"", flipped])
@pytest.mark.parametrize("name", ["points/random_1_0250000.json", "scores.safetensors"])
def test_damaged_files_are_named_and_computed_again(name, damage, study, tmp_path):
    experiment, out, curves = study
    shutil.copytree(out, tmp_path / "study")
    path = tmp_path / "study" / name
    assert path.exists(), sorted(path.parent.iterdir())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(DamagedFileWarning, match=rf"{path.name} is .*{path.name}\.damaged; it is computed again"):
        again = experiment.run(tmp_path / "study")
    for point, wanted in zip(again.points, curves.points, strict=True):
        assert point["removed"] == wanted["removed"]
        for metric, values in wanted["metrics"].items():
            np.testing.assert_allclose(np.array(point["metrics"][metric], float), np.array(values, float), atol=1e-5)


def test_damaged_settings_of_a_study_are_named(study, tmp_path):
    experiment, out, _ = study
    shutil.copytree(out, tmp_path / "study")
    (tmp_path / "study" / "settings.json").write_text('{"seed": 0')
    with pytest.raises(DamagedFileError, match=r"settings\.json is damaged .* choose another directory"):
        experiment.run(tmp_path / "study")


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"random": 1}, {"fold_mean": True}, {"importance": MichelImportance(layer_norm=True)}]
)
def test_another_study_in_the_directory_is_refused(study, data, change):
    experiment, out, _ = study
    with pytest.raises(InputError, match="holds another study: "):
        PruningExperiment(experiment.model, data, **{**QUICK, **change}).run(out)
    with pytest.raises(InputError, match="weights: "):
        PruningExperiment(model_of(seed=1), data, **QUICK).run(out)


def test_other_numbers_of_the_same_look_are_another_study(data, tmp_path):
    model, quick = model_of(), {"random": 0, "reverse": False, "shares": (0.25,), "timing_repeats": 0}
    values = torch.arange(float(LAYERS * HEADS)).reshape(1, LAYERS, HEADS)
    other = values.clone()
    other[0, 0, :2] = torch.tensor([2.5, 2.6])  # of the least important
    given, changed = HeadImportance(values, "X"), HeadImportance(other, "X")
    assert repr(given) == repr(changed)
    pixels, labels = data
    moved = pixels.clone()
    moved[3, 0, 0, 0, 0] += 1
    curves = PruningExperiment(model, data, given, **quick).run(tmp_path / "given")
    again = PruningExperiment(model, (pixels.clone(), labels.clone()), given, **quick).run(tmp_path / "given")
    assert again.settings == curves.settings
    for clips_of, scores, named in (
        (data, changed, "importance_digest: "),
        (data, given.normalised(), "importance_"),
        ((moved, labels), given, "evaluation_digest: "),
        ((pixels, labels.flip(0)), given, "evaluation_digest: "),
        (pixels, given, "evaluation_digest: "),
    ):
        with pytest.raises(InputError, match=f"holds another study: {named}"):
            PruningExperiment(model, clips_of, scores, **quick).run(tmp_path / "given")

    def method(reference):
        return SingleHeadAblation("mean", reference=reference, target=torch.tensor([1]).expand(2), batch_size=2)

    scoring = clips(2)
    PruningExperiment(model, data, method(clips(2)), scoring=scoring, **quick).run(tmp_path / "method")
    for reference, judged in ((clips(2) + 1, scoring), (clips(2), scoring + 1)):
        with pytest.raises(InputError, match="holds another study: "):
            PruningExperiment(model, data, method(reference), scoring=judged, **quick).run(tmp_path / "method")


def test_a_digest_tells_what_is_inside():
    def parts(number):
        array = np.array([number, 1.0])
        return [
            array,
            torch.tensor(number),
            [array],
            {"a": array},
            clip_set((torch.full((1, 2, 3, 2, 2), number), torch.zeros(1))),
            CosineSimilarity(torch.full((3,), number)),
        ]

    digests = [_digest(value) for number in (0.0, 1.0) for value in parts(number)]
    assert len(set(digests)) == len(digests)
    assert digests == [_digest(value) for number in (0.0, 1.0) for value in parts(number)]


def test_without_timing_no_speed_is_told(data):
    curves = PruningExperiment(model_of(), data, random=0, reverse=False, shares=(0.25,), timing_repeats=0).run()
    assert [point["speed"] for point in curves.points] == [None, None]
    assert len(curves.plot().axes) == 6


def test_files_tables_and_pictures(study, tmp_path):
    _, out, curves = study
    curves = PruningCurves.load(out / "curves.json")
    curves.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (out / "curves.json").read_bytes()
    table = curves.to_pandas()
    assert len(table) == 9
    assert {"top1", "top1_low", "kl_high", "speed", "attention_memory"} <= set(table)
    assert len(curves.plot().axes) == 6
    assert len(curves.plotly().data) == 6 * 3 + 4 * 3
    assert "5 to score heads, 5 others to judge" in curves._repr_html_()
    assert "12 points, 5 evaluation clips" in repr(curves)
    for text in ("nothing", '{"format": "other"}', "[]"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(InputError, match=r"bad.json holds"):
            PruningCurves.load(tmp_path / "bad.json")
    with pytest.raises(FileNotFoundError):
        PruningCurves.load(tmp_path / "absent.json")
    with pytest.raises(InputError, match="there is no series 'best'"):
        curves.curve("best", "kl")
    with pytest.raises(InputError, match="'loss' is not known"):
        curves.curve("random", "loss")
    with pytest.raises(InputError, match="has no run 7"):
        curves.at("random", 0.25, run=7)
    assert set(COSTS) <= set(table)


def test_an_iterative_schedule_scores_what_is_left(data):
    model, calls = model_of(), []

    class Scores(MichelImportance):
        def __call__(self, model, clips, *, progress=None):
            calls.append(model.config.pruned_heads)
            return super().__call__(model, clips, progress=progress)

    experiment = PruningExperiment(
        model, data, Scores(), schedule="iterative", random=0, reverse=False, shares=(0.25, 0.5), timing_repeats=0
    )
    curves = experiment.run()
    assert calls[0] == {}
    assert sum(len(heads) for heads in calls[1].values()) == 3
    first, second = (curves.mask("least important first", share) for share in (0.25, 0.5))
    assert second & first == second
    assert (len(first.kept), len(second.kept)) == (9, 6)
    assert curves.at("least important first", 0.25)["speed"] is None
    assert np.isnan(curves.curve("least important first", "speed").mean[1])


def test_fold_means_are_of_the_scoring_clips(data):
    model = model_of()
    scores = MichelImportance()(model, data)
    curves = PruningExperiment(
        model, clips(4), scores, scoring=data, fold_mean=True, random=0, reverse=False, shares=(0.5,), timing_repeats=0
    )
    judged = clip_set(curves.data)
    point = curves.run().at("least important first", 0.5)
    pruned = prune_heads(model, scores.mask(keep=6), fold_mean=head_means(model, data))
    with torch.no_grad():
        pixels = judged.batch(range(4)).pixel_values
        full, left = model(pixels).logits, pruned(pixels).logits
    assert point["metrics"]["top1"] == [None] * 4  # no labels
    np.testing.assert_allclose(
        point["metrics"]["target_logit"], left.gather(1, full.argmax(1, keepdim=True))[:, 0], rtol=1e-4, atol=1e-5
    )


def test_recovery_trains_the_pruned_model(data, tmp_path):
    pytest.importorskip("accelerate")
    model = model_of()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = TrainingConfig(steps=30, batch_size=5, warmup_steps=1, learning_rate=3e-3, log_every=30)
    experiment = PruningExperiment(
        model, data, recover=config, random=0, reverse=False, shares=(0.75,), timing_repeats=0
    )
    curves = experiment.run(tmp_path)
    assert curves.series == ["least important first", "recovered"]
    pruned, trained = (curves.at(series, 0.75)["metrics"]["target_logit"] for series in curves.series)
    assert pruned != trained
    assert curves.at("recovered", 0.75)["removed"] == curves.at("least important first", 0.75)["removed"]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [point["metrics"] for point in experiment.run(tmp_path).points] == [
        point["metrics"] for point in curves.points
    ]


def test_clips_that_score_may_not_judge(data):
    with pytest.raises(InputError, match="3 clips are both among those that heads are scored on"):
        PruningExperiment(model_of(), data, scoring=data[0][:3]).run()
    twice = torch.cat((data[0][:2], data[0][:2]))
    with pytest.raises(InputError, match="clips are both among those"):
        PruningExperiment(model_of(), twice, seed=1, scoring=data[0][:2]).run()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schedule": "slow"}, "schedule='slow' is not known"),
        ({"shares": (0.5, 1.2)}, r"shares must be numbers in \[0, 1\]"),
        ({"shares": ()}, "at least one above 0"),
        ({"scoring_share": 1.0}, r"scoring_share must lie in \(0, 1\)"),
        ({"random": -1}, "random must be an integer from 0"),
        ({"timing_repeats": 1.5}, "timing_repeats must be an integer from 0"),
    ],
)
def test_fields_out_of_range_are_refused(data, fields, message):
    with pytest.raises(InputError, match=message):
        PruningExperiment(None, data, **fields)
    scores = MichelImportance()(model_of(), (data[0][:2], data[1][:2]))
    with pytest.raises(InputError, match="give a method, not its result"):
        PruningExperiment(None, data, scores, schedule="iterative")


def test_what_cannot_be_studied_is_refused(data):
    with pytest.raises(InputError, match="1 clips cannot be split"):
        PruningExperiment(model_of(), data[0][:1]).run()
    with pytest.raises(InputError, match="a pruning curve wants a classifier"):
        PruningExperiment(model_of(num_labels=0), data[0]).run()


def test_costs_are_measured():
    model, pixels = model_of(), clips(1)
    half = prune_heads(model, {layer: [0, 1] for layer in range(LAYERS)})
    size = 4 * 9 * 48 * 4 * LAYERS  # q, k, v, z × tokens × width × bytes
    assert attention_bytes(model, pixels) == size
    assert attention_bytes(half, pixels) == size // 2
    found = speed_up(model, half, pixels, 2)
    assert found["speed"] == pytest.approx(found["full_seconds"] / found["seconds"])
    same = clip_metrics(torch.eye(3), torch.eye(3), torch.arange(3))
    assert same["kl"] == [0, 0, 0]
    assert same["top1"] == same["agreement"] == [1, 1, 1]
