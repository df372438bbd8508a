"""The report: what goes in comes out again, and each table, figure and sentence says what the numbers say."""

import csv
import json
import math
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from vivit_lab.errors import InputError, MissingExtraError
from vivit_lab.faithfulness import FaithfulnessReport
from vivit_lab.faithfulness.measures import OrderCurves
from vivit_lab.faithfulness.report import Curve
from vivit_lab.faithfulness.sanity import SanityResult
from vivit_lab.statistics.intervals import bootstrap_interval, paired_difference

CLIPS = 20
FRACTIONS = (0.0, 0.5, 1.0)
OPTIONS = {"resamples": 200, "seed": 3}


def sanity(method, head, last, swap):
    rows = tuple((value,) * CLIPS for value in (head, last))
    return SanityResult(method, ("classifier", "embed"), rows, rows, rows, (swap,) * CLIPS, (swap,) * CLIPS)


def make(first=0, last=CLIPS, **changes):
    """Good leads by 0.3, Twin is not told apart from it, Weak is no better than chance; fewer clips on demand."""
    rng = np.random.default_rng(0)
    chance, noise = rng.random(CLIPS), rng.normal(size=(4, CLIPS)) * 0.05
    ap = {"Good": chance + 0.3 + noise[0], "Twin": chance + 0.3 + noise[1], "Weak": chance + noise[2]}
    ap |= {"Chance": chance, "Shifted": chance - 0.1 + noise[3]}
    scores = {name: {"joint_ap": values, "deletion_blur": -values} for name, values in ap.items()}
    del scores["Weak"]["deletion_blur"]
    scores["Good"]["joint_ap"][4] = math.nan
    scores = {name: {key: values[first:last] for key, values in each.items()} for name, each in scores.items()}
    fields = {
        "controls": ("Chance", "Shifted"),
        "model_id": "tiny",
        "settings": {"steps": 20, "window": (1, 2)},
        "sanity": {"Good": sanity("Good", 0.4, 0.1, 0.2), "Weak": sanity("Weak", 1.0, 0.5, 1.0)},
        "curves": {"Good": {"blur": Curve(FRACTIONS, (1.0, 0.25, 0.0), (1.0, 0.75, 0.0), last - first)}},
        **OPTIONS,
        **changes,
    }
    return FaithfulnessReport(scores, [f"clip {index}" for index in range(first, last)], **fields)


def test_intervals_and_differences_are_those_of_the_bootstrap():
    report = make()
    assert report.methods == ("Good", "Twin", "Weak", "Chance", "Shifted")
    assert report.metrics == ("joint_ap", "deletion_blur")
    good, chance = (report.scores[name] for name in ("Good", "Chance"))
    assert report.interval("Good", "joint_ap") == bootstrap_interval(good["joint_ap"], **OPTIONS)
    assert report.interval("Good", "joint_ap").n == CLIPS - 1
    found = report.beats_controls("joint_ap", "Good")
    assert list(found) == ["Chance", "Shifted"]
    assert found["Chance"] == paired_difference(good["joint_ap"], chance["joint_ap"], **OPTIONS)
    assert found["Chance"].low > 0
    lower = report.beats_controls("deletion_blur", "Good")["Chance"]  # lower is better: the sign is turned
    assert lower == paired_difference(chance["deletion_blur"], good["deletion_blur"], **OPTIONS)
    assert lower.low > 0
    assert report.difference("joint_ap", "Chance", "Good").mean == -found["Chance"].mean


def test_the_best_follows_the_direction():
    report = make()
    means = {name: report.interval(name, "joint_ap").mean for name in report.methods}
    assert report.best("joint_ap") == max(means, key=lambda name: means[name])
    means = {name: report.interval(name, "deletion_blur").mean for name in ("Good", "Twin", "Chance", "Shifted")}
    assert report.best("deletion_blur") == min(means, key=lambda name: means[name])
    controls = FaithfulnessReport({"A": {"saco": [0.1]}, "B": {"saco": [0.2]}}, ["x"], controls=["B"])
    assert controls.best("saco") == "A"
    assert controls.best("saco", controls=True) == "B"
    nothing = FaithfulnessReport({"A": {"saco": [math.nan]}}, ["x"])
    assert nothing.best("saco") is None
    assert nothing.verdicts() == []


