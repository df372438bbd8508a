"""The workbench in Python: loading, tabs, uploads, errors in the panel, and results as tabs."""

import threading

import pytest

import vivit_lab.widgets.workbench as module
from tests.model.tiny import TINY
from vivit_lab.errors import InputError, VideoNotFoundError
from vivit_lab.evaluation import stored_report
from vivit_lab.heads import HeadMask
from vivit_lab.model import VivitConfig
from vivit_lab.processing import VivitImageProcessor
from vivit_lab.widgets import CompareExplorer, FaithfulnessTable, Workbench
from vivit_lab.widgets.load_panel import LoadPanel, open_clip
from vivit_lab.widgets.workbench import view_of


@pytest.fixture
def bench(checkpoint, video):
    made = Workbench(threaded=False, checkpoint=str(checkpoint), clip_name=str(video), stride=1, start=0.5)
    yield made
    made.close()


def select(bench, name):
    bench.tabs.selected_index = list(bench._boxes).index(name)


def test_a_checkpoint_and_a_video_are_loaded_and_explored(bench):
    assert bench.panel.error == ""
    assert bench.clip.indices.tolist() == [5, 6, 7, 8]
    assert list(bench.views) == ["Explore"]
    assert bench._boxes["Explore"].children == (bench.views["Explore"],)


def test_tabs_are_filled_when_they_are_opened_and_move_together(bench):
    select(bench, "Heads")
    heads, explorer = bench.views["Heads"], bench.views["Explore"]
    assert heads.record is explorer.record  # one forward pass for both
    heads.set_state({"layer": 1, "head": 2})
    assert (explorer.layer, explorer.head) == (1, 2)
    heads.mask = HeadMask.without([(0, 0)], 3, 4)
    select(bench, "Compare")
    assert bench.views["Compare"].right_mask == heads.mask
    select(bench, "Logit lens")
    bench.views["Logit lens"].set_state({"frame": 2, "layer": 0})
    assert (explorer.frame, explorer.layer) == (2, 0)
    assert bench.panel.error == ""


def test_patching_runs_when_it_is_asked_for(bench):
    select(bench, "Patching")
    assert "Patching" not in bench.views
    form = bench._boxes["Patching"].children[0]
    form.children[1].value = 2
    form.children[2].click()
    assert bench.panel.error == ""
    heat = bench.views["Patching"]
    assert heat.result.labels["slab"] == ["t 0", "t 1", "CLS"]
    heat.set_state({"place": {**heat.place, "layer": "2", "slab": "t 1"}})
    assert (bench.views["Explore"].layer, bench.views["Explore"].frame) == (2, 2)
    form.children[2].click()  # anew: the old view goes
    assert sum(hasattr(one, "live") for one in bench._boxes["Patching"].children) == 1


@pytest.mark.parametrize("end", ["done", "cancelled", "failed"])
def test_a_tab_opened_while_patching_runs_waits_and_drops_nothing(checkpoint, video, monkeypatch, end):
    begun, go_on = threading.Event(), threading.Event()

    class Slow(module.ActivationPatching):
        def __call__(self, *arguments):
            begun.set()
            assert go_on.wait(60)
            if end == "failed":
                raise InputError("patching broke")
            return super().__call__(*arguments)

    monkeypatch.setattr(module, "ActivationPatching", Slow)
    bench = Workbench(checkpoint=str(checkpoint), clip_name=str(video), stride=1)
    assert bench.wait()
    click = bench._boxes["Patching"].children[0].children[2].click
    click()
    assert begun.wait(60)
    select(bench, "Logit lens")
    assert bench.panel.status == "Patching is running; Logit lens opens when it is done."
    click()
    assert bench.panel.status == "Patching is running; wait for it or cancel it, then start again."
    if end == "cancelled":
        bench.panel._on_message(bench.panel, {"type": "cancel"}, [])
    go_on.set()
    assert bench.wait()
    if end == "failed":  # the error is there to be read, and nothing opened over it
        assert "patching broke" in bench.panel.error
        assert not bench.panel.busy
        assert not {"Logit lens", "Patching"} & set(bench.views)
        bench.close()
        return
    assert "Logit lens" in bench.views
    assert ("Patching" in bench.views) == (end == "done")
    assert (bench.panel.error, bench.panel.busy, bench.panel.status) == ("", False, "Logit lens is ready.")
    bench.close()


