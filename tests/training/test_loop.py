import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.training.tiny_run import PLAIN, Clips, CutOff, model
from vivit_lab.errors import (
    BackendError,
    CheckpointError,
    ConfigError,
    DamagedCheckpointError,
    DamagedFileWarning,
    InputError,
    MissingExtraError,
)
from vivit_lab.families import VivitForVideoClassification
from vivit_lab.families.views import mean_logits
from vivit_lab.training import train
from vivit_lab.training.loop import RunFiles, parameter_groups, read_log

ALL_ON = replace(
    PLAIN, label_smoothing=0.1, stochastic_depth=0.3, mixup=0.4, num_workers=1, checkpoint_every=3, evaluate_every=6
)


def same_weights(first, second):
    theirs = second.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in first.state_dict().items())


def test_it_learns_and_what_it_saves_loads(tmp_path):
    config = replace(PLAIN, steps=60, learning_rate=3e-3, log_every=20)
    network = model()
    result = train(network, Clips(), config, tmp_path, evaluation=Clips(6), progress=False)
    assert result.accuracy == 1.0
    assert not network.training
    log = read_log(tmp_path)
    assert [line["step"] for line in log] == [20, 40, 60]
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]
    assert log[-1]["accuracy"] > 0.9
    assert {"learning_rate", "gradient_norm", "clips_per_second", "seconds"} <= set(log[0])
    stored = json.loads((tmp_path / "training.json").read_text())
    assert stored["config"] == config.to_dict()
    assert (stored["steps"], stored["accuracy"]) == (60, 1.0)
    loaded = VivitForVideoClassification.from_pretrained(tmp_path)
    assert same_weights(network, loaded)


def test_a_run_that_was_cut_off_ends_bit_for_bit_where_an_uninterrupted_one_does(tmp_path):
    whole, cut = model(), model()
    train(whole, Clips(), ALL_ON, tmp_path / "whole", evaluation=Clips(6), progress=False)
    serial = replace(ALL_ON, num_workers=0)
    with pytest.raises(OSError, match="the disk is gone"):
        train(cut, CutOff(after=31), serial, tmp_path / "cut", evaluation=Clips(6), progress=False)
    assert not same_weights(whole, cut)
    again = model(seed=9)  # its own weights must not matter
    train(again, Clips(), serial, tmp_path / "cut", evaluation=Clips(6), resume=True, progress=False)
    assert same_weights(whole, again)
    logs = [
        [{name: value for name, value in line.items() if "second" not in name} for line in read_log(tmp_path / run)]
        for run in ("whole", "cut")
    ]
    assert logs[0] == logs[1]
    assert [line["step"] for line in logs[0]] == [3, 6, 6, 9, 12]


def cut_off(folder, after=31):
    """A run that was cut off after its checkpoints of steps 3, 6 and 9."""
    serial = replace(ALL_ON, num_workers=0)
    with pytest.raises(OSError, match="the disk is gone"):
        train(model(), CutOff(after=after), serial, folder, progress=False)
    return serial, sorted((folder / "checkpoints").iterdir())


FILES = ("model.safetensors", "optimizer.bin", "random_states_0.pkl", "run.json")
DAMAGES = [(name, damage) for name in FILES for damage in ("cut", "bit", "gone", "old")]
NONE = [("run.json", "gone"), ("run.json", "old"), ("random_states_0.pkl", "old")]
"""A directory without run.json is no checkpoint; and without digests, Accelerate goes on without random states."""


@pytest.mark.parametrize(("name", "damage"), [pair for pair in DAMAGES if pair not in NONE])
def test_a_damaged_checkpoint_is_named_and_the_advice_works(name, damage, tmp_path):
    config, checkpoints = cut_off(tmp_path)
    newest = checkpoints[-1]
    path = newest / name
    if damage == "old":  # written before checkpoints had digests
        run = json.loads((newest / "run.json").read_text())
        del run["files"]
        (newest / "run.json").write_text(json.dumps(run))
    content = path.read_bytes()
    half = len(content) // 2
    path.unlink()
    if damage != "gone":
        changed = content[:half] + (b"" if damage != "bit" else bytes([content[half] ^ 128]) + content[half + 1 :])
        path.write_bytes(changed)
    named = str(path) if damage != "old" else str(newest)
    with pytest.raises(DamagedCheckpointError) as caught:
        train(model(), Clips(), config, tmp_path, resume=True, progress=False)
    assert isinstance(caught.value, CheckpointError)
    assert str(caught.value).startswith(f"{named} is damaged")
    assert f"Remove {newest}, and the same command continues from {checkpoints[-2].name}" in str(caught.value)
    shutil.rmtree(newest)
    assert train(model(), Clips(), config, tmp_path, resume=True, progress=False).steps == config.steps


