"""No text of a file, a model or a person becomes markup or a path: whatever shows or names something is fed with it.

What there is to feed is found in the package's code, so that a new `_repr_html_`, page or file name fails until it is
fed here too.
"""

import ast
import html.parser
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import vivit_lab as lab
from tests.bulk.tiny_bulk import LOCAL, tiny_run, write_clips
from tests.faithfulness.test_report import sanity
from tests.model.tiny import TINY
from vivit_lab.bench.table import Column
from vivit_lab.bulk.render import Card, Gallery, write_page
from vivit_lab.families import ModelCost
from vivit_lab.heads import Taxonomy
from vivit_lab.heads.roles import HeadKinds, HeadRoles
from vivit_lab.interventions import EffectTable
from vivit_lab.records.values import record_values
from vivit_lab.training import ClassificationReport, FinetuneResult
from vivit_lab.training.loop import TrainingResult
from vivit_lab.training.scores import ClipPrediction
from vivit_lab.widgets.base import offline_page
from vivit_lab.widgets.load_panel import LoadPanel

ROOT = Path(lab.__file__).parent
ATTACKS = (
    '"><img src=x onerror=alert(1)>',
    "'><script>alert(2)</script>",
    "</script><script>alert(3)</script>",
    "</style><svg onload=alert(4)>",
    "{{ 7 * 7 }}{% raw %}<b>",
    "\x1b[2J\x00\x08",
)
TEXT = "".join(ATTACKS)
MACHINE = ("processor", "cores", "threads", "memory_gb", "system", "torch", "load", "gpu")
MARKUP = re.compile(r"<!?[a-zA-Z][a-zA-Z0-9]*(\s[^<>]*)?/?>|</[a-zA-Z]+>")


class Parsed(html.parser.HTMLParser):
    """The elements of a page, what its attributes are called, and the text outside of scripts."""

    def __init__(self, page):
        super().__init__()
        self.names, self.attributes, self.text, self._inside = [], set(), "", ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside not in ("script", "style"):
            self.text += data


def assert_harmless(page, scripts=0):
    """The hostile text made no element or attribute, and nothing of it stands in the page as it was."""
    assert type(page) is str, "text that is added to it would be escaped"
    parsed = Parsed(page)
    assert parsed.names.count("script") == scripts
    assert not {name for name in parsed.attributes if name.startswith("on")}
    for attack in ATTACKS[:4]:
        assert attack not in page
    assert not any(control in page for control in "\x00\x08\x1b")


@pytest.fixture
def model():
    torch.manual_seed(0)
    names = {index: f"{TEXT} {index}" for index in range(3)}
    model = lab.VivitForVideoClassification(lab.VivitConfig(**TINY, num_labels=3, id2label=names)).eval()
    model.name_or_path = TEXT
    return model


@pytest.fixture
def clip(model):
    size = model.config.image_size
    processor = lab.VivitImageProcessor.trained_range(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )
    frames = np.random.default_rng(0).integers(0, 255, (model.config.num_frames, size, size, 3), dtype=np.uint8)
    return processor.prepare(replace(lab.Clip.from_frames(frames), path=TEXT))


def effects():
    labels = {"layer": [TEXT, "1"], "head": [TEXT, "1", "2"], "time": [TEXT, "1"]}
    effect = torch.randn(5, 2, 3, 2, dtype=torch.float64)
    fields = {"what": TEXT, "method": TEXT, "parameters": {"by": TEXT}, "targets": [TEXT] * 5, "model_id": TEXT}
    return EffectTable(effect, ("layer", "head", "time"), labels, resamples=50, **fields)


def report():
    scores = {TEXT: {"joint_ap": [0.1, 0.2, 0.3], TEXT: [0.2, 0.4, 0.5]}, f"{TEXT}2": {"joint_ap": [0.1, 0.3, 0.2]}}
    checks = {TEXT: sanity(TEXT, 0.4, 0.1, 0.2)}
    return lab.faithfulness.FaithfulnessReport(
        scores, [TEXT, "b", "c"], controls=(f"{TEXT}2",), model_id=TEXT, sanity=checks, directions={TEXT: "higher"}
    )


