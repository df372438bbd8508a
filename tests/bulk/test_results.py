"""Results: lazily read, right in sum, and in other programs' forms."""

import csv

import duckdb
import numpy as np
import polars
import pyarrow.parquet as pq
import pytest
import torch
import zarr

from tests.bulk.tiny_bulk import tiny_run
from vivit_lab.bulk import BulkResults
from vivit_lab.bulk.results import FORMATS, export
from vivit_lab.errors import ConfigError, InputError
from vivit_lab.explain import load_pair
from vivit_lab.render import render_movie
from vivit_lab.widgets import ClipExplorer


@pytest.fixture(scope="module")
def maps(finished):
    """All maps that there are, with their places."""
    places = [place for place in range(25) if finished.row(place, ["status"])["status"] == "ok"]
    return places, finished.maps(places)


def test_rows_by_id_and_place(finished):
    name = finished.ids[7].as_py()
    assert finished.row(name, ["clip_id"]) == finished.row(7, ["clip_id"]) == {"clip_id": name}
    assert finished.row(-25, ["clip_id"]) == finished.row(0, ["clip_id"])
    assert finished.row(24, ["map"]) == {"map": None}
    with pytest.raises(InputError, match="there is no clip 'nobody'"):
        finished.row("nobody")
    with pytest.raises(InputError, match="clip 25 is outside"):
        finished.row(25)
    with pytest.raises(InputError, match="there are no columns nothing"):
        finished.table(["nothing"])
    with pytest.raises(InputError, match="there are no maps 'rise'"):
        finished.map(0, "rise")
    assert "of 4 parts" in repr(finished)


def test_pandas_polars_and_duckdb_read_the_same_numbers(finished):
    frame = finished.to_pandas(["status", "logits", "map"])
    parts = f"{finished.run.store.root}/clips/*.parquet"
    lazily = polars.scan_parquet(parts).sort("clip_id").collect()
    query = f"select clip_id, logits, map from '{parts}' where status = 'ok' order by clip_id"
    rows = duckdb.sql(query).fetchall()
    assert len(lazily) == len(frame)
    assert len(rows) == 20
    for clip, logits, heat in rows:
        np.testing.assert_array_equal(np.float32(logits), frame.loc[clip].logits)
        np.testing.assert_array_equal(np.float16(heat), frame.loc[clip]["map"])
    assert lazily["status"].to_list() == frame.sort_index().status.tolist()


def test_means_are_the_means_of_the_maps(finished, maps):
    places, heat = maps
    torch.testing.assert_close(finished.mean_map().relevance[0], heat.relevance.mean(0), atol=1e-6, rtol=1e-5)
    means = finished.class_means()
    assert sorted(means) == [f"LABEL_{number}" for number in range(5)]
    third = [row for row, place in enumerate(places) if place % 5 == 3]
    torch.testing.assert_close(means["LABEL_3"].relevance[0], heat.relevance[third].mean(0), atol=1e-6, rtol=1e-5)
    assert means["LABEL_3"].provenance["mean_of"] == len(third)
    assert means["LABEL_3"].target == f"mean of {len(third)} clips, LABEL_3"
    share = heat.relevance / heat.relevance.abs().sum((1, 2, 3), keepdim=True)
    equal = finished.mean_map(normalize=True)
    torch.testing.assert_close(equal.relevance[0], share.mean(0), atol=1e-6, rtol=1e-5)
    assert set(finished.class_means("chefer", by="correct")) <= {"True", "False"}


def test_the_nearest_clips_are_those_of_the_largest_cosine(finished, maps):
    places, heat = maps
    flat = torch.nn.functional.normalize(heat.relevance.flatten(1), dim=1)
    alike = flat @ flat[4]
    best = [finished.ids[places[row]].as_py() for row in alike.argsort(descending=True).tolist() if row != 4]
    found = finished.nearest(places[4], 6)
    assert [name for name, _ in found] == best[:6]
    assert found[0][1] == pytest.approx(float(alike.sort(descending=True).values[1]), abs=1e-3)
    assert len(finished.nearest(places[4], 3, by="logits")) == 3
    with pytest.raises(InputError, match="nearest compares one of"):
        finished.nearest(0, by="path")
    with pytest.raises(InputError, match="failed, so nothing is like it"):
        finished.nearest(24)


