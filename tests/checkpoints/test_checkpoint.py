"""A checkpoint by its name: one place for all of its files."""

import json

import pytest
import torch

from tests.model.tiny import TINY
from vivit_lab.checkpoints import Checkpoint
from vivit_lab.checkpoints.checkpoint import SAMPLING_KEY, weights_digest
from vivit_lab.errors import CheckpointError, CheckpointNotFoundError, ConfigError, InputError
from vivit_lab.explain import load_pair
from vivit_lab.families import VivitForVideoClassification, VivitModel, load_model
from vivit_lab.model import VivitConfig
from vivit_lab.processing import VivitImageProcessor


def test_a_directory_is_itself(checkpoint):
    opened = Checkpoint.open(checkpoint)
    assert opened.folder == checkpoint
    assert opened.revision is None
    assert opened.name == str(checkpoint)
    assert opened.config["num_frames"] == TINY["num_frames"]
    assert opened.processor_file == checkpoint / "preprocessor_config.json"
    assert opened.file("no-such-file") is None
    with pytest.raises(CheckpointNotFoundError, match="there is no no-such-file in"):
        opened.file("no-such-file", required=True)
    with opened.weights() as source:
        assert source["classifier.weight"].shape == (5, TINY["hidden_size"])


@pytest.mark.parametrize("name", ["bundled", "planted"])
def test_a_bundled_name_is_its_directory(name):
    opened = Checkpoint.open(name)
    assert (opened.folder / "config.json").is_file()
    assert opened.digest == weights_digest(load_model(name).state_dict())


def test_an_opened_checkpoint_is_taken_wherever_a_name_is(checkpoint, monkeypatch, tmp_path):
    monkeypatch.chdir(checkpoint.parent)
    opened = Checkpoint.open(checkpoint.name)
    assert Checkpoint.open(opened) is opened
    model, processor = load_pair(opened)
    assert model.name_or_path == checkpoint.name
    assert VivitConfig.from_pretrained(opened) == model.config
    assert VivitImageProcessor.from_pretrained(opened) == processor
    assert weights_digest(VivitForVideoClassification.from_pretrained(opened).state_dict()) == opened.digest
    with pytest.raises(InputError, match=r"is opened already, so cache_dir, revision would change nothing"):
        Checkpoint.open(opened, revision="main", cache_dir=tmp_path, token=None)


def test_the_digest_is_of_the_weights_alone(tmp_path):
    torch.manual_seed(1)
    model = VivitForVideoClassification(VivitConfig(**TINY, num_labels=3)).half()
    for name, options in {"one": {}, "many": {"max_shard_size": "20KB"}}.items():
        model.save_pretrained(tmp_path / name, **options)
    torch.save(model.state_dict(), tmp_path / "weights.bin")  # our own names, and pickled
    (tmp_path / "pickled").mkdir()
    (tmp_path / "weights.bin").rename(tmp_path / "pickled" / "pytorch_model.bin")
    wanted = weights_digest(model.float().state_dict())
    assert {Checkpoint.open(tmp_path / name).digest for name in ("one", "many", "pickled")} == {wanted}
    with torch.no_grad():
        model.classifier.bias[0] += 1e-3
    model.save_pretrained(tmp_path / "one")
    assert Checkpoint.open(tmp_path / "one").digest != wanted
    bare = VivitModel(VivitConfig(**TINY))
    bare.save_pretrained(tmp_path / "bare")
    assert Checkpoint.open(tmp_path / "bare").digest == weights_digest(bare.state_dict())


def test_sampling_is_what_the_processors_file_notes(tmp_path):
    VivitImageProcessor(extra={SAMPLING_KEY: {"num_frames": 32, "stride": 2}}).save_pretrained(tmp_path)
    opened = Checkpoint.open(tmp_path)
    assert opened.sampling == {"num_frames": 32, "stride": 2}
    assert opened.processor["size"] == {"shortest_edge": 256}
    assert Checkpoint.open("planted").sampling == {"frames": 16, "stride": 1, "fps": None}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({SAMPLING_KEY: 2}))
    assert Checkpoint.open(tmp_path).sampling == {}
    (tmp_path / "preprocessor_config.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match="nested too deeply"):
        _ = Checkpoint.open(tmp_path).sampling


def test_what_is_wrong_is_said_when_it_is_asked_for(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match="there is no directory"):
        Checkpoint.open(tmp_path / "none")
    opened = Checkpoint.open(tmp_path)
    assert opened.processor_file is None
    with pytest.raises(CheckpointNotFoundError, match=r"there is no config\.json in .* which holds: nothing"):
        _ = opened.config
    with pytest.raises(CheckpointNotFoundError, match="has none of the files"):
        opened.weights()
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "processor_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json is not JSON"):
        _ = opened.config
    with pytest.raises(CheckpointError, match=r"processor_config\.json is not JSON"):
        _ = Checkpoint.open(tmp_path).processor_file
