"""What a run does about files that were damaged, and videos that were changed, behind its back."""

import json
import os
import shutil
import uuid
import warnings
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.bulk.faults import assert_equal, assert_whole, link_clips
from tests.bulk.tiny_bulk import LOCAL, tiny_job, tiny_run
from vivit_lab.bulk import BulkResults, HeadSweepResults, MaskList, run_bulk, sweep_heads
from vivit_lab.bulk.results import export
from vivit_lab.bulk.store import Store
from vivit_lab.cli.app import main
from vivit_lab.errors import ChangedVideoWarning, ConfigError, DamagedFileError, DamagedFileWarning, InputError


@pytest.fixture(scope="module")
def whole(checkpoint, movies, tmp_path_factory):
    """A run of three parts of two clips."""
    folder = tmp_path_factory.mktemp("damage")
    videos = link_clips(folder / "clips", movies, 6)
    return tiny_run(checkpoint, videos, folder / "run", shard_size=2)


@pytest.fixture
def run(whole, tmp_path):
    """A copy of it, to damage."""
    return Path(shutil.copytree(whole.run.store.root, tmp_path / "run"))


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    """One bit in the middle of the numbers."""
    changed = bytearray(content)
    changed[len(changed) // 3] ^= 16
    return bytes(changed)


def flip_the_end(content: bytes) -> bytes:
    """One bit of the footer."""
    changed = bytearray(content)
    changed[-100] ^= 1
    return bytes(changed)


def other_columns(content: bytes) -> bytes:
    """A Parquet file of something else."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"clip_id": ["a", "b"]}), sink)
    return sink.getvalue().to_pybytes()


DAMAGES = [cut, flip, flip_the_end, other_columns, lambda content: b"", lambda content: content[:-1]]
DAMAGE = pytest.mark.parametrize("damage", DAMAGES, ids=["cut", "bit", "footer", "schema", "empty", "a byte less"])


def harm(path: Path, damage) -> Path:
    path.write_bytes(damage(path.read_bytes()))
    return path


@DAMAGE
def test_a_damaged_part_is_named_moved_aside_and_computed_again(damage, run, whole):
    part = harm(run / "clips" / "part-000001.parquet", damage)
    harmed = part.read_bytes()
    kept = (run / "clips" / "part-000000.parquet").stat().st_mtime_ns
    with pytest.warns(DamagedFileWarning, match=r"part-000001\.parquet is damaged \(.*\).*computed again"):
        results = run_bulk(None, None, run, executor=LOCAL, progress=False)
    assert_whole(results, 6)
    assert_equal(results, whole)
    assert (run / "clips" / "part-000000.parquet").stat().st_mtime_ns == kept
    (aside,) = (run / "damaged").glob("*.json")
    told = json.loads(aside.read_text())
    assert told["file"] == "clips/part-000001.parquet"
    assert "part-000001.parquet is damaged" in told["reason"]
    assert aside.with_suffix("").read_bytes() == harmed


@pytest.mark.parametrize("damage", [cut, flip_the_end, other_columns, lambda content: b""])
def test_status_and_results_name_it_and_go_on_with_the_rest(damage, run, whole, capsys, tmp_path):
    harm(run / "clips" / "part-000001.parquet", damage)
    results = BulkResults.open(run)
    status = results.status()
    assert status.damaged == ("clips/part-000001.parquet",)
    assert (status.parts_done, status.clips_done, status.is_complete) == (2, 4, False)
    assert main(["bulk", "status", str(run)]) == 0
    assert "part-000001.parquet" in " ".join(capsys.readouterr().out.split())
    missing = r"part-000001\.parquet is damaged .* its 2 rows are missing: vivit-lab bulk run --out "
    with pytest.warns(DamagedFileWarning, match=missing):
        assert results.table(["clip_id"])["clip_id"].to_pylist() == [
            name for place, name in enumerate(whole.ids.to_pylist()) if place not in (2, 3)
        ]
    assert len(results.to_pandas()) == 4  # told once
    assert results.mean_map().provenance["mean_of"] == 4
    np.testing.assert_array_equal(results.map(4).relevance, whole.map(4).relevance)
    with pytest.raises(DamagedFileError, match=r"part-000001\.parquet is damaged .* resume the run"):
        results.row(2)
    export(results, tmp_path / "rows.zarr")
    import zarr

    stored = zarr.open_group(str(tmp_path / "rows.zarr"), mode="r")["map"][:]
    assert [bool(np.isnan(rows).all()) for rows in stored] == [False, False, True, True, False, False]


def test_a_bit_in_the_numbers_is_told_by_whoever_reads_them(run):
    part = run / "clips" / "part-000002.parquet"
    maps = pq.ParquetFile(part).metadata.row_group(0)
    names = [maps.column(number).path_in_schema for number in range(maps.num_columns)]
    place = maps.column(names.index("map.list.element")).data_page_offset + 60
    content = bytearray(part.read_bytes())
    content[place] ^= 4
    part.write_bytes(content)
    results = BulkResults.open(run)
    assert results.row(5, ["clip_id"])["clip_id"] == results.ids[5].as_py()
    with pytest.raises(DamagedFileError, match=r"part-000002\.parquet is damaged"):
        results.map(5)
    with pytest.warns(DamagedFileWarning, match=r"part-000002\.parquet is damaged"):
        run_bulk(None, None, run, executor=LOCAL, progress=False)
    results.map(5)


def test_a_part_of_other_clips_is_none_of_the_runs(run, whole):
    shutil.copyfile(run / "clips" / "part-000002.parquet", run / "clips" / "part-000001.parquet")
    with pytest.warns(DamagedFileWarning, match=r"part-000001\.parquet holds other clips"):
        results = run_bulk(None, None, run, executor=LOCAL, progress=False)
    assert_equal(results, whole)


def test_only_the_parts_that_were_asked_for_are_mended(run, whole):
    for number in (0, 2):
        harm(run / "clips" / f"part-00000{number}.parquet", cut)
    with pytest.warns(DamagedFileWarning) as told:
        run_bulk(None, None, run, executor=LOCAL, shards="0:1", retry_errors=True, progress=False)
    assert [name for name in ("part-000000", "part-000002") if any(name in str(one.message) for one in told)] == [
        "part-000000"
    ]
    assert BulkResults.open(run).status().damaged == ("clips/part-000002.parquet",)


def test_a_part_in_an_object_store_is_moved_aside_too(checkpoint, movies, whole):
    place = f"memory://{uuid.uuid4().hex}/run"
    tiny_run(checkpoint, movies[:4], place, shard_size=2)
    store = Store.at(place)
    fs, root = fsspec.core.url_to_fs(place)
    fs.pipe_file(f"{root}/clips/part-000001.parquet", cut(store.read("clips/part-000001.parquet")))
    with pytest.warns(DamagedFileWarning, match=r"part-000001\.parquet is damaged .*computed again"):
        results = run_bulk(None, None, place, executor=LOCAL, progress=False)
    assert results.status().clips_done == 4
    assert len(store.listing("damaged")) == 2


def test_a_damaged_overlay_is_tried_again(checkpoint, movies, tmp_path):
    videos = link_clips(tmp_path / "clips", movies, 4)
    broken = videos / "clip-0001.mp4"
    broken.unlink()
    broken.write_bytes(b"")
    run = tmp_path / "run"
    tiny_run(checkpoint, videos, run, shard_size=2)
    broken.unlink()
    os.link(movies[1], broken)
    mended = run_bulk(None, None, run, executor=LOCAL, retry_errors=True, progress=False)
    assert mended.status().errors == 0
    overlay = harm(run / "overlay" / "part-000000.000.parquet", cut)
    again = BulkResults.open(run)
    assert (again.status().damaged, again.status().errors) == (("overlay/part-000000.000.parquet",), 1)
    with pytest.warns(DamagedFileWarning, match=r"the rows that were tried again in it are missing"):
        assert list(again.table(["status"])["status"].to_pylist()) == ["ok", "error", "ok", "ok"]
    with pytest.warns(DamagedFileWarning, match=overlay.name):
        results = run_bulk(None, None, run, executor=LOCAL, progress=False)
    assert results.status().errors == 0
    assert [path.name for path in (run / "overlay").iterdir()] == [overlay.name]


@pytest.mark.parametrize("damage", [cut, flip, None], ids=["cut", "bit", "gone"])
def test_hidden_states_are_part_of_a_part(damage, checkpoint, movies, tmp_path):
    run = tmp_path / "run"
    wanted = tiny_run(checkpoint, movies[:2], run, hidden_states="cls").hidden_states(1)
    (file,) = (run / "hidden").iterdir()
    file.unlink() if damage is None else harm(file, damage)
    if damage is not flip:  # a flipped bit of a number is known by the digest alone
        with pytest.raises(DamagedFileError, match=r"part-000000-.*\.safetensors is damaged or gone"):
            BulkResults.open(run).hidden_states(1)
    with pytest.warns(DamagedFileWarning, match=r"part-000000-.*\.safetensors, which clips/part-000000"):
        results = run_bulk(None, None, run, executor=LOCAL, progress=False)
    np.testing.assert_allclose(results.hidden_states(1), wanted, atol=2e-3)


def test_a_damaged_manifest_is_written_again_from_the_same_videos(run, whole, checkpoint, movies):
    harm(run / "manifest.parquet", cut)
    advice = "start the command again with the same VIDEOS"
    with pytest.raises(DamagedFileError, match=rf"manifest\.parquet, the list of the run's clips, .*{advice}"):
        run_bulk(None, None, run, executor=LOCAL, progress=False)
    with pytest.raises(DamagedFileError, match=advice):
        BulkResults.open(run).table()
    job = tiny_job(checkpoint, shard_size=2)
    with pytest.raises(DamagedFileError, match=advice):  # other videos are no help
        run_bulk(job, movies[:3], run, executor=LOCAL, progress=False)
    with pytest.warns(DamagedFileWarning, match=r"manifest\.parquet was damaged; .* written again"):
        results = run_bulk(job, Path(whole.row(0)["path"]).parent, run, executor=LOCAL, progress=False)
    assert_equal(results, whole)


@pytest.mark.parametrize("content", [b"", b'{"format": "vivit', b"\xff\xfe\x00"])
def test_a_damaged_run_json_is_named(content, run):
    (run / "run.json").write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"run\.json is damaged .* Put back a copy of it"):
        BulkResults.open(run)
    (run / "run.json").write_text("[]")
    with pytest.raises(ConfigError, match="has the format list"):
        BulkResults.open(run)


def test_a_damaged_part_of_a_sweep_is_computed_again(run, whole):
    swept = sweep_heads(run, MaskList.single, block_size=7, executor=LOCAL, progress=False)
    wanted, parts, rows = swept.summary, swept.parts, swept.table().num_rows
    name = harm(run / "sweeps" / "single" / "part-000001-0001.parquet", flip).name
    with pytest.warns(DamagedFileWarning, match=f"{name} is damaged .* Until then its rows are missing"):
        assert HeadSweepResults.open(run, "single").table().num_rows < rows
    with pytest.warns(DamagedFileWarning, match=f"{name} is damaged .*computed again"):
        again = sweep_heads(run, MaskList.single, block_size=7, executor=LOCAL, progress=False)
    assert again.parts == parts
    np.testing.assert_allclose(again.summary["kl"], wanted["kl"], atol=1e-5)


def test_a_changed_video_is_told_and_its_row_computed_again(checkpoint, movies, tmp_path):
    videos = tmp_path / "clips"
    videos.mkdir()
    for number, path in enumerate(movies[:4]):
        shutil.copyfile(path, videos / f"clip-{number}.mp4")
    run, job = tmp_path / "run", tiny_job(checkpoint, shard_size=2)
    first = run_bulk(job, videos, run, executor=LOCAL, progress=False)
    sweep_heads(run, MaskList.single, block_size=13, executor=LOCAL, progress=False)
    row = first.row(1)
    size = (videos / "clip-1.mp4").stat()
    assert (row["video_bytes"], row["video_modified"]) == (size.st_size, size.st_mtime)
    os.utime(videos / "clip-0.mp4", (1, 1))  # merely touched
    (videos / "clip-3.mp4").unlink()  # gone: its row stays
    shutil.copyfile(movies[7], videos / "clip-1.mp4")
    told = r"1 videos are not those .*: \S*clip-1\.mp4\. Their rows are computed again"
    with pytest.warns(ChangedVideoWarning, match=told):
        again = run_bulk(None, None, run, executor=LOCAL, progress=False)
    other = tiny_run(checkpoint, movies[7:8], tmp_path / "other")
    np.testing.assert_allclose(again.row(1)["logits"], other.row(0)["logits"], atol=1e-5)
    assert again.row(1)["video_digest"] == other.row(0)["video_digest"] != row["video_digest"]
    for place in (0, 2, 3):
        assert again.row(place, ["logits"])["logits"].tobytes() == first.row(place, ["logits"])["logits"].tobytes()
    comparison = first.compare(again)
    assert not comparison.is_equal
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # told once: the newest row knows the new video
        run_bulk(None, None, run, executor=LOCAL, progress=False)
    with pytest.warns(ChangedVideoWarning, match=r"clip-1\.mp4\. The parts of the sweep single .* computed again"):
        swept = sweep_heads(run, MaskList.single, block_size=13, executor=LOCAL, progress=False)
    assert swept.parts == (2, 2)


def test_a_change_of_the_same_size_and_a_copy_are_told_apart(checkpoint, movies, tmp_path):
    video, run = tmp_path / "clip.mp4", tmp_path / "run"
    content = movies[0].read_bytes()
    video.write_bytes(content)
    job = tiny_job(checkpoint)
    run_bulk(job, [video], run, executor=LOCAL, progress=False)
    video.unlink()
    video.write_bytes(content)
    os.utime(video, (5, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_bulk(job, [video], run, executor=LOCAL, progress=False)
    changed = bytearray(content)
    changed[-1] ^= 1
    video.write_bytes(changed)
    with pytest.warns(ChangedVideoWarning, match=r"clip\.mp4"):
        run_bulk(job, [video], run, executor=LOCAL, progress=False)


def test_a_changed_video_behind_a_url_is_told(checkpoint, movies, tmp_path):
    memory, place = fsspec.filesystem("memory"), f"memory://{uuid.uuid4().hex}"
    for number in range(2):
        memory.pipe_file(f"{place}/clip-{number}.mp4", movies[number].read_bytes())
    run = tmp_path / "run"
    first = run_bulk(tiny_job(checkpoint), place, run, executor=LOCAL, progress=False)
    assert first.row(0)["video_bytes"] == movies[0].stat().st_size
    memory.pipe_file(f"{place}/clip-1.mp4", movies[3].read_bytes())
    with pytest.warns(ChangedVideoWarning, match=r"1 videos .*clip-1\.mp4"):
        again = run_bulk(None, None, run, executor=LOCAL, progress=False)
    assert again.row(1)["video_digest"] != first.row(1)["video_digest"]
    assert again.status().retried == 1


def test_a_run_of_an_earlier_version_is_read_and_goes_on(run, whole):
    """Its run.json and parts know nothing of marks and digests."""
    info = json.loads((run / "run.json").read_text())
    del info["layout"]["marks"], info["clips_digest"]
    (run / "run.json").write_text(json.dumps(info))
    for path in (run / "clips").iterdir():
        table = pq.read_table(path)
        names = [name for name in table.column_names if not name.startswith("video_")]
        pq.write_table(table.select(names), path, compression="zstd")
    (run / "clips" / "part-000002.parquet").unlink()
    harm(run / "clips" / "part-000001.parquet", cut)
    with pytest.warns(DamagedFileWarning, match=r"part-000001\.parquet is damaged"):
        results = run_bulk(None, None, run, executor=LOCAL, progress=False)
    assert "video_bytes" not in results.columns
    assert results.status().clips_done == 6
    np.testing.assert_allclose(results.row(5)["logits"], whole.row(5)["logits"], atol=1e-5)
    assert results.compare(whole).differences == ("columns video_bytes, video_digest, video_etag, video_modified",)


def rewritten(run: Path, column: str, change) -> BulkResults:
    """A copy of a run in which one row of a column is another."""
    path = run / "clips" / "part-000000.parquet"
    store, results = Store.at(run), BulkResults.open(run)
    table = store.read_table("clips/part-000000.parquet")
    rows = table.to_pylist()
    rows[1][column] = change(rows[1][column])
    changed = results.run.layout.table(rows).replace_schema_metadata(table.schema.metadata)
    path.unlink()
    store.write_table("clips/part-000000.parquet", changed, split=results.run.layout.split)
    return BulkResults.open(run)


def next_half(values):
    """The map with one half a step further."""
    values = np.asarray(values, np.float16)
    values[3] = np.nextafter(values[3], np.float16(np.inf))
    return values


def test_equal_means_equal_up_to_rounding(run, whole):
    close = rewritten(run, "map", next_half)
    assert close.row(1)["map"].tobytes() != whole.row(1)["map"].tobytes()
    assert close.equals(whole)
    assert close.digest() == whole.digest()
    assert 0 < close.compare(whole).worst["map"] < 2**-9
    assert "6 clips, equal up to rounding" in str(close.compare(whole))
    far = rewritten(run, "map", lambda values: np.asarray(values, np.float16) * np.float16(1.01))
    assert far.digest() == whole.digest()
    name = whole.ids[1].as_py()
    assert far.compare(whole).differences == (f"map: {name}",)
    assert far.equals(whole, tolerance=0.02)
    with pytest.raises(InputError, match="tolerance must be at least 0"):
        far.equals(whole, tolerance=-1)


@pytest.mark.parametrize(
    ("column", "change", "exact"),
    [
        ("logits", lambda values: np.float32(values) * np.float32(1 + 1e-4), False),
        ("prediction", lambda index: (index + 1) % 5, False),
        ("head_entropy", lambda values: np.float16(values) + np.float16(0.02), False),
        ("frame_indices", lambda indices: [index + 1 for index in indices], True),
        ("label", lambda label: "1", True),
        ("video_digest", lambda digest: "0" * 32, True),
    ],
)
def test_what_differs_is_named(column, change, exact, run, whole):
    other = rewritten(run, column, change)
    assert other.compare(whole).differences == (f"{column}: {whole.ids[1].as_py()}",)
    assert (other.digest() != whole.digest()) == exact


def test_a_clip_that_only_one_run_has_is_a_difference(run, whole):
    (run / "clips" / "part-000002.parquet").unlink()
    some = BulkResults.open(run)
    wanted = (f"clips that only one run has: {whole.ids[4].as_py()}, {whole.ids[5].as_py()}",)
    assert some.compare(whole).differences == whole.compare(some).differences == wanted


@pytest.fixture
def opened(monkeypatch):
    """The safetensors files of weights that were opened, in order."""
    import safetensors

    from vivit_lab.checkpoints import files

    names, opener = [], files.safe_open

    def counting(path, *arguments, **options):
        names.append(os.fspath(path))
        return opener(path, *arguments, **options)

    monkeypatch.setattr(files, "safe_open", counting)
    monkeypatch.setattr(safetensors, "safe_open", counting)
    return names


def test_a_run_loads_its_model_once(opened, checkpoint, movies, tmp_path):
    run, job = tmp_path / "run", tiny_job(checkpoint, shard_size=2)
    run_bulk(job, movies[:4], run, executor=LOCAL, shards="0:1", progress=False)
    assert len(opened) == 1, opened
    for again in (job, None):  # on resume as well, with and without something left to do
        opened.clear()
        run_bulk(again, None, run, executor=LOCAL, retry_errors=True, progress=False)
        assert len(opened) == 1, opened
    opened.clear()
    sweep_heads(run, MaskList.single, executor=LOCAL, progress=False)
    assert len(opened) == 1, opened
