"""Head sweeps: each number is that of a model run under the mask, and parts come back as runs do."""

import json
import os

import numpy as np
import pytest
import torch

from tests.bulk.tiny_bulk import LOCAL, tiny_run
from vivit_lab.bulk import HeadSweepResults, MaskList, sweep_heads
from vivit_lab.bulk.sweep import SweepStage
from vivit_lab.errors import ConfigError, InputError
from vivit_lab.explain import load_pair
from vivit_lab.heads import HeadMask


@pytest.fixture(scope="module")
def swept(finished):
    masks = MaskList.single(3, 4)
    assert masks == MaskList.single(*masks.shape)
    return sweep_heads(finished.run.store.root, MaskList.single, block_size=5, executor=LOCAL, progress=False)


def test_each_number_is_the_models_under_the_mask(swept, finished, checkpoint):
    model, _ = load_pair(str(checkpoint))
    table = swept.table().to_pandas()
    good = table[table.status == "ok"]
    assert len(good) == 20 * 13
    failed = table[table.status == "error"]
    assert len(failed) == failed.clip_id.nunique() == 5  # once each, not once a block
    assert set(failed["mask"]) == {-1}
    for place in (0, 3, 17):
        rows = good[good.clip_id == finished.ids[place].as_py()].set_index("mask").sort_index()
        assert rows.index.tolist() == list(range(13))
        pixels = finished.clip(place).pixel_values
        with torch.no_grad():
            clean = model(pixels).logits[0].log_softmax(-1)
            for number, mask in enumerate(swept.task.masks.masks):
                logits = model(pixels, head_mask=mask.tensor()).logits[0]
                label, row = place % 5, rows.loc[number]
                others = torch.cat([logits[:label], logits[label + 1 :]])
                assert row.prediction == int(logits.argmax())
                assert row.correct == (row.prediction == label)
                assert row.margin == pytest.approx(float(logits[label] - others.max()), abs=1e-4)
                kl = float((clean.exp() * (clean - logits.log_softmax(-1))).sum())
                assert row.kl == pytest.approx(kl, abs=1e-5)


