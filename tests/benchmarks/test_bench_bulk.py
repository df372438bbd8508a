"""What a bulk run costs above its parts, how many clips a second it decodes, and how large results open."""

import json
import time

import numpy as np
import psutil
import pyarrow as pa
import pytest
import torch

from tests.benchmarks.measure import interleaved, one_thread, peak_bytes, report
from tests.bulk.tiny_bulk import write_clips
from vivit_lab.attribution import AttentionRollout
from vivit_lab.bulk import BulkJob, BulkResults, LocalExecutor, run_bulk
from vivit_lab.bulk import job as stages
from vivit_lab.bulk.decode import PoolDecoder, decode_one
from vivit_lab.bulk.engine import ClipTask
from vivit_lab.bulk.job import run_shard
from vivit_lab.bulk.run import part_name, prepare_run
from vivit_lab.families import VivitForVideoClassification
from vivit_lab.model import VivitConfig
from vivit_lab.processes import usable_cores
from vivit_lab.processing import VivitImageProcessor
from vivit_lab.records import record_attention

pytestmark = pytest.mark.benchmark


def save_model(folder, **fields):
    torch.manual_seed(0)
    config = VivitConfig(num_labels=5, **fields)
    VivitForVideoClassification(config).save_pretrained(folder)
    size = config.image_size
    crop = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    VivitImageProcessor.trained_range(**crop).save_pretrained(folder)
    return folder


SMALL = {"image_size": 128, "num_frames": 16, "hidden_size": 384, "num_hidden_layers": 8, "num_attention_heads": 6,
         "intermediate_size": 1536}  # fmt: skip


@pytest.mark.parametrize("statistics", ["none", "sampled"])
@pytest.mark.parametrize("shape", [SMALL, {"num_hidden_layers": 4}], ids=["513 tokens", "ViT-B, 4 layers"])
def test_a_run_is_nearly_as_fast_as_a_bare_loop_where_the_model_dominates(shape, statistics, tmp_path):
    """CPU time of the process with the model, which takes in decoded clips and writes parts; decoding overlaps it.

    Without head statistics both do the same; with them, the default, the run does more than the loop.
    """
    model_path = save_model(tmp_path / "model", **shape)
    write_clips(tmp_path / "clips", 8, frames=40, size=(96, 96))
    job = BulkJob(str(model_path), stride=1, batch_size=2, shard_size=4, head_statistics=statistics)
    run = prepare_run(job, tmp_path / "clips", tmp_path / "run")
    task = ClipTask(run)
    stage = task.stage("cpu")
    rows = [row for shard in range(2) for row in run.rows(shard)]
    pixels = torch.stack([torch.from_numpy(decode_one(row, run.decode).pixels) for row in rows])

    def bare():
        for batch in pixels.split(2):
            AttentionRollout()(record_attention(stage.model, batch))

    def whole():
        decoder.expect(rows)  # as an engine does: clips are decoded across the ends of shards
        for shard in range(2):
            run_shard(run.rows(shard), decoder, stage, task.sink(shard))

    with one_thread(), PoolDecoder(run.decode, workers=1) as decoder:
        decoder.begin()
        best = interleaved({"bare loop": bare, "bulk run": whole}, repeats=8, clock=time.process_time)
    report("8 clips, forward + rollout", best, "bare loop")
    ratio = best["bare loop"] / best["bulk run"]
    print(f"bulk throughput: {ratio:.3f} x the bare loop")
    assert ratio >= 0.92


def test_decoding_uses_the_cores(tmp_path):
    paths = write_clips(tmp_path / "clips", 24, frames=60, size=(360, 480))
    model = save_model(tmp_path / "model", image_size=32, num_frames=32, hidden_size=24, num_hidden_layers=1,
                       num_attention_heads=2, intermediate_size=24)  # fmt: skip
    cores = usable_cores()
    job = BulkJob(str(model), stride=1, batch_size=4, shard_size=24)
    run = prepare_run(job, paths[0].parent, tmp_path / "run")
    rows = run.rows(0)
    with PoolDecoder(run.decode, workers=1) as one, PoolDecoder(run.decode, workers=cores) as all_of_them:
        for decoder in (one, all_of_them):
            list(decoder(rows[: 2 * cores]))  # every process has started
        steps = {"one decoder": lambda: list(one(rows)), f"{cores} decoders": lambda: list(all_of_them(rows))}
        best = interleaved(steps, repeats=5, clock=time.perf_counter)
    alone, pool = (len(rows) / seconds for seconds in best.values())
    print(f"\nclips/s: one decoder {alone:.2f}, {cores} decoders {pool:.2f}: {pool / alone / cores:.3f} x cores x one")
    assert pool >= 0.9 * cores * alone


def test_the_cost_of_a_clip_and_core(movie, tmp_path):
    """What the page on scale multiplies: 32 frames over a whole video of 720p, and ViT-B shape; one core each."""
    job = BulkJob(str(save_model(tmp_path / "model")), sampling="uniform", batch_size=1, head_statistics="sampled")
    run = prepare_run(job, movie, tmp_path / "run")
    task, rows = ClipTask(run), run.rows(0)
    stage = task.stage("cpu")
    with one_thread():
        pixels = torch.from_numpy(decode_one(rows[0], run.decode).pixels).unsqueeze(0)
        steps = {"decoding": lambda: decode_one(rows[0], run.decode), "model": lambda: stage(pixels, "")}
        best = interleaved(steps, repeats=3, clock=time.process_time)
    report("a clip: 32 of 300 frames of 720p, h264; ViT-B shape, float32, rollout, heads", best, "decoding")
    print("  " + ", ".join(f"{name} {1 / seconds:.2f} clips/s and core" for name, seconds in best.items()))