def test_the_extremes_are_the_ends_of_the_scores(finished, maps):
    places, heat = maps
    share = heat.relevance.flatten(1)
    share = share / share.sum(1, keepdim=True)
    grid = heat.grid
    expected = {
        "peak": share.max(1).values,
        "entropy": torch.special.entr(share).sum(1) / np.log(share.shape[1]),
        "time": share.view(len(share), grid.t, -1).sum(-1) @ ((torch.arange(grid.t) + 0.5) / grid.t),
    }
    logits = torch.from_numpy(np.stack([finished.row(place)["logits"] for place in places]))
    labels = torch.tensor([place % 5 for place in places])
    expected["confidence"] = logits.softmax(1).max(1).values
    expected["margin"] = logits.sort(1).values.diff(dim=1)[:, -1]
    expected["loss"] = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    ids = [finished.ids[place].as_py() for place in places]
    for by, values in expected.items():
        for largest in (True, False):
            found = finished.extremes(by, 3, largest=largest)
            ends = values.sort(descending=largest).values[:3]
            np.testing.assert_allclose([score for _, score in found], ends, rtol=2e-3, atol=1e-5)
            for name, score in found:
                assert float(values[ids.index(name)]) == pytest.approx(score, rel=2e-3, abs=1e-5)
    with pytest.raises(InputError, match="choose one of entropy"):
        finished.extremes("beauty")


def test_a_clip_of_it_renders_as_a_movie(finished, tmp_path):
    clip, heat = finished.clip(3), finished.map(3)
    assert clip.indices.tolist() == heat.frame_indices[0] == [3, 4, 5, 6]
    assert render_movie(clip, heat, tmp_path / "again.mp4").stat().st_size


def test_the_summary_shows_what_failed_and_the_mean(finished):
    page = finished._repr_html_()
    assert "25 of 25" in page
    assert "NotAVideoError" in page
    assert "Mean map of 20 clips, AttentionRollout" in page
    assert finished.failures(2) == finished.failures()[:2]


def test_what_is_no_run(tmp_path, finished):
    with pytest.raises(InputError, match="wanted the folder of a bulk run"):
        BulkResults.open(tmp_path)
    (tmp_path / "run.json").write_text('{"format": "later"}')
    with pytest.raises(ConfigError, match="has the format 'later'"):
        BulkResults.open(tmp_path)


def test_a_run_that_has_only_failures_can_be_looked_at(checkpoint, tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "bad.mp4").write_bytes(b"")
    results = tiny_run(checkpoint, tmp_path / "clips", tmp_path / "run")
    assert "bulk run" in results._repr_html_()
    with pytest.raises(InputError, match="has a map and a"):
        results.mean_map()


def test_exports_hold_the_same_rows(finished, maps, tmp_path):
    places, heat = maps
    done = {kind: export(finished, tmp_path / f"all.{kind}") for kind in FORMATS}
    table = pq.read_table(done["parquet"])
    assert table.column_names == finished.columns
    assert table["clip_id"].to_pylist() == finished.ids.to_pylist()
    with open(done["csv"], newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["clip_id"] for row in rows] == finished.ids.to_pylist()
    assert rows[3]["frame_indices"] == "3|4|5|6"
    with np.load(done["npz"]) as arrays:
        np.testing.assert_allclose(arrays["map"], heat.relevance, rtol=1e-6)
        assert arrays["head_entropy"].shape == (20, 3, 4)
        assert arrays["clip_id"].tolist() == [finished.ids[place].as_py() for place in places]
    group = zarr.open_group(done["zarr"], mode="r")
    assert group["map"].metadata.dimension_names == ("clip", "t", "h", "w")
    np.testing.assert_allclose(group["map"][:][places], heat.relevance, rtol=1e-6)
    assert np.isnan(group["map"][24]).all()
    assert group["clip_id"][:].tolist() == finished.ids.to_pylist()
    assert finished.to_zarr(tmp_path / "twice.zarr").endswith("twice.zarr")
    with pytest.raises(InputError, match="is there already"):
        export(finished, tmp_path / "all.csv")
    with pytest.raises(InputError, match="choose one of parquet"):
        export(finished, tmp_path / "all.xlsx")


def test_a_part_that_is_not_done_is_a_gap_in_zarr(checkpoint, movies, tmp_path):
    out = tmp_path / "run"
    tiny_run(checkpoint, movies, out)
    (out / "clips" / "part-000001.parquet").unlink()
    group = zarr.open_group(BulkResults.open(out).to_zarr(tmp_path / "all.zarr"), mode="r")
    gone = np.isnan(group["logits"][:]).all(1)
    assert gone.tolist() == [8 <= place < 16 for place in range(20)]


def test_a_clip_of_a_run_opens_in_the_explorer(finished, checkpoint):
    model, _ = load_pair(str(checkpoint))
    clip = finished.clip(3)
    explorer = ClipExplorer(model, clip, threaded=False, method="rollout")
    np.testing.assert_allclose(explorer.map.relevance[0], finished.map(3).relevance[0], rtol=2e-3, atol=1e-6)