def test_pruning_sets_the_heads_and_trust_jumps_to_a_clip():
    bench = Workbench(threaded=False)
    select(bench, "Heads")
    form = bench._boxes["Pruning"].children[0]
    form.children[1].value = 4
    form.children[2].click()
    assert bench.panel.error == ""
    bench.views["Pruning"].set_state({"share": 0.5})
    assert bench.views["Heads"].mask == bench.views["Pruning"].mask
    select(bench, "Trust")
    bench.views["Trust"].set_state({"clip": "planted-00007"})
    assert bench.panel.clip_name == "planted:7"
    assert bench.tabs.selected_index == 0
    assert list(bench.views) == ["Explore"]
    form.children[0].value = "/nowhere"
    bench._boxes["Pruning"].children[0].children[0].value = "/nowhere"
    bench._boxes["Pruning"].children[0].children[2].click()
    assert "/nowhere" in bench.panel.error
    bench.close()


def test_results_become_tabs(bench):
    report = stored_report()
    view = bench.show(report, "Report")
    assert isinstance(view, FaithfulnessTable)
    assert bench.tabs.titles[bench.tabs.selected_index] == "Report"
    with pytest.raises(InputError, match="no widget for a str"):
        view_of("a report")


def test_another_clip_closes_the_old_views(bench):
    old = bench.views["Explore"]
    bench.panel._on_message(bench.panel, {"type": "load", "fields": {"start": 0}}, [])
    assert bench.views["Explore"] is not old
    assert old.comm is None
    assert bench.clip.indices.tolist() == [0, 1, 2, 3]


def test_errors_of_loading_are_shown_and_the_last_model_stays(bench):
    model = bench.model
    bench.panel.checkpoint = "/no/such/directory"
    bench.panel.load()
    assert "/no/such/directory" in bench.panel.error
    assert bench.model is model
    bench.panel._on_message(bench.panel, {"type": "load", "fields": {"stride": 0}}, [])
    assert "cannot load" in bench.panel.error
    bench.panel.set_state({"dtype": "int3"})
    assert "dtype" in bench.panel.error


def test_an_upload_becomes_the_clip(bench, video):
    panel = bench.panel
    panel._on_message(panel, {"type": "upload", "name": "../../evil/mine.mp4"}, [memoryview(video.read_bytes())])
    path = panel.clip_name
    assert path.endswith("/mine.mp4")
    assert "evil" not in path
    panel.load()
    assert panel.error == ""
    panel._on_message(panel, {"type": "upload", "name": "notes.txt"}, [b"x"])
    assert "'notes.txt' is no video" in panel.error
    panel._on_message(panel, {"type": "upload", "name": "empty.mp4"}, [])
    panel.load()
    assert panel.error
    panel.close()
    with pytest.raises(FileNotFoundError):
        open(path)


def test_clips_by_name(tmp_path):
    config = VivitConfig(**{**TINY, "num_frames": 8})
    processor = VivitImageProcessor.trained_range(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    assert len(open_clip("planted:3", config, processor)) == 8
    assert len(open_clip("bundled", config, processor)) == 8
    with pytest.raises(InputError, match="a planted clip is called planted:7"):
        open_clip("planted:x", config, processor)
    with pytest.raises(VideoNotFoundError):
        open_clip(str(tmp_path / "none.mp4"), config, processor)


def test_loading_runs_in_the_background(checkpoint, video):
    bench = Workbench(checkpoint=str(checkpoint), clip_name=str(video), stride=1)
    assert bench.wait()
    assert bench.panel.error == ""
    assert "Explore" in bench.views
    assert not bench.panel.busy
    bench.close()


def test_a_panel_without_anything_loaded():
    panel = LoadPanel(threaded=False)
    assert "Nothing is loaded" in panel._repr_html_()
    assert "planted" in panel.to_html()


def test_a_model_without_classes_compares_two_attention_maps(tmp_path, video):
    bench = Workbench(threaded=False, load=False)
    assert bench.model is None
    select(bench, "Heads")  # nothing is loaded: nothing happens
    assert bench.views == {}
    from vivit_lab.families import VivitModel

    VivitModel(VivitConfig(**TINY)).save_pretrained(tmp_path)
    processor = VivitImageProcessor.trained_range(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path)
    bench.panel.checkpoint, bench.panel.clip_name = str(tmp_path), str(video)
    bench.panel.load()
    select(bench, "Compare")
    assert isinstance(bench.views["Compare"], CompareExplorer)
    assert bench.views["Compare"].right_method == "raw"
    select(bench, "Logit lens")
    assert "no classifier" in bench.panel.error
    bench.close()