def test_without_another_checkpoint_the_run_begins_anew(tmp_path):
    config, (*_, newest) = cut_off(tmp_path, after=19)
    for path in (tmp_path / "checkpoints").iterdir():
        if path != newest:
            shutil.rmtree(path)
    (newest / "model.safetensors").write_bytes(b"")
    with pytest.raises(DamagedCheckpointError, match=r"model\.safetensors is damaged .* same command begins anew"):
        train(model(), Clips(), config, tmp_path, resume=True, progress=False)


@pytest.mark.parametrize("every", [0, 3])
def test_the_seconds_are_those_of_all_legs(every, tmp_path, monkeypatch):
    clock = [0.0]

    def now():
        clock[0] += 0.001
        return clock[0]

    class Slow(CutOff):
        def __getitem__(self, index):
            clock[0] += 10.0
            return super().__getitem__(index)

    monkeypatch.setattr(time, "perf_counter", now)
    serial = replace(ALL_ON, num_workers=0, log_every=1, evaluate_every=0, checkpoint_every=every)
    for after in (13, 29):  # what is computed after a checkpoint is lost, and without any, all of it
        with pytest.raises(OSError, match="the disk is gone"):
            train(model(), Slow(after=after), serial, tmp_path, resume=True, progress=False)
    result = train(model(), Slow(after=10**6), serial, tmp_path, resume=True, progress=False)
    spent = clock[0]
    assert spent - 2 * 10.0 * serial.batch_size * serial.accumulate * 2 <= result.seconds <= spent
    assert json.loads((tmp_path / "training.json").read_text())["seconds"] == pytest.approx(result.seconds, abs=1)


def test_a_damaged_line_of_the_log_is_left_out(tmp_path):
    config, _ = cut_off(tmp_path)
    log = tmp_path / "log.jsonl"
    first, *others = log.read_text().splitlines(keepends=True)
    log.write_text(first[:10] + "\x00\n" + "".join(others))
    with pytest.warns(DamagedFileWarning, match=r"line 1 of .*log\.jsonl is damaged"):
        assert len(read_log(tmp_path)) == len(others)
    with pytest.warns(DamagedFileWarning, match=r"line 1 of .*log\.jsonl is damaged"):
        result = train(model(), Clips(), config, tmp_path, resume=True, progress=False)
    assert result.steps == config.steps
    assert read_log(tmp_path)[-1]["step"] == config.steps


def test_the_callers_randomness_is_left_alone(tmp_path):
    network = model()
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    train(network, Clips(), ALL_ON, tmp_path, progress=False)
    assert torch.equal(torch.rand(3), wanted)


def test_only_the_newest_checkpoints_are_kept_and_drafts_are_not_taken_for_checkpoints(tmp_path):
    train(model(), Clips(), replace(PLAIN, checkpoint_every=2), tmp_path, progress=False)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000008", "step-00000010"]
    (tmp_path / "checkpoints" / "step-00000011.part").mkdir()
    (tmp_path / "checkpoints" / "step-00000011.part" / "run.json").write_text("{}")
    result = train(model(), Clips(), replace(PLAIN, checkpoint_every=2), tmp_path, resume=True, progress=False)
    assert result.steps == 12


def test_accumulated_batches_are_one_batch(tmp_path):
    one, two = model(dropout=False), model(dropout=False)
    train(one, Clips(), replace(PLAIN, batch_size=8), tmp_path / "one", progress=False)
    train(two, Clips(), replace(PLAIN, batch_size=4, accumulate=2), tmp_path / "two", progress=False)
    for name, value in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], value, rtol=1e-4, atol=2e-5)