@pytest.mark.parametrize(
    ("metric", "higher"),
    [
        ("when_auc", True),
        ("srg", True),
        ("srg_time_blur", True),
        ("morf_auc", False),
        ("lerf_auc", True),
        ("deletion_drop", False),
        ("insertion", True),
        ("saco", True),
        ("sensitivity_n", True),
        ("infidelity", False),
    ],
)
def test_directions_are_known(metric, higher):
    assert FaithfulnessReport({"A": {metric: [0.5]}}, ["x"]).higher_is_better(metric) is higher


def test_a_direction_may_be_given():
    report = FaithfulnessReport({"A": {"seconds": [1]}, "B": {"seconds": [2]}}, ["x"], directions={"seconds": "lower"})
    assert report.best("seconds") == "A"


def test_rows_and_csv_hold_every_score(tmp_path):
    report = make()
    rows = report.table()
    assert len(rows) == 9  # 5 × 2 less the one that Weak lacks
    assert [row.method for row in report.table(["deletion_blur"])] == ["Good", "Twin", "Chance", "Shifted"]
    report.to_csv(tmp_path / "report.csv")
    with open(tmp_path / "report.csv", encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    assert [(row["method"], row["metric"]) for row in read] == [(row.method, row.metric) for row in rows]
    assert [float(row["mean"]) for row in read] == [row.mean for row in rows]
    assert read[0] | {"mean": "", "low": "", "high": ""} == {
        "method": "Good",
        "control": "False",
        "metric": "joint_ap",
        "better": "higher",
        "mean": "",
        "low": "",
        "high": "",
        "n": "19",
    }


def same(one, other):
    """Whether two reports hold the same, NaN being NaN."""
    return repr((one.scores, one.clips, one.controls, one.model_id, one.settings, one.sanity, one.curves)) == repr(
        (other.scores, other.clips, other.controls, other.model_id, other.settings, other.sanity, other.curves)
    ) and (one.directions, one.level, one.resamples, one.seed) == (
        other.directions,
        other.level,
        other.resamples,
        other.seed,
    )


def test_json_gives_the_same_report_back(tmp_path):
    path = tmp_path / "report.json"
    report = make()
    report.to_json(path)
    read = FaithfulnessReport.from_json(path)
    assert same(read, report)
    assert read.table() == report.table()
    assert "NaN" not in path.read_text(encoding="utf-8")
    read.to_json(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_json_keeps_missing_sanity_values(tmp_path):
    none = SanityResult("Good", ("embed",), ((math.nan, 0.5),), ((0.1, 0.5),), ((0.1, 0.5),))
    report = FaithfulnessReport({"Good": {"saco": [0.1, 0.2]}}, ["a", "b"], sanity={"Good": none})
    report.to_json(tmp_path / "report.json")
    assert repr(FaithfulnessReport.from_json(tmp_path / "report.json").sanity["Good"]) == repr(none)


def test_tensors_arrays_and_lists_are_taken_alike():
    values = [0.25, 0.5, 1.0]
    for given in (values, np.array(values), torch.tensor(values), tuple(values)):
        assert FaithfulnessReport({"A": {"saco": given}}, "abc").scores["A"]["saco"] == (0.25, 0.5, 1.0)


def test_parts_merge_into_the_whole():
    part = {"sanity": {}}
    whole = make(**part)
    joined = FaithfulnessReport.merge([make(0, 8, **part), make(8, 15, **part), make(15, CLIPS, **part)])
    assert same(joined, whole)
    assert joined.table() == whole.table()


def test_merging_weighs_curves_by_clips_and_joins_sanity():
    one = make(0, 15, curves={"Good": {"blur": Curve((0, 1), (1.0, 0.0), (1.0, 0.4), 15)}})
    other = make(15, CLIPS, curves={"Good": {"blur": Curve((0, 1), (0.0, 0.0), (1.0, 0.8), 5)}}, sanity={})
    found = FaithfulnessReport.merge([one, other])
    curve = found.curves["Good"]["blur"]
    assert (curve.n, curve.fractions) == (20, (0, 1))
    assert curve.morf == pytest.approx((0.75, 0))
    assert curve.lerf == pytest.approx((1, 0.5))
    assert found.sanity == one.sanity
    again = FaithfulnessReport.merge([make(0, 15, curves={}), make(15, CLIPS, curves={})])
    assert len(again.sanity["Good"].spearman[0]) == 2 * CLIPS


def test_a_curve_is_the_mean_of_the_clips():
    morf, lerf = torch.rand(2, 4, 3)
    curve = Curve.mean_of(OrderCurves(torch.tensor(FRACTIONS), morf, lerf))
    assert (curve.fractions, curve.n) == (FRACTIONS, 4)
    assert curve.morf == pytest.approx(morf.mean(0).tolist())
    assert curve.lerf == pytest.approx(lerf.mean(0).tolist())


def test_the_text_is_aligned_and_marks_the_best_and_the_controls():
    report = make()
    lines = str(report).splitlines()
    assert lines[0] == "tiny: 3 methods and 2 controls on 20 clips; mean and 95 % interval over the clips"
    rows = [line for line in lines if line.startswith(("Good", "Twin", "Weak", "Chance (c)", "Shifted (c)"))]
    assert len(rows) == 5
    starts = {row.index("[") for row in rows}
    assert len(starts) == 1
    best = report.best("joint_ap")
    found = report.interval(best, "joint_ap")
    assert f"{found.mean:.3f}* [{found.low:.3f}, {found.high:.3f}]" in next(row for row in rows if row.startswith(best))
    assert "joint_ap ↑" in lines[2]
    assert "deletion_blur ↓" in lines[2]


def test_a_wide_table_is_cut_into_blocks():
    names = [f"srg_{letter}" for letter in "abcdefghij"]
    text = str(FaithfulnessReport({"A": {name: [0.1, 0.2, 0.4] for name in names}}, "xyz"))
    assert max(map(len, text.splitlines())) <= 120
    assert all(f"{name} ↑" in text for name in names)
    assert sum(line.startswith("A ") for line in text.splitlines()) == 2


def test_small_numbers_keep_three_digits():
    text = str(FaithfulnessReport({"A": {"infidelity": [1.234e-4, 1.234e-4]}}, "xy"))
    assert "0.000123* [0.000123, 0.000123]" in text
    assert "–" in str(FaithfulnessReport({"A": {"saco": [math.nan]}}, "x"))
    assert "-0.000" not in str(FaithfulnessReport({"A": {"saco": [-1e-5]}, "B": {"saco": [1]}}, "x"))


def test_markdown_is_a_table_with_the_best_in_bold():
    report = make()
    lines = report.markdown(["joint_ap"]).splitlines()
    assert lines[0] == "| method | joint_ap ↑ |"
    assert {line.count("|") for line in lines} == {3}
    assert [line for line in lines if "**" in line] == [
        line for line in lines if line.startswith(f"| {report.best('joint_ap')} |")
    ]
    assert lines[-1].startswith("| *Shifted* (control) |")
    assert report.markdown().splitlines()[4] == f"| Weak | {lines[4].split('|')[2].strip()} |  |"


class Reader(HTMLParser):
    """Checks that every tag is closed, and collects tags and text."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.words = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("br", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_html_is_whole_and_self_contained():
    report = make()
    reader = Reader()
    reader.feed(report._repr_html_())
    assert reader.open == []
    assert not any({"src", "href"} & set(attrs) for _, attrs in reader.tags)
    assert not {"script", "link", "style"} & {tag for tag, _ in reader.tags}
    assert sum(tag == "svg" for tag, _ in reader.tags) == 9
    text = " ".join(reader.words)
    for words in (
        "joint_ap ↑",
        "deletion_blur ↓",
        "control",
        "does not depend on the classifier",
        "beats every control",
    ):
        assert words in text
    assert "None" not in text
    assert "nan" not in text


def test_the_bars_of_a_column_share_a_scale():
    report = FaithfulnessReport({"A": {"saco": [0.0]}, "B": {"saco": [1.0]}, "C": {"saco": [0.5]}}, "x")
    reader = Reader()
    reader.feed(report._repr_html_())
    places = [float(attrs["cx"]) for tag, attrs in reader.tags if tag == "circle"]
    assert places[2] == pytest.approx((places[0] + places[1]) / 2, abs=0.1)
    assert places[1] > places[0]


def test_the_html_escapes_names_and_shows_what_is_missing():
    reader = Reader()
    report = FaithfulnessReport({"<b>&": {"saco": [math.nan]}, "B": {"srg": [1.0]}}, "x", model_id="<i>")
    reader.feed(report._repr_html_())
    assert reader.open == []
    assert "<b>&" in "".join(reader.words)
    assert "–" in " ".join(reader.words)
    assert not any(tag == "i" for tag, _ in reader.tags)


def test_short_sanity_words_follow_the_result():
    results = {
        "A": sanity("A", 0.3, 0.1, 0.2),
        "B": sanity("B", 1.0, 0.1, 1.0),
        "C": sanity("C", 1.0, 1.0, 1.0),
        "D": sanity("D", 0.9, 0.8, 0.9),
    }
    report = FaithfulnessReport({name: {"saco": [0.5]} for name in results}, "x", sanity=results)
    text = report._repr_html_()
    for words in (
        ">reacts<",
        ">does not depend on the classifier<",
        ">does not depend on the model<",
        ">keeps much of",
    ):
        assert text.count(words) == 1


def test_verdicts_are_drawn_from_the_numbers():
    said = make().verdicts()
    first = next(sentence for sentence in said if sentence.startswith("joint_ap ↑: best is "))
    best = first.split("best is ")[1].split(",")[0]
    assert "it beats every control, by the least margin" in first
    assert first.endswith(f"not told apart from it: {'Twin' if best == 'Good' else 'Good'}.")
    assert "better than Chance" in first
    assert any(sentence == "Beats every control in every metric: Good, Twin." for sentence in said)
    assert any(sentence == "Beats every control in no metric: Weak." for sentence in said)
    assert any(sentence.startswith("Weak does not depend on the classifier") for sentence in said)
    assert any(sentence.startswith("Good reacts to the classifier") for sentence in said)


def test_a_best_method_that_does_not_beat_a_control_is_named_as_such():
    values = np.random.default_rng(0).random(10)
    report = FaithfulnessReport(
        {"A": {"saco": values}, "Low": {"saco": values - 1}, "Same": {"saco": values[::-1]}},
        range(10),
        controls=["Low", "Same"],
    )
    (first, *_) = report.verdicts()
    assert "it does not clearly beat Same (" in first
    assert "Beats every control in no metric: A." in report.verdicts()


def test_figures_show_every_panel_and_touch_no_global_state():
    report = make()
    before = "matplotlib.pyplot" in sys.modules
    figure = report.intervals_figure()
    assert [axis.get_title() for axis in figure.axes] == ["joint_ap ↑", "deletion_blur ↓"]
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["Good", "Twin", "Weak", "Chance (control)", "Shifted (control)"]
    dots = [line.get_xdata()[0] for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
    assert dots == [report.interval(name, "joint_ap").mean for name in report.methods]
    assert figure._repr_png_().startswith(b"\x89PNG")
    curves = report.curves_figure()
    assert [axis.get_title() for axis in curves.axes] == ["Good"]
    assert [list(line.get_ydata()) for line in curves.axes[0].lines] == [[1, 0.75, 0], [1, 0.25, 0]]
    assert len(report.intervals_figure(["joint_ap"]).axes) == 1
    if not before:
        assert "matplotlib.pyplot" not in sys.modules


def test_spare_panels_are_hidden():
    curve = Curve(FRACTIONS, (1, 0, 0), (1, 1, 0), 1)
    scores = {name: {f"srg_{letter}": [1.0] for letter in "abcde"} for name in "ABCDEF"}
    curves = {name: {"blur": curve, "drop": curve} if name != "A" else {"drop": curve} for name in "ABCDEF"}
    report = FaithfulnessReport(scores, "x", curves=curves)
    assert sum(axis.get_visible() for axis in report.curves_figure().axes) == 6
    assert sum(axis.get_visible() for axis in report.intervals_figure().axes) == 5
    assert len(report.curves_figure(["A"]).axes[0].lines) == 2


def test_figures_name_the_missing_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"vivit-lab\[lab\]"):
        make().intervals_figure()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"clips": []}, "clips must be at least one and all different"),
        ({"clips": ["a", "a"]}, "clips must be at least one and all different"),
        ({"scores": {}}, "at least one method with one metric"),
        ({"scores": {"A": {"saco": [1.0]}}}, r"A's saco must be one value for each of 2 clips, got \(1,\)"),
        ({"scores": {"A": {"saco": [1.0, math.inf]}}}, "A's saco holds an infinity"),
        ({"controls": ["B"]}, r"control of \['B'\], which have no scores"),
        ({"sanity": {"B": None}}, r"sanity of \['B'\]"),
        ({"curves": {"B": {}}}, r"curves of \['B'\]"),
        ({"scores": {"A": {"seconds": [1.0, 2.0]}}}, "is a higher or a lower seconds better"),
        ({"directions": {"saco": "up"}}, "must be 'higher' or 'lower', got 'up'"),
        ({"settings": {"device": object()}}, "settings must be JSON-able"),
        ({"settings": {"x": math.nan}}, "settings must be JSON-able"),
        ({"level": 2.0}, "level must lie in"),
    ],
)
def test_what_does_not_fit_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        FaithfulnessReport(**{"scores": {"A": {"saco": [1.0, 2.0]}}, "clips": ["a", "b"], **fields})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda report: report.best("speed"), r"no metric 'speed'; it has joint_ap, deletion_blur"),
        (lambda report: report.markdown(["speed"]), "no metric 'speed'"),
        (lambda report: report.interval("Nobody", "joint_ap"), "no method 'Nobody'; it has Good"),
        (lambda report: report.beats_controls("deletion_blur", "Weak"), "Weak has no deletion_blur; it has joint_ap"),
        (lambda report: report.curves_figure(["Weak"]), r"no curves of \['Weak'\]; there are some of Good"),
    ],
)
def test_what_is_not_there_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call(make())


def test_a_report_without_curves_draws_none():
    with pytest.raises(InputError, match="no curves of any method; there are some of none"):
        make(curves={}).curves_figure()


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([], "nothing to merge"),
        ([make(0, 10), make(5, CLIPS)], "share clips, which would count twice: clip 5, clip 6"),
        ([make(0, 10), make(10, CLIPS, model_id="other")], "model_id differ: 'tiny', 'other'"),
        ([make(0, 10), make(10, CLIPS, settings={})], "settings differ"),
        (
            [make(0, 10), FaithfulnessReport({"A": {"joint_ap": [1], "deletion_blur": [1]}}, "x")],
            "controls differ|model_id",
        ),
        (
            [make(0, 10), make(10, CLIPS, curves={"Good": {"blur": Curve((0,), (1,), (1,), 10)}})],
            "curves of Good, blur, are not over the same fractions",
        ),
    ],
)
def test_what_does_not_merge_is_refused(others, message):
    with pytest.raises(InputError, match=message):
        FaithfulnessReport.merge(others)


def test_other_methods_do_not_merge():
    one, other = (FaithfulnessReport({name: {"saco": [1.0]}}, [name]) for name in "AB")
    with pytest.raises(InputError, match="do not have the same methods"):
        FaithfulnessReport.merge([one, other])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (((0, 1), (1,), (1, 0), 1), r"as many values as fractions and n >= 1, got \[2, 1, 2\]"),
        (((0, 1), (1, 0), (1, 0), 0), "n=0"),
        (((0, 1), (1, math.nan), (1, 0), 1), "finite numbers"),
    ],
)
def test_a_wrong_curve_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        Curve(*fields)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "report.json"
    with pytest.raises(FileNotFoundError):
        FaithfulnessReport.from_json(path)
    path.write_text("not json")
    with pytest.raises(InputError, match="is not JSON"):
        FaithfulnessReport.from_json(path)
    path.write_text(json.dumps({"format": "other"}))
    with pytest.raises(InputError, match="not a faithfulness report"):
        FaithfulnessReport.from_json(path)