def curves(model):
    clips = (torch.randn(8, 4, 3, 32, 32), torch.arange(8) % 3)
    done = lab.heads.PruningExperiment(model, clips, random=0, shares=(0.25,), timing_repeats=0).run(progress=False)
    settings = {name: TEXT if isinstance(value, str) else value for name, value in done.settings.items()}
    return lab.heads.PruningCurves(settings, [{**point, "series": TEXT} for point in done.points], done.importance)


def prediction():
    rows = (ClipPrediction(TEXT, f"{TEXT} 0", f"{TEXT} 1", 0.5, 2), ClipPrediction(TEXT, f"{TEXT} 1", error=TEXT))
    return ClassificationReport((f"{TEXT} 0", f"{TEXT} 1"), rows, 1)


def results_of(model, clip):
    """Return class name → an instance that holds hostile text wherever it takes text."""
    pixels = clip.pixel_values
    heat = lab.CheferRelevance()(model, clip)
    agnostic = replace(lab.RawAttention()(model, clip), method=TEXT, scale=TEXT, parameters={"a": TEXT})
    record = lab.record_attention(model, clip)
    layer_head = {"layer": [TEXT], "head": [TEXT, "1"]}
    two = EffectTable(torch.randn(4, 1, 2, dtype=torch.float64), ("layer", "head"), layer_head, what=TEXT, resamples=50)
    machine = dict.fromkeys(MACHINE, TEXT)
    values = record_values(model, clip, final_state=True)
    statistics = lab.head_statistics(model, [clip])
    return {
        "AttributionMap": agnostic,
        "ArtefactTokens": lab.attribution.artefact_tokens(values, heat),
        "AttentionSinks": lab.attribution.attention_sinks(record),
        "SpaceTimeSeparation": lab.attribution.space_time_separation(replace(heat, method=TEXT)),
        "ClassContrast": lab.attribution.class_contrast(lab.CheferRelevance(), model, clip, 0, 1),
        "ActivationCache": model.run_with_cache(pixels)[1],
        "LogitLens": lab.logit_lens(model, pixels),
        "ModelCost": ModelCost(10, 20, {TEXT: 10}),
        "LogitAttribution": replace(lab.direct_logit_attribution(model, pixels, by="head"), targets=[TEXT]),
        "AttentionRecord": record,
        "ClassificationReport": prediction(),
        "FinetuneResult": FinetuneResult(
            TrainingResult(1, 1.0, 0.5, Path(TEXT.replace("\x00", ""))), model, None, (TEXT,), (), None, prediction()
        ),
        "HeadMask": lab.HeadMask.ones(2, 3),
        "HeadStatistics": replace(statistics, model_id=TEXT),
        "HeadRoles": HeadRoles(two, two, 0.05),
        "HeadImportance": lab.heads.HeadImportance(torch.rand(4, 2, 3), TEXT, {"a": TEXT}, TEXT, TEXT, model_id=TEXT),
        "HeadKinds": HeadKinds(((TEXT, "other"),), Taxonomy(), False),
        "PruningCurves": curves(model),
        "Explanation": lab.explain.Explanation(
            clip, agnostic, None, {TEXT: Path("a\x08b<img src=x onerror=alert(1)>.mp4")}
        ),
        "PlantedClip": lab.planted.planted_clip(lab.planted.PlantedConfig(split="test"), 4),
        "EffectTable": effects(),
        "FaithfulnessReport": report(),
        "Clip": clip,
        "BenchTable": lab.bench.BenchTable("x", TEXT, (Column(TEXT, TEXT),), ({TEXT: TEXT},), machine, notes=(TEXT,)),
    }