def test_the_summary_is_the_mean_of_the_rows(swept):
    table = swept.table().to_pandas()
    good = table[table.status == "ok"].groupby("mask")
    summary = swept.to_pandas()
    assert summary["mask"].tolist()[:3] == ["none removed", "L0H0", "L0H1"]
    np.testing.assert_allclose(summary.accuracy, good.correct.mean().astype(float))
    np.testing.assert_allclose(summary.margin, good.margin.mean(), rtol=1e-5)
    np.testing.assert_allclose(summary.kl, good.kl.mean(), rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(summary.accuracy_drop, summary.accuracy[0] - summary.accuracy)
    assert (summary.clips == 20).all()
    worst = swept.worst(3)
    assert worst[0]["kl"] == summary.kl.max()
    assert "KL when a head is removed" in swept._repr_html_()
    assert "12 of 12 parts" in repr(swept)
    with pytest.raises(InputError, match="by is kl or accuracy_drop"):
        swept.worst(by="margin")


def test_a_sweep_goes_on_with_the_blocks_that_are_missing(swept, finished, tmp_path):
    root = finished.run.store.root
    parts = sorted(swept.task.done())
    before = swept.table()
    gone = finished.run.store.place(parts[4])
    kept = finished.run.store.listing("sweeps/single")
    os.unlink(gone)
    again = sweep_heads(root, MaskList.single(3, 4), block_size=5, executor=LOCAL, progress=False)
    assert again.table().equals(before)
    now = finished.run.store.listing("sweeps/single")
    changed = [name for name in kept if kept[name] != now[name]]
    assert changed == [parts[4].rpartition("/")[2]]
    assert HeadSweepResults.open(root, "single").summary.equals(swept.summary)


def test_a_sweep_does_not_go_on_with_other_weights(checkpoint, movies, tmp_path):
    model, processor = load_pair(str(checkpoint))
    mine, out = tmp_path / "model", tmp_path / "run"
    model.save_pretrained(mine)
    processor.save_pretrained(mine)
    tiny_run(mine, movies[:2], out)
    with torch.no_grad():
        model.classifier.bias.add_(1e-3)
    model.save_pretrained(mine)
    with pytest.raises(ConfigError, match="other weights"):
        sweep_heads(out, MaskList.random(3, 4, removed=2, count=1), executor=LOCAL, progress=False)


def test_a_sweep_names_logits_that_are_not_finite(swept, checkpoint):
    model, _ = load_pair(str(checkpoint))
    stage = SweepStage(swept.task, model, 2)
    model.classifier.register_forward_hook(lambda _module, _given, out: out * torch.tensor([[1.0], [torch.inf]]))
    first, second = stage(torch.randn(2, 4, 3, 32, 32), swept.task.part(0, 2))
    assert first["masked"].shape == (3, 5)
    assert (second.stage, second.kind) == ("model", "NotFinite")


def test_what_a_sweep_refuses(swept, finished):
    root = finished.run.store.root
    with pytest.raises(ConfigError, match="with other masks or blocks"):
        sweep_heads(root, MaskList.single(3, 4), block_size=4)
    with pytest.raises(InputError, match="the model has"):
        sweep_heads(root, MaskList.single(2, 4))
    with pytest.raises(InputError, match=r"masks wants a MaskList, or what makes one of layers and heads; got list"):
        sweep_heads(root, [[0, 1]])
    with pytest.raises(InputError, match="block_size must be"):
        sweep_heads(root, MaskList.single(3, 4), block_size=0)
    with pytest.raises(InputError, match="a sweep's name"):
        sweep_heads(root, MaskList.single(3, 4), name="../other")
    with pytest.raises(InputError, match="wanted the folder of a bulk run"):
        HeadSweepResults.open(root, "nobody")


def test_lists_of_masks(tmp_path):
    single = MaskList.single(2, 3)
    assert len(single) == 7
    assert single.masks[4].pruned == {1: [0]}
    schedule = MaskList.schedule([(1, 2), (0, 0), (1, 0)], 2, 3, step=2)
    assert schedule.names == ("none removed", "2 removed", "3 removed")
    assert [len(mask.kept) for mask in schedule.masks] == [6, 4, 3]
    drawn = MaskList.random(2, 3, removed=2, count=5, seed=1)
    assert {len(mask.kept) for mask in drawn.masks[1:]} == {4}
    assert drawn == MaskList.random(2, 3, removed=2, count=5, seed=1) != MaskList.random(2, 3, removed=2, count=5)
    assert MaskList.from_dict(json.loads(json.dumps(drawn.to_dict()))) == drawn
    path = tmp_path / "mine.json"
    path.write_text(json.dumps([[1, 2], [0, 0]]))
    assert MaskList.load(path, 2, 3) == MaskList.schedule([(1, 2), (0, 0)], 2, 3)
    path.write_text(json.dumps({"half": [[1, 0, 1], [0, 1, 0]]}))
    named = MaskList.load(path, 2, 3)
    assert (named.kind, named.names) == ("mine", ("none removed", "half"))
    assert named.tensor("cpu").shape == (2, 2, 3)


def test_wrong_lists_of_masks(tmp_path):
    with pytest.raises(InputError, match="wanted masks and a name for each"):
        MaskList("a", ("one",), ())
    with pytest.raises(InputError, match="must have one shape"):
        MaskList("a", ("one", "two"), (HeadMask.ones(1, 2), HeadMask.ones(2, 2)))
    with pytest.raises(InputError, match="each once"):
        MaskList.schedule([(0, 0), (0, 0)], 2, 3)
    with pytest.raises(InputError, match="wanted 0 < removed"):
        MaskList.random(2, 3, removed=7, count=1)
    (tmp_path / "a.json").write_text("[1, 2]")
    with pytest.raises(InputError, match="wants a list of"):
        MaskList.load(tmp_path / "a.json", 2, 3)
    with pytest.raises(InputError, match="holds no masks"):
        MaskList.load(tmp_path / "b.json", 2, 3)
