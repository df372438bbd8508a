import csv

import numpy as np
import pytest
import torch

from tests.training.tiny_run import SHAPE, model
from tests.training.videos import CLASSES, PROCESSOR, write_broken, write_folders
from vivit_lab.errors import InputError
from vivit_lab.training import ClassificationReport, LabelledClip, classify_clips, find_clips
from vivit_lab.training.scores import ClipPrediction
from vivit_lab.video import read_frames
from vivit_lab.video.read import temporal_views


@pytest.fixture
def network():
    made = model().train()
    made.config = SHAPE.replace(id2label=dict(enumerate(CLASSES)))
    return made


def test_logits_of_the_views_are_averaged(network, tmp_path):
    clips = find_clips(write_folders(tmp_path, each=2))
    report = classify_clips(network, PROCESSOR, clips, stride=2, views=3, progress=False)
    assert network.training  # as it was
    network.eval()
    for clip, row in zip(clips, report.rows, strict=True):
        views = [
            PROCESSOR.prepare(read_frames(clip.path, view)).pixel_values for view in temporal_views(0, 12, 4, 2, 3)
        ]
        with torch.no_grad():
            logits = sum(network(view).logits[0] for view in views) / 3
        assert row.predicted == CLASSES[int(logits.argmax())]
        assert row.probability == pytest.approx(float(logits.softmax(-1).max()), rel=1e-4)
        assert row.rank == 1 + int((logits > logits[CLASSES.index(clip.label)]).sum())
    assert report.accuracy == np.mean([row.label == row.predicted for row in report.rows])
    assert report.top(3) == 1.0


def test_a_clip_that_cannot_be_read_is_a_row_with_an_error(network, tmp_path):
    clips = find_clips(write_folders(tmp_path, each=1))
    clips.append(LabelledClip(write_broken(tmp_path / "red" / "x.mp4"), "red"))
    report = classify_clips(network, PROCESSOR, clips, views=1, progress=False)
    assert "x.mp4" in report.rows[3].error
    assert report.rows[3].predicted == ""
    assert report.confusion().sum() == 3
    assert str(report).endswith("on 3 clips, 1 view each, 1 could not be read")
    rows = list(csv.DictReader(report.to_csv(tmp_path / "rows.csv").read_text().splitlines()))
    assert [row["label"] for row in rows] == [*CLASSES, "red"]
    assert rows[3]["error"] == report.rows[3].error


def test_figures_of_a_report():
    rows = (
        ClipPrediction("1", "a", "a", 0.9, 1),
        ClipPrediction("2", "a", "b", 0.6, 2),
        ClipPrediction("3", "<b>", "b", 0.6, 1),
    )
    report = ClassificationReport(("a", "b", "<b>"), rows, 4)
    assert report.accuracy == pytest.approx(2 / 3)
    assert report.top(2) == 1.0
    assert report.confusion().tolist() == [[1, 1, 0], [0, 0, 0], [0, 1, 0]]
    assert "&lt;b&gt;" in report._repr_html_()
    assert "accuracy 0.667 [0.208, 0.939] on 3 clips, 4 views each" in report._repr_html_()
    lost = ClassificationReport(("a",), (ClipPrediction("1", "a", error="gone"),), 1)
    with pytest.raises(InputError, match=r"none of 1 clips could be read"):
        lost.top()
    assert "no clip could be read" in lost._repr_html_()