def widgets_of(model, clip):
    """Return class name → a widget of hostile results."""
    panel = LoadPanel(threaded=False)
    panel.status = TEXT
    lens = lab.logit_lens(model, clip.pixel_values)
    made = {
        "ClipExplorer": lab.ClipExplorer(model, clip, threaded=False),
        "CompareExplorer": lab.CompareExplorer.of_methods(model, clip, "rollout", "chefer", threaded=False),
        "HeadExplorer": lab.HeadExplorer(model, clip, threaded=False),
        "LoadPanel": panel,
        "LogitLensStrip": lab.widgets.LogitLensStrip(lens),
        "PatchingHeatmap": lab.widgets.PatchingHeatmap(effects()),
        "PruningCurvesView": lab.widgets.PruningCurvesView(curves(model)),
        "FaithfulnessTable": lab.widgets.FaithfulnessTable(report()),
    }
    made["LabWidget"] = made["HeadExplorer"]
    return made


def bulk_results(checkpoint, tmp_path):
    """Return a run of whose clips, labels and methods a stranger wrote the names."""
    videos = write_clips(tmp_path / "clips", 3)
    results = tiny_run(checkpoint, [str(path) for path in videos], tmp_path / "run")
    results.run.info["model_id"] = TEXT
    return results


def modules():
    """Return (module, tree) of every module of the package."""
    for path in sorted(ROOT.rglob("*.py")):
        yield path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."), ast.parse(path.read_text())


def classes_that_show_themselves():
    return {
        node.name
        for _, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and any(isinstance(one, ast.FunctionDef) and one.name == "_repr_html_" for one in node.body)
    }


def test_whatever_shows_itself_in_a_notebook_is_harmless(model, clip, checkpoint, tmp_path):
    made = results_of(model, clip) | widgets_of(model, clip)
    made["BulkResults"] = bulk_results(checkpoint, tmp_path)
    masks = lab.bulk.MaskList("other", ("all", TEXT), (lab.HeadMask.ones(3, 4),) * 2)
    made["HeadSweepResults"] = lab.bulk.sweep_heads(tmp_path / "run", masks, executor=LOCAL, progress=False)
    assert classes_that_show_themselves() <= set(made), "new: give them hostile text here"
    for name, result in made.items():
        try:
            assert_harmless(result._repr_html_())
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


@pytest.mark.filterwarnings("ignore:Glyph", "ignore:constrained_layout")  # a figure of such names is no beauty
def test_a_page_is_a_script_of_its_own_and_data(tmp_path):
    card = Card(TEXT, TEXT, TEXT, 0.0, TEXT, 0.5, TEXT, False, {TEXT: 1.0}, TEXT)
    gallery = write_page(Gallery(TEXT, TEXT, (0.0, 1.0), 99.0, [(0, 0, 0)], [card]), tmp_path / "index.html")
    assert_harmless(gallery.read_text(encoding="utf-8").replace(r"\u0000", ""), scripts=2)
    page = offline_page("export default {}", "p {}", {"status": TEXT, "data": b"1"}, TEXT)
    assert_harmless(page, scripts=3)
    files = lab.evaluation.write_report(report(), tmp_path / "report")
    assert_harmless(Path(files["html"]).read_text(encoding="utf-8"))


def test_every_page_of_the_package_is_fed():
    """Pages are what templates of whole documents make; each such template is used in the test above."""
    templates = ROOT / "templates"
    whole = {path.name for path in templates.iterdir() if "<!doctype" in path.read_text(encoding="utf-8").lower()}
    assert whole == {"gallery.html", "widget_page.html", "plain_page.html"}, "new: give the page hostile text above"
    for path in templates.iterdir():
        assert "| safe" not in path.read_text(encoding="utf-8")


def strings_outside_docstrings(tree):
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node


