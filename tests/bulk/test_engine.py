"""A run from end to end: what is in it, what it does with bad files, and how it goes on."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import vivit_lab as lab
from tests.bulk.faults import assert_equal
from tests.bulk.tiny_bulk import LOCAL, tiny_job, tiny_run
from tests.model.tiny import TINY
from vivit_lab.attribution import AttentionRollout, CheferRelevance
from vivit_lab.bulk import BulkJob, LocalExecutor, MaskList, run_bulk, sweep_heads
from vivit_lab.bulk import job as stages
from vivit_lab.bulk.engine import make_executor, shard_range
from vivit_lab.bulk.run import _rate
from vivit_lab.errors import ConfigError, InputError
from vivit_lab.explain import load_pair
from vivit_lab.families import VivitForVideoClassification
from vivit_lab.model import VivitConfig
from vivit_lab.model.config import VARIANTS
from vivit_lab.video import read_clip, read_frames


def test_every_clip_has_one_row_and_bad_files_say_why(finished):
    frame = finished.to_pandas()
    assert len(frame) == frame.index.nunique() == 25
    failed = frame[frame.status == "error"].set_index("path")
    assert {path.rsplit("bad-", 1)[1] for path in failed.index} == {
        f"{kind}.mp4" for kind in ("garbage", "truncated", "empty", "audio", "missing")
    }
    assert (failed.error_stage == "decode").all()
    for path, row in failed.iterrows():
        assert path in row.error
    kinds = {path.rsplit("bad-", 1)[1][:-4]: row.error_type for path, row in failed.iterrows()}
    assert kinds["missing"] == "VideoNotFoundError"
    assert kinds["empty"] == kinds["audio"] == "NotAVideoError"
    status = finished.status()
    assert (status.clips_done, status.errors, status.parts_done, status.seconds_left) == (25, 5, 4, 0.0)
    good = frame[frame.status == "ok"]
    assert status.accuracy == good.correct.mean()


def test_a_row_holds_what_the_notebook_shows(finished, movies, checkpoint):
    model, processor = load_pair(str(checkpoint))
    for place in (0, 3, 19):
        clip = read_clip(movies[place], 4, 1, processor=processor)
        if place == 3:  # the segment from 0.3 s on
            clip = processor.prepare(read_frames(movies[3], [3, 4, 5, 6]))
        row = finished.row(place)
        logits = model(clip.pixel_values).logits[0].detach()
        np.testing.assert_allclose(row["logits"], logits, atol=1e-5)
        assert row["prediction"] == int(logits.argmax())
        assert row["topk_index"] == logits.topk(5).indices.tolist()
        assert row["correct"] == (row["prediction"] == place % 5)
        assert row["frame_indices"] == clip.indices.tolist()
        for name, method in (("rollout", AttentionRollout()), ("chefer", CheferRelevance())):
            ours, stored = method(model, clip), finished.map(place, name)
            largest = float(ours.relevance.abs().max())
            torch.testing.assert_close(stored.relevance, ours.relevance, atol=largest * 2**-10, rtol=0)
            assert (stored.method, stored.parameters, stored.scale) == (ours.method, ours.parameters, ours.scale)
            assert stored.sources == ours.sources
            assert stored.target == ours.target


def test_a_run_made_twice_is_equal_up_to_rounding(finished, checkpoint, table, tmp_path):
    again = tiny_run(checkpoint, table, tmp_path / "again", methods=("rollout", "chefer"))
    assert_equal(again, finished)


def test_batches_of_one_and_of_eight_agree(checkpoint, movies, tmp_path):
    one = tiny_run(checkpoint, movies[0].parent, tmp_path / "one", batch_size=1)
    eight = tiny_run(checkpoint, movies[0].parent, tmp_path / "eight", batch_size=8)
    for place in range(len(one)):
        np.testing.assert_allclose(one.row(place)["logits"], eight.row(place)["logits"], atol=1e-5)
        torch.testing.assert_close(one.map(place).relevance, eight.map(place).relevance, atol=1e-5, rtol=0)


def test_two_model_processes_give_what_one_gives(finished, checkpoint, table, tmp_path):
    spread = LocalExecutor(workers=2, devices=("cpu", "cpu"))
    job = tiny_job(checkpoint, methods=("rollout", "chefer"))
    results = run_bulk(job, table, tmp_path / "two", executor=spread, progress=False)
    assert results.status().clips_done == 25
    ours, theirs = results.table(["clip_id", "status"]), finished.table(["clip_id", "status"])
    assert ours.equals(theirs)
    torch.testing.assert_close(results.map(5).relevance, finished.map(5).relevance, atol=1e-5, rtol=0)


def test_a_run_goes_on_with_the_parts_that_are_missing(checkpoint, table, finished, tmp_path):
    job = tiny_job(checkpoint, methods=("rollout", "chefer"))
    out = tmp_path / "run"
    first = run_bulk(job, table, out, executor=LOCAL, shards="1:3", progress=False)
    assert first.reader.parts == [1, 2]
    with pytest.raises(InputError, match="shard 0 is not done yet"):
        first.row(0)
    kept = (out / "clips" / "part-000001.parquet").stat().st_mtime_ns
    (out / "clips" / "part-000002.parquet").unlink()
    whole = run_bulk(None, None, out, executor=LOCAL, progress=False)
    assert (out / "clips" / "part-000001.parquet").stat().st_mtime_ns == kept
    assert_equal(whole, finished)
    assert_equal(run_bulk(job, table, out, executor=LOCAL, progress=False), finished)


def test_another_run_in_the_folder_is_refused(finished, checkpoint, table, movies):
    out = finished.run.store.root
    with pytest.raises(ConfigError, match="other methods"):
        run_bulk(tiny_job(checkpoint), table, out)
    with pytest.raises(ConfigError, match="other batch_size"):
        run_bulk(tiny_job(checkpoint, methods=("rollout", "chefer"), batch_size=2), table, out)
    with pytest.raises(ConfigError, match="other shard_size"):
        run_bulk(tiny_job(checkpoint, methods=("rollout", "chefer"), shard_size=4), table, out)
    with pytest.raises(ConfigError, match="clips: 1 are new and 6 are gone"):
        run_bulk(tiny_job(checkpoint, methods=("rollout", "chefer")), movies[0].parent, out)


def test_a_run_among_its_videos_is_refused(checkpoint, movies):
    folder = movies[0].parent
    with pytest.raises(InputError, match=r"is the folder of the videos, .*; give the run a folder of its own"):
        run_bulk(tiny_job(checkpoint), folder, f"{folder}/", progress=False)
    assert not (folder / "run.json").exists()


def test_results_want_an_opened_run(tmp_path):
    with pytest.raises(InputError, match=r"wanted an opened run, got '.*': open its folder with BulkResults\.open"):
        lab.BulkResults(str(tmp_path))


def test_a_run_of_another_version_of_the_numbers_is_refused(checkpoint, movies, tmp_path, monkeypatch):
    tiny_run(checkpoint, movies[:2], tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("vivit_lab.bulk.run._NUMERICS", 1)
        with pytest.raises(ConfigError, match="other numerics"):
            run_bulk(None, None, tmp_path / "run", executor=LOCAL)
    with monkeypatch.context() as patch:  # a default that changed: the job's text says nothing of it
        patch.setattr(BulkJob, "built", lambda job: [("map", AttentionRollout(residual=0.3))])
        with pytest.raises(ConfigError, match="other methods"):
            run_bulk(None, None, tmp_path / "run", executor=LOCAL)


def test_the_rate_leaves_pauses_out():
    assert _rate([10.0, 20.0, 30.0], 30) == pytest.approx(1.0)
    assert _rate([10.0, 20.0, 30.0, 90_030.0, 90_040.0], 50) == pytest.approx(1.0)
    assert _rate([10.0], 4) is None
    assert _rate([10.0, 10.0], 4) is None


def test_other_labels_are_refused(checkpoint, movies, tmp_path):
    manifest = tmp_path / "clips.csv"
    manifest.write_text(f"path,label\n{movies[0]},1\n{movies[1]},2\n")
    tiny_run(checkpoint, manifest, tmp_path / "run")
    manifest.write_text(f"path,label\n{movies[0]},1\n{movies[1]},3\n")
    with pytest.raises(ConfigError, match=r"other labels for 1 clips, the first \w+: '2' there, '3' here"):
        tiny_run(checkpoint, manifest, tmp_path / "run")


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_runs(variant, checkpoint, movies, tmp_path):
    mine = tmp_path / "model"
    model = VivitForVideoClassification(VivitConfig(**TINY, num_labels=5, variant=variant))
    model.save_pretrained(mine)
    load_pair(str(checkpoint))[1].save_pretrained(mine)
    results = tiny_run(mine, movies[:2], tmp_path / "run", methods=("raw",))
    assert results.status().errors == 0
    shape = (model.config.num_attention_layers, 4)
    assert len(results.row(0)["head_entropy"]) == shape[0] * shape[1]
    masks = MaskList.random(*shape, removed=1, count=1)
    swept = sweep_heads(tmp_path / "run", masks, executor=LOCAL, progress=False)
    assert swept.summary["clips"].to_pylist() == [2, 2]
    if variant != "spacetime":
        with pytest.raises(InputError, match="use hidden_states='tokens'"):
            tiny_run(mine, movies[:2], tmp_path / "cls", methods=("raw",), hidden_states="cls")


def test_other_weights_are_refused(checkpoint, movies, tmp_path):
    model, processor = load_pair(str(checkpoint))
    mine = tmp_path / "model"
    model.save_pretrained(mine)
    processor.save_pretrained(mine)
    tiny_run(mine, movies[:2], tmp_path / "run")
    with torch.no_grad():
        model.classifier.bias.add_(1e-3)
    model.save_pretrained(mine)
    with pytest.raises(ConfigError, match="other weights"):
        tiny_run(mine, movies[:2], tmp_path / "run")


def test_what_cannot_begin_says_so(checkpoint, movies, tmp_path):
    with pytest.raises(InputError, match="holds no run yet"):
        run_bulk(None, None, tmp_path / "none")
    with pytest.raises(InputError, match="choose local or ray"):
        make_executor("slurm")
    (tmp_path / "wrong.csv").write_text(f"path,label\n{movies[0]},17\n")
    with pytest.raises(InputError, match="labels 17 are no classes"):
        tiny_run(checkpoint, tmp_path / "wrong.csv", tmp_path / "run")
    with pytest.raises(InputError, match="CheferRelevance explains a class"):
        run_bulk(BulkJob("bundled", methods=("chefer",)), movies[:1], tmp_path / "run2")


@pytest.mark.parametrize(
    ("text", "numbers"),
    [(None, [0, 1, 2, 3, 4]), ("1:3", [1, 2]), (":2", [0, 1]), ("3:", [3, 4]), ("2", [2]), ("4:900", [4]), ([1], [1])],
)
def test_shard_ranges(text, numbers):
    assert shard_range(text, 5) == numbers


@pytest.mark.parametrize("wrong", ["a:b", "3:1", "-1:2"])
def test_wrong_shard_ranges(wrong):
    with pytest.raises(InputError, match="shards wants"):
        shard_range(wrong, 5)
    with pytest.raises(InputError, match=r"there are shards 0\.\.4"):
        shard_range([5], 5)


def test_errors_that_are_mended_come_back_as_an_overlay(checkpoint, movies, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for path in movies[:6]:
        os.link(path, folder / path.name)
    broken = folder / "clip-0002.mp4"
    broken.unlink()
    broken.write_bytes(b"")
    out = tmp_path / "run"
    results = tiny_run(checkpoint, folder, out)
    assert results.status().errors == 1
    with pytest.raises(InputError, match="have no map, the first because"):
        results.map(2)
    part = (out / "clips" / "part-000000.parquet").read_bytes()
    broken.write_bytes(movies[2].read_bytes())
    mended = run_bulk(None, None, out, executor=LOCAL, retry_errors=True, progress=False)
    assert (out / "clips" / "part-000000.parquet").read_bytes() == part
    assert [path.name for path in (out / "overlay").iterdir()] == ["part-000000.000.parquet"]
    assert (mended.status().errors, mended.status().retried) == (0, 1)
    assert list(mended.to_pandas().status) == ["ok"] * 6
    whole = tiny_run(checkpoint, movies[:6], tmp_path / "whole")
    torch.testing.assert_close(mended.map(2).relevance, whole.map(2).relevance, atol=1e-5, rtol=0)
    assert mended.map(2).method == "AttentionRollout"
    again = run_bulk(None, None, out, executor=LOCAL, retry_errors=True, progress=False)  # nothing is left to try
    assert len(list((out / "overlay").iterdir())) == 1
    assert_equal(again, mended)


def test_hidden_states_are_kept_where_they_are_asked_for(checkpoint, movies, tmp_path):
    model, processor = load_pair(str(checkpoint))
    pixels = read_clip(movies[1], 4, 1, processor=processor).pixel_values
    states = model(pixels, output_hidden_states=True).hidden_states
    cls = tiny_run(checkpoint, movies[:2], tmp_path / "cls", hidden_states="cls")
    expected = torch.stack([layer[0, 0] for layer in states]).half()
    torch.testing.assert_close(cls.hidden_states(1), expected, atol=2e-3, rtol=2e-3)
    tokens = tiny_run(checkpoint, movies[:2], tmp_path / "tokens", hidden_states="tokens")
    torch.testing.assert_close(tokens.hidden_states(1), states[-1][0].half(), atol=2e-3, rtol=2e-3)
    with pytest.raises(InputError, match="no hidden states"):
        tiny_run(checkpoint, movies[:1], tmp_path / "none").hidden_states(0)


@pytest.mark.parametrize(
    ("fields", "tolerance"),
    [
        ({"dtype": "bfloat16"}, 0.15),
        ({"autocast": "bfloat16"}, 0.15),
        ({"dtype": "float16"}, 0.02),
        ({"autocast": "float16"}, 0.02),
        ({"compile": True}, 1e-5),
    ],
    ids=str,
)
def test_other_precisions_and_compiled_blocks_agree_roughly(fields, tolerance, checkpoint, movies, tmp_path):
    plain = tiny_run(checkpoint, movies[:4], tmp_path / "plain")
    other = tiny_run(checkpoint, movies[:4], tmp_path / "other", **fields)
    assert other.to_pandas().status.tolist() == ["ok"] * 4
    for place in range(4):
        np.testing.assert_allclose(other.row(place)["logits"], plain.row(place)["logits"], atol=tolerance)
        ours, theirs = other.map(place).relevance, plain.map(place).relevance
        stored = 2.0**-10  # maps are halves
        torch.testing.assert_close(ours, theirs, atol=max(tolerance, stored) * float(theirs.max()), rtol=0)


def test_importing_the_package_stays_free_of_it(tmp_path):
    code = (
        "import sys, vivit_lab; print([name for name in ('pyarrow', 'pebble', 'ray', 'fsspec') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_batch_grows_with_what_is_free_and_shrinks_with_the_model(monkeypatch):
    shape = VivitConfig(
        num_labels=5, num_hidden_layers=100, hidden_size=64, num_attention_heads=4, intermediate_size=64
    )
    pairs = shape.replace(variant="factorized_self_attention_block", classifier="gap")  # two attentions a layer
    gpu, cpu = torch.device("cuda"), torch.device("cpu")

    def sizes(config, device):
        found = []
        for bits in range(20, 45):
            monkeypatch.setattr(stages, "free_bytes", lambda device, bits=bits: 1 << bits)
            found.append(stages.find_batch_size(config, device))
        return found

    assert sizes(shape, gpu) == sorted(sizes(shape, gpu))
    assert set(sizes(shape, gpu)) == {1, 2, 4, 8, 16, 32}
    assert set(sizes(shape, cpu)) == {1, 2, 4}
    assert [few < many for few, many in zip(sizes(pairs, gpu), sizes(shape, gpu), strict=True)].count(True) >= 3
    monkeypatch.setattr(stages, "free_bytes", lambda device: None)  # not known
    assert stages.find_batch_size(shape, gpu) == 32


def test_a_batch_takes_half_of_what_is_free(monkeypatch):
    """Two clips of ViT-B's shape, with a record and its rollout, took 1.08 GB above the model (tests/benchmarks)."""
    gigabytes = 1.0
    while True:
        monkeypatch.setattr(stages, "free_bytes", lambda device, free=int(gigabytes * 1e9): free)
        if stages.find_batch_size(VivitConfig(num_labels=400), torch.device("cuda")) == 2:
            break
        gigabytes += 0.01
    assert 2 * 1.08 <= gigabytes <= 2 * 1.2
