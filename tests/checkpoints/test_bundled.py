"""The bundled files: found, verified, and told apart from anything else."""

import hashlib
import json
import re
import shutil
import tomllib
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import constants
from safetensors import safe_open
from safetensors.torch import load_file

from tests.peers import TRANSFORMERS, in_memory
from vivit_lab.checkpoints import bundled_clip_path, bundled_model_path
from vivit_lab.checkpoints import hub as bundled
from vivit_lab.checkpoints.hub import bundled_manifest, data_directory, resolve_file, verify_bundled
from vivit_lab.errors import BundledDataError, CheckpointWarning
from vivit_lab.families import VivitModel
from vivit_lab.processing import VivitImageProcessor
from vivit_lab.video import read_clip

pytestmark = pytest.mark.peer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model():
    return VivitModel.from_pretrained("bundled", add_pooling_layer=False)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package elsewhere, whose data the test may damage: a small stand-in with the real manifest's form."""
    home = tmp_path / "site-packages" / "vivit_lab"
    data = home / "data"
    files = {"models/m/config.json": b"{}", "models/m/weights": b"0123456789", "clips/c.mp4": b"clip"}
    for name, contents in files.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(contents)
    entries = {
        name: {"bytes": len(value), "sha256": hashlib.sha256(value).hexdigest()} for name, value in files.items()
    }
    manifest = {"model": {"directory": "models/m", "hub_id": "lab/m"}, "clip": "clips/c.mp4", "files": entries}
    (data / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(bundled, "_PACKAGE", home)
    return home


def test_every_file_is_in_the_manifest_and_is_the_one_it_describes():
    data = data_directory()
    present = {path.relative_to(data).as_posix() for path in data.rglob("*") if path.is_file()} - {"manifest.json"}
    assert present == set(bundled_manifest()["files"])
    for name in present:
        verify_bundled(name)


def test_every_file_has_licence_attribution_and_origin():
    for name, entry in bundled_manifest()["files"].items():
        assert all(entry[key] for key in ("license", "attribution", "origin")), name
    clip = bundled_manifest()["files"][bundled_manifest()["clip"]]
    assert clip["license"] == "CC-BY-SA-4.0"
    assert "Joao Eriberto Mota Filho" in clip["attribution"]


def test_the_clip_is_small_and_keeps_its_times():
    path = bundled_clip_path()
    assert path.stat().st_size < 600_000
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.pix_fmt == "yuv420p"
        times = [float(frame.time) for frame in container.decode(stream)]
        assert [kind.type for kind in container.streams] == ["video"]
        assert "location" not in container.metadata
    gaps = np.diff(times)
    assert len(times) == 41
    assert gaps[0] == pytest.approx(0.18456, abs=1e-4)
    assert gaps[1:] == pytest.approx(0.03332, abs=1e-4)


def test_the_model_is_what_its_card_says(model):
    config = model.config
    assert (config.num_frames, config.image_size, config.tubelet_size) == (16, 224, (2, 14, 14))
    assert (config.num_hidden_layers, config.num_attention_heads, config.hidden_size) == (12, 6, 384)
    assert (config.hidden_act, config.layer_norm_eps, config.num_labels) == ("gelu", 1e-6, 0)
    assert model.name_or_path == "bundled"
    assert not model.training


def test_transformers_loads_the_bundled_model(model):
    peer = transformers.VivitModel.from_pretrained(bundled_model_path(), add_pooling_layer=False, dtype=torch.float32)
    with safe_open(bundled_model_path() / "model.safetensors", "pt") as file:
        assert set(peer.state_dict()) == set(map(in_memory, file.keys()))
    x = torch.randn(1, 16, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(model(x).last_hidden_state, peer(x).last_hidden_state, rtol=1e-4, atol=1e-4)
    assert peer.config.num_labels == 0


def test_positions_repeat_over_time(model):
    grid = model.embed.position[:, 1:].reshape(8, 256, 384)
    assert torch.equal(grid, grid[:1].expand_as(grid))


def test_the_processor_belongs_to_the_model():
    settings = json.loads((bundled_model_path() / "preprocessor_config.json").read_text())
    assert settings["crop_size"] == {"height": 224, "width": 224}
    assert settings["offset"] is False
    assert settings["image_mean"] == [0.485, 0.456, 0.406]
    assert settings["image_std"] == [0.229, 0.224, 0.225]


def test_bundled_stands_for_the_directory_everywhere():
    assert resolve_file("bundled", "config.json") == bundled_model_path() / "config.json"


def test_an_installed_package_carries_its_data(package):
    assert data_directory() == package / "data"
    assert bundled_model_path() == package / "data" / "models" / "m"
    assert bundled_clip_path().read_bytes() == b"clip"


def test_a_checkout_has_it_beside_the_package(package):
    shutil.move(package / "data", package.parent / "data")
    assert data_directory() == package.parent / "data"


def test_no_data_at_all_names_both_places(package):
    shutil.rmtree(package / "data")
    with pytest.raises(BundledDataError, match=r"no manifest\.json in .*vivit_lab/data or .*site-packages/data"):
        bundled_clip_path()


@pytest.mark.parametrize(
    "contents", ["{", "[]", '{"files": {}}', '{"files": {}, "model": {"directory": "m"}, "clip": "c"}']
)
def test_a_damaged_manifest_says_so(package, contents):
    (package / "data" / "manifest.json").write_text(contents)
    with pytest.raises(BundledDataError, match=r"manifest\.json is damaged"):
        bundled_manifest()


def test_a_changed_byte_is_found_also_later_in_the_process(package):
    path = bundled_clip_path()
    path.write_bytes(b"clap")
    with pytest.raises(
        BundledDataError, match=r"is not the bundled clips/c\.mp4: wanted sha256 [0-9a-f]{64}, got [0-9a-f]{64}"
    ):
        bundled_clip_path()


def test_another_size_is_found(package):
    weights = package / "data" / "models" / "m" / "weights"
    weights.write_bytes(b"0123")
    with pytest.raises(BundledDataError, match=r"wanted 10 bytes, got 4 \(a Git LFS pointer\?"):
        bundled_model_path()
    weights.write_bytes(bytes(500))
    with pytest.raises(BundledDataError, match=r"wanted 10 bytes, got 500$"):
        bundled_model_path()


def test_a_missing_file_and_an_unknown_name(package):
    (package / "data" / "clips" / "c.mp4").unlink()
    with pytest.raises(BundledDataError, match=r"c\.mp4 is missing"):
        bundled_clip_path()
    with pytest.raises(BundledDataError, match=r"the manifest has no file 'other'; it has clips/c\.mp4"):
        verify_bundled("other")


def test_each_file_is_hashed_once(package, monkeypatch):
    bundled_model_path()
    monkeypatch.setattr(bundled.hashlib, "sha256", lambda: pytest.fail("hashed again"))
    bundled_model_path()


def test_the_licence_of_the_wheel_names_every_licence_in_it():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    told = set(project["license"].split(" AND "))
    inside = {re.split(r" \(", entry["license"])[0] for entry in bundled_manifest()["files"].values()}
    assert told == inside | {"Apache-2.0"}
    assert {"MIT", "CC-BY-SA-4.0"} <= inside
    assert all((ROOT / name).is_file() for name in project["license-files"])
    assert "data/NOTICE.md" in project["license-files"]


def test_the_notice_and_the_card_tell_both_licences_of_the_weights():
    card = (bundled_model_path() / "README.md").read_text()
    assert "\nlicense: other\n" in card
    notice = (data_directory() / "NOTICE.md").read_text()
    for text in (card, notice):
        assert "MIT" in text
        assert re.search(r"Apache\s+License\s+2\.0", text)
    assert "Goueffon Jules" in notice
    assert re.search(r"copyright line of its licence was not at\s+hand", notice)
    assert "kinetics400.txt" in notice


@pytest.mark.slow
def test_the_file_differs_from_the_image_model_by_what_its_card_says(model, shared_file):
    """The float16 file against transformers' DINOv2 in float32, on two equal frames of the bundled clip."""
    config = transformers.Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=518, use_mask_token=False)
    peer = transformers.Dinov2Model(config).eval()
    state = {}
    for name, value in load_file(shared_file("weights/dinov2_vits14_fp16.safetensors")).items():
        if TRANSFORMERS < 5:
            for new, old in (("q", "attention.query"), ("k", "attention.key"), ("v", "attention.value")):
                name = name.replace(f"attention.{new}_proj", f"attention.{old}")
            name = name.replace("attention.o_proj", "attention.output.dense")
        state[name] = value.float()
    peer.load_state_dict(state)
    weights = model.state_dict()
    weights["embed.position"] = weights["embed.position"][:, :257]  # one tubelet in time
    short = VivitModel(model.config.replace(num_frames=2), add_pooling_layer=False).eval()
    short.load_state_dict(weights)
    clip = read_clip(bundled_clip_path(), 16, 2, 0, processor=VivitImageProcessor.from_pretrained(bundled_model_path()))
    frame = clip.pixel_values.reshape(16, 3, 224, 224)[:1]
    with torch.no_grad():
        ours, theirs = short(frame.expand(2, -1, -1, -1)[None]).last_hidden_state, peer(frame).last_hidden_state
    error = float((ours - theirs).norm() / theirs.norm())
    told = re.search(r"of\s+(\S+)\s+for\s+this\s+file", (bundled_model_path() / "README.md").read_text())
    assert error == pytest.approx(float(told[1]), rel=0.1)


class TestWithoutTheModel:
    """An installation that leaves the model out takes it from the Hub, here from a cache that was filled by hand."""

    @pytest.fixture
    def cache(self, package, tmp_path):
        source = package / "data" / "models"
        snapshot = tmp_path / "cache" / "models--lab--m" / "snapshots" / ("a" * 40)
        snapshot.parent.mkdir(parents=True)
        shutil.move(source / "m", snapshot)
        refs = tmp_path / "cache" / "models--lab--m" / "refs"
        refs.mkdir()
        (refs / "main").write_text("a" * 40)
        return tmp_path / "cache"

    def test_the_hub_takes_its_place(self, cache):
        with pytest.warns(
            CheckpointWarning, match="not part of this installation .* on the Hub, as lab/m, if it has been published"
        ):
            path = bundled_model_path(cache_dir=cache, local_files_only=True)
        assert (path / "weights").read_bytes() == b"0123456789"

    def test_what_comes_is_verified(self, cache):
        snapshot = next((cache / "models--lab--m" / "snapshots").iterdir())
        (snapshot / "weights").write_bytes(b"9876543210")
        with (
            pytest.warns(CheckpointWarning),
            pytest.raises(BundledDataError, match="is not the bundled models/m/weights"),
        ):
            bundled_model_path(cache_dir=cache, local_files_only=True)

    def test_not_on_the_hub_either(self, cache, tmp_path, monkeypatch):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with (
            pytest.warns(CheckpointWarning),
            pytest.raises(BundledDataError, match="from the Hub, where lab/m is only if it has been published"),
        ):
            bundled_model_path(cache_dir=tmp_path / "empty", local_files_only=True)

    def test_no_hub_id(self, cache, package):
        path = package / "data" / "manifest.json"
        manifest = json.loads(path.read_text())
        del manifest["model"]["hub_id"]
        path.write_text(json.dumps(manifest))
        with pytest.raises(BundledDataError, match="the manifest names no Hub id"):
            bundled_model_path()