def test_memory_stays_flat_over_two_thousand_clips(checkpoint, tmp_path):
    folder = tmp_path / "clips"
    paths = write_clips(folder, 20)
    lines = [f"{paths[number % 20]},{number // 20 * 1e-4}" for number in range(2000)]
    (folder / "clips.csv").write_text("path,start\n" + "\n".join(lines) + "\n")
    sizes, process = [], psutil.Process()

    class Watched(LocalExecutor):
        def run(self, task, shards, on_shard):
            def watch(shard, report):
                tree = [process, *process.children(recursive=True)]  # the decoders too
                sizes.append(sum(each.memory_info().rss for each in tree))
                on_shard(shard, report)

            super().run(task, shards, watch)

    job = BulkJob(str(checkpoint), stride=1, batch_size=8, shard_size=50)
    results = run_bulk(job, folder / "clips.csv", tmp_path / "run", executor=Watched(workers=2), progress=False)
    assert results.status().clips_done == 2000
    growth = np.median(sizes[-5:]) / np.median(sizes[5:10]) - 1
    print(f"\nRSS {np.median(sizes[5:10]) / 1e6:.1f} MB after 500 clips, growth {growth:+.2%} after 2000")
    assert growth < 0.05


def test_a_million_rows_open_at_once(checkpoint, tmp_path):
    """Parts of ViViT-B's width; all but a few are one file under several names, since their content does not matter."""
    rows, size = 1_000_000, 256
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").write_bytes(b"")
    run = prepare_run(BulkJob(str(checkpoint), shard_size=size), tmp_path / "clips", tmp_path / "run")
    info = run.info | {"clips": rows, "manifest_group": 16384}
    info["grid"] = {"t": 16, "h": 14, "w": 14, "tubelet": [2, 16, 16], "cls": True}
    info["layout"] |= {"tubelets": 3136, "classes": 400, "heads": 144}
    (tmp_path / "run" / "run.json").write_text(json.dumps(info))
    ids = np.array([f"{number:016x}" for number in range(rows)])
    nothing = {name: pa.nulls(rows, kind) for name, kind in (("start", pa.float64()), ("end", pa.float64()))}
    manifest = pa.table({"clip_id": ids, "path": ids, **nothing, "label": pa.nulls(rows, pa.string())})
    run.store.write_table("manifest.parquet", manifest, row_group=16384)
    results = BulkResults.open(tmp_path / "run")
    rng, layout = np.random.default_rng(0), results.run.layout
    part = layout.table([
        {"clip_id": "", "path": "a.mp4", "status": "ok", "map": rng.random(3136), "map_scale": 1.0, "height": 36,
         "width": 36, "frame_indices": [0], "logits": rng.random(400), "head_entropy": rng.random(144),
         "head_distance": rng.random(144)}
        for _ in range(size)
    ])  # fmt: skip
    run.store.write_table(f"clips/{part_name(0)}", part, split=layout.split)
    first = tmp_path / "run" / "clips" / part_name(0)
    for shard in range(1, -(-rows // size)):
        (first.parent / part_name(shard)).hardlink_to(first)
    began = time.perf_counter()
    opened = BulkResults.open(tmp_path / "run")
    assert len(opened) == rows
    name = opened.ids[654_321].as_py()
    opened.map(name)
    seconds, each = time.perf_counter() - began, []
    for place in (17, 999_999, 500_000):
        clip, began = ids[place], time.perf_counter()
        opened.map(str(clip))
        each.append(time.perf_counter() - began)
    size_mb = first.stat().st_size / size / 1e3
    print(
        f"\n1 M rows: open and first map {seconds:.2f} s, then a map {max(each) * 1e3:.0f} ms; {size_mb:.1f} kB a clip"
    )
    assert seconds < 2
    assert max(each) < 0.050


FORWARD = """
import torch
from vivit_lab.attribution import AttentionRollout
from vivit_lab.records import record_attention
from vivit_lab.families import VivitForVideoClassification
from vivit_lab.model import VivitConfig
model = VivitForVideoClassification(VivitConfig(num_labels=400)).eval()
pixels = torch.rand({count}, 32, 3, 224, 224)
"""


def test_a_batch_that_is_found_fits_into_half_of_what_is_free(monkeypatch):
    free = 2_300_000_000
    monkeypatch.setattr(stages, "free_bytes", lambda device: free)
    count = stages.find_batch_size(VivitConfig(), torch.device("cuda"))
    taken = peak_bytes(FORWARD.format(count=count), "heat = AttentionRollout()(record_attention(model, pixels))")
    print(f"\n{count} clips of ViT-B shape: {taken / 1e6:.0f} MB above the model, {free / 1e6:.0f} MB free")
    assert taken <= free // 2