def test_no_module_makes_markup_by_hand():
    made = [
        f"{name}:{node.lineno} {node.value[:60]!r}"
        for name, tree in modules()
        if not name.startswith("show/")
        for node in strings_outside_docstrings(tree)
        if MARKUP.search(node.value)
    ]
    assert made == []


def test_only_show_says_what_is_safe():
    """``Markup`` around text that comes from elsewhere would switch escaping off."""
    calls = {
        name.replace("/", ".")
        for name, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Markup"
        and node.args
        and not (isinstance(node.args[0], ast.Constant) and node.args[0].value == "")
    }
    assert calls == {"html", "widgets.base"}  # the latter for the package's own style sheets


def test_no_script_writes_markup_from_data():
    for path in [*ROOT.rglob("*.js"), *ROOT.rglob("*.html")]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|srcdoc|\beval\(", text), path


#: Functions that make a file's name of something that is no constant, and why the name stays in its folder.
NAMES_OF_FILES = {
    "bulk.render._draw_one": "clip ids: plain_name refuses others, see the test below",
    "bulk.store._write_local": "of the package's own files, and a UUID",
    "checkpoints.files._exchange": "of the package's own files, and the process's number",
    "checkpoints.files._part": "of the package's own files, and the process's number",
    "evaluation.write_report": "kinds of files that the function itself lists",
    "explain.movie_path": "the video's own stem, and the name of a class",
    "faithfulness.evaluation._is_done": "numbers of tasks, and the names of methods, which file_stem makes plain",
    "faithfulness.evaluation.do": "likewise",
    "heads.pruning._point": "the names of series that the experiment itself lists, and numbers",
    "heads.pruning._recovered": "numbers",
    "heads.pruning._scores": "as _point",
    "training.loop.checkpoint": "numbers",
    "video.index._stored_place": "a digest of the video, in hexadecimal",
}


def test_every_name_of_a_file_is_known_to_stay_in_its_folder():
    made = {
        f"{name.replace('/', '.')}.{function.name}"
        for name, tree in modules()
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.right, ast.JoinedStr)
    }
    assert made == set(NAMES_OF_FILES), "new or gone: say why the name is harmless, or make it so (vivit_lab.files)"


def rewritten(run, column, value):
    """Put a value into a column of a run's first part, as a stranger who writes the file would."""
    (part,) = sorted(Path(run.store.root).rglob("part-*.parquet"))
    table = pq.read_table(part)
    place = table.column_names.index(column)
    values = [value, *table[column].to_pylist()[1:]]
    pq.write_table(table.set_column(place, table.schema.field(column), [values]), part)


@pytest.mark.parametrize("name", ["../../ESCAPED", "/ESCAPED", "a/../../ESCAPED", "..", "a\x00b", "x" * 300])
def test_ids_of_clips_do_not_lead_out_of_the_folder(checkpoint, tmp_path, name):
    results = bulk_results(checkpoint, tmp_path)
    rewritten(results.run, "clip_id", name)
    before = {path for path in tmp_path.rglob("*") if "gallery" not in path.parts}
    with pytest.raises(lab.errors.InputError, match="wanted the plain name of a file beside it"):
        lab.bulk.render_clips(lab.BulkResults.open(tmp_path / "run"), tmp_path / "gallery" / "page", progress=False)
    assert {path for path in tmp_path.rglob("*") if "gallery" not in path.parts} == before


def test_hidden_states_are_read_from_the_runs_own_folder_alone(checkpoint, tmp_path):
    videos = write_clips(tmp_path / "clips", 2)
    results = tiny_run(checkpoint, [str(path) for path in videos], tmp_path / "run", hidden_states="cls")
    torch.save({}, tmp_path / "secret")
    rewritten(results.run, "hidden_file", "../secret")
    again = lab.BulkResults.open(tmp_path / "run")
    with pytest.raises(lab.errors.InputError, match="wanted the plain name of a file beside it"):
        again.hidden_states(0)
