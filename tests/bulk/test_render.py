"""Movies of many clips, and the page that shows them."""

import json
import os
import re

import numpy as np
import pytest

from tests.bulk.tiny_bulk import tiny_run
from vivit_lab.bulk import render_clips
from vivit_lab.bulk.render import Card, Gallery, write_page
from vivit_lab.errors import InputError
from vivit_lab.video import probe


def content(page):
    text = page.read_text(encoding="utf-8")
    return text, json.loads(re.search(r'type="application/json">(.*?)</script>', text, re.S)[1])


def test_movies_share_one_scale_and_the_page_needs_nothing_else(finished, tmp_path):
    ids = [finished.ids[place].as_py() for place in (0, 3, 5)]
    page = render_clips(finished, tmp_path, ids, method="chefer", percentile=90.0, workers=2, progress=False)
    text, data = content(page)
    assert "http" not in text.replace("http-equiv", "")
    values = finished.maps(ids, "chefer").relevance.numpy()
    assert data["limits"][1] == pytest.approx(float(np.percentile(values, 90)))
    assert [card["clip"] for card in data["cards"]] == ids
    assert data["cards"][1]["start"] == pytest.approx(0.3)
    assert set(data["cards"][0]["scores"]) == {"entropy", "peak", "time", "confidence", "margin", "loss"}
    assert data["cards"][0]["label"] == "LABEL_0"
    for clip in ids:
        assert probe(tmp_path / "movies" / f"{clip}.mp4").frames == 4
        assert (tmp_path / "thumbnails" / f"{clip}.jpg").stat().st_size


def test_a_video_that_is_gone_is_told_on_the_page(checkpoint, movies, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for path in movies[:2]:
        os.link(path, folder / path.name)
    results = tiny_run(checkpoint, folder, tmp_path / "run")
    (folder / movies[1].name).unlink()
    _, data = content(render_clips(results, tmp_path / "page", workers=1, progress=False))
    assert data["cards"][0]["error"] is None
    assert "there is no file" in data["cards"][1]["error"]


def test_no_text_ends_the_script_early(tmp_path):
    card = Card("a", "</script><b>", "/x", None, "<up>", 0.5, None, None, {})
    gallery = Gallery("a <b>", "share", (0.0, 1.0), 99.0, [(0, 0, 0)], [card])
    text, data = content(write_page(gallery, tmp_path / "index.html"))
    assert data["cards"][0]["title"] == "</script><b>"
    assert "<title>a &lt;b&gt;</title>" in text


def test_what_cannot_be_rendered(finished, tmp_path):
    with pytest.raises(InputError, match="has no map; choose clips"):
        render_clips(finished, tmp_path, [24])
    with pytest.raises(InputError, match="wanted 0 < percentile"):
        render_clips(finished, tmp_path, percentile=0)