def test_it_is_the_plain_loop_written_out(tmp_path):
    config = replace(PLAIN, shuffle=False, label_smoothing=0.2, max_grad_norm=0.5, steps=5, warmup_steps=0)
    ours, naive = model(dropout=False), model(dropout=False)
    train(ours, Clips(), config, tmp_path, progress=False)
    clips = Clips()
    optimizer = torch.optim.AdamW(naive.parameters(), lr=config.learning_rate, betas=config.betas, weight_decay=0)
    rates = [1.0, 0.8564971, 0.51, 0.1635029, 0.02]  # of the highest: 0.02 + 0.98 (1 + cos(π i / 4)) / 2
    weights = [m.weight for m in naive.modules() if isinstance(m, (nn.Linear, nn.Conv3d))]
    for step, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = rate * config.learning_rate
        with torch.no_grad():  # AdamW's decay, by hand
            for weight in weights:
                weight *= 1 - rate * config.learning_rate * config.weight_decay
        rows = [(4 * step + i) % 24 for i in range(4)]
        logits = naive(clips.pixels[rows]).logits
        smooth = 0.8 * nn.functional.one_hot(clips.labels[rows], 3) + 0.2 / 3
        loss = -(smooth * logits.log_softmax(-1)).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        total = torch.cat([p.grad.flatten() for p in naive.parameters()]).norm()
        for parameter in naive.parameters():
            parameter.grad *= min(1.0, 0.5 / float(total))
        optimizer.step()
    for name, value in naive.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-4, atol=3e-5)  # weights move by 3e-3


def test_half_precision_trains_on_a_cpu(tmp_path):
    config = replace(PLAIN, mixed_precision="bf16", steps=30, learning_rate=3e-3)
    network = model()
    train(network, Clips(), config, tmp_path, progress=False)
    assert network.dtype == torch.float32
    log = read_log(tmp_path)
    assert log[-1]["loss"] < log[0]["loss"]


def test_weight_decay_is_for_matrices_and_filters_alone():
    network = model()
    decayed, plain = (group["params"] for group in parameter_groups(network, 0.1))
    assert len(decayed) + len(plain) == len(list(network.parameters()))
    names = {id(value): name for name, value in network.named_parameters()}
    for value in decayed:
        assert names[id(value)].endswith("weight")
        assert value.ndim >= 2
    rest = {names[id(value)] for value in plain}
    assert {"embed.cls_token", "embed.position", "ln_final.weight", "classifier.bias"} <= rest
    network.classifier.weight.requires_grad_(False)
    assert len(parameter_groups(network, 0.1)[0]["params"]) == len(decayed) - 1


def test_two_processes_are_one_with_twice_the_batch(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\n"
        "from dataclasses import replace\n"
        "from tests.training.tiny_run import PLAIN, Clips, model\n"
        "from vivit_lab.training.loop import train\n"
        "config = replace(PLAIN, steps=6, checkpoint_every=3)\n"
        "train(model(dropout=False), Clips(), config, sys.argv[1], evaluation=Clips(6), cpu=True, progress=False)\n"
    )
    root = os.getcwd()
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["ACCELERATE_USE_CPU"] = "true"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, str(script), str(tmp_path / "two")], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    one = model(dropout=False)
    train(one, Clips(), replace(PLAIN, steps=6, batch_size=8), tmp_path / "one", evaluation=Clips(6), progress=False)
    two = VivitForVideoClassification.from_pretrained(tmp_path / "two")
    for name, value in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], value, rtol=1e-4, atol=2e-5)
    assert [line["step"] for line in read_log(tmp_path / "two")] == [3, 6]
    assert read_log(tmp_path / "two")[0]["loss"] == pytest.approx(read_log(tmp_path / "one")[0]["loss"], rel=1e-4)


class Views(Clips):
    """Each clip as two views, one of them faint; the first clips cannot be read."""

    def __init__(self, count, lost=0):
        super().__init__(count)
        self.lost = lost

    def __getitem__(self, index):
        pixels, label = super().__getitem__(index)
        return torch.stack([pixels, 0.5 * pixels]), -1 if index < self.lost else label


def test_views_are_averaged_and_clips_that_could_not_be_read_do_not_count(tmp_path):
    network = model(dropout=False).eval()
    plain, twice = Clips(6).pixels, torch.stack([Clips(6).pixels] * 2, dim=1)
    torch.testing.assert_close(mean_logits(network, twice), network(plain).logits)
    mixed = torch.stack([plain, plain.flip(0)], dim=1)
    want = (network(plain).logits + network(plain.flip(0)).logits) / 2
    torch.testing.assert_close(mean_logits(network, mixed), want)
    config = replace(PLAIN, steps=60, learning_rate=3e-3)
    result = train(network, Clips(), config, tmp_path, evaluation=Views(9, lost=3), progress=False)
    assert result.accuracy == 1.0  # the three of label -1 would be wrong


class Falling(Clips):
    """Clips whose labels are right in the first evaluation and wrong in all later ones."""

    def __init__(self, count):
        super().__init__(count)
        self.seen = 0

    def __getitem__(self, index):
        self.seen += 1
        pixels, label = super().__getitem__(index)
        return pixels, label if self.seen <= len(self) else (label + 1) % 3


def test_the_best_model_is_kept_beside_the_last(tmp_path):
    config = replace(PLAIN, steps=60, learning_rate=3e-3, evaluate_every=30)
    network = model()
    result = train(network, Clips(), config, tmp_path, evaluation=Falling(6), keep_best=True, progress=False)
    assert (result.best_accuracy, result.best_step, result.accuracy) == (1.0, 30, 0.0)
    best = VivitForVideoClassification.from_pretrained(tmp_path / "best")
    last = VivitForVideoClassification.from_pretrained(tmp_path)
    assert same_weights(network, last)
    assert not same_weights(best, last)
    stored = json.loads((tmp_path / "training.json").read_text())
    assert stored["best"] == {"accuracy": 1.0, "step": 30, "directory": "best"}
    short = replace(config, steps=30, final_learning_rate=0.02)
    files = RunFiles(tmp_path, short)
    assert files.best(60) == (1.0, 30)
    assert files.best(29) is None


def test_what_cannot_be_trained_is_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"wanted clips and classes to train on, got 0 clips"):
        train(model(), Clips(0), PLAIN, tmp_path)
    headless = VivitForVideoClassification(model().config.replace(num_labels=0))
    with pytest.raises(InputError, match=r"got 24 clips and 0 classes"):
        train(headless, Clips(), PLAIN, tmp_path)
    with pytest.raises(ConfigError, match=r"mixed_precision='fp16' wants a GPU; on this CPU choose 'no' or 'bf16'"):
        train(model(), Clips(), replace(PLAIN, mixed_precision="fp16"), tmp_path, cpu=True)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'vivit-lab\[train\]'"):
        train(model(), Clips(), PLAIN, tmp_path)


@pytest.mark.parametrize("every", ["log_every", "checkpoint_every", "evaluate_every"])
def test_a_run_that_diverges_stops_and_keeps_what_was_well(every, tmp_path):
    network = model()

    def spoil(module, _inputs, output):
        spoil.calls += module.training
        return output * (float("nan") if spoil.calls == 4 else 1)

    spoil.calls = 0
    network.classifier.register_forward_hook(spoil)
    config = replace(PLAIN, **{"log_every": 12, "max_grad_norm": None, every: 2})
    last = r"step-00000002 is from before" if every == "checkpoint_every" else r"mixed_precision='bf16'"
    with pytest.raises(BackendError, match=rf"NaN or infinite at step 4: .*in another directory.*{last}$"):
        train(network, Clips(), config, tmp_path, evaluation=Clips(6), keep_best=True, progress=False)
    assert len(list(tmp_path.glob("checkpoints/*"))) == (every == "checkpoint_every")
    assert not (tmp_path / "model.safetensors").exists()
    best = tmp_path / "best"
    assert best.exists() == (every == "evaluate_every")
    if best.exists():
        weights = VivitForVideoClassification.from_pretrained(best).parameters()
        assert all(bool(weight.isfinite().all()) for weight in weights)


def test_another_run_is_neither_overwritten_nor_continued(tmp_path):
    config = replace(PLAIN, checkpoint_every=3)
    train(model(), Clips(), config, tmp_path, progress=False)
    with pytest.raises(InputError, match=r"holds a training run: continue it \(resume=True\)"):
        train(model(), Clips(), config, tmp_path)
    with pytest.raises(ConfigError, match=r"learning_rate: 0.001 then, 0.1 now"):
        train(model(), Clips(), replace(config, learning_rate=0.1), tmp_path, resume=True)


def test_what_was_refused_or_killed_before_its_first_line_leaves_no_run_behind(tmp_path):
    with pytest.raises(ConfigError, match=r"freeze_layers=9, but the model has 3 layers"):
        train(model(), Clips(), replace(PLAIN, freeze_layers=9), tmp_path, progress=False)
    with pytest.raises(OSError, match="the disk is gone"):
        train(model(), CutOff(after=1), PLAIN, tmp_path, progress=False)
    assert train(model(), Clips(), PLAIN, tmp_path, progress=False).steps == 12


def test_there_is_no_log_where_there_was_no_run(tmp_path):
    with pytest.raises(InputError, match=r"wanted the directory of a training run"):
        read_log(tmp_path)
