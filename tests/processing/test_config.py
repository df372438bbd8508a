"""preprocessor_config.json goes to transformers and back."""

from __future__ import annotations

import json
import pickle
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.processing.peer import PeerProcessor, frames_of, silence_announcements
from vivit_lab.checkpoints import hub
from vivit_lab.errors import CheckpointNotFoundError, ConfigError, InputError
from vivit_lab.processing.config import CONFIG_NAME, read_config
from vivit_lab.processing.processor import VivitImageProcessor

OPTIONS = [
    {},
    {"do_normalize": False},
    {"size": {"height": 30, "width": 40}, "crop_size": {"height": 28, "width": 33}, "resample": 3},
    {"size": 50, "crop_size": 44, "image_mean": [0.1, 0.2, 0.3], "image_std": 0.4},
    {"do_rescale": False, "offset": False, "do_center_crop": False},
    {"rescale_factor": 1 / 255, "offset": False, "image_mean": (0.485, 0.456, 0.406)},
]


@pytest.fixture(autouse=True)
def _silent(monkeypatch: pytest.MonkeyPatch) -> None:
    silence_announcements(monkeypatch)


def _same_output(mine: Any, other: Any) -> None:
    frames = list(frames_of(45, 61))
    wanted = other(frames, return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(mine(frames, return_tensors="np")["pixel_values"], wanted)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_peer_reads_what_we_write(options: dict[str, Any], tmp_path: Path) -> None:
    processor = VivitImageProcessor(**options)
    assert processor.save_pretrained(tmp_path / "deep" / "er") == [str(tmp_path / "deep" / "er" / CONFIG_NAME)]
    peer = PeerProcessor.from_pretrained(tmp_path / "deep" / "er")
    _same_output(processor, peer)
    assert peer.to_dict() == PeerProcessor(**options).to_dict() | {
        # the peer keeps tuples and integers as they were given, a file cannot
        "image_mean": processor.image_mean,
        "image_std": processor.image_std,
    }


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_we_read_what_the_peer_writes(options: dict[str, Any], tmp_path: Path) -> None:
    peer = PeerProcessor(**options)
    peer.save_pretrained(tmp_path)
    for source in (tmp_path, str(tmp_path), tmp_path / CONFIG_NAME):
        processor = VivitImageProcessor.from_pretrained(source)
        assert processor == VivitImageProcessor(**options)
        _same_output(processor, peer)
    written = json.loads((tmp_path / CONFIG_NAME).read_text())
    processor.save_pretrained(tmp_path)
    assert json.loads((tmp_path / CONFIG_NAME).read_text()) == written


@settings(max_examples=50, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "do_resize": st.booleans(),
            "size": st.one_of(st.integers(1, 999), st.tuples(st.integers(1, 999), st.integers(1, 999))),
            "resample": st.integers(0, 5),
            "do_center_crop": st.booleans(),
            "crop_size": st.integers(1, 999),
            "do_rescale": st.booleans(),
            "rescale_factor": st.floats(-4, 4),
            "offset": st.booleans(),
            "do_normalize": st.booleans(),
            "image_mean": st.one_of(st.floats(-4, 4), st.lists(st.floats(-4, 4), min_size=3, max_size=3)),
            "image_std": st.one_of(st.floats(0.1, 4), st.lists(st.floats(0.1, 4), min_size=3, max_size=3)),
            "extra": st.dictionaries(st.sampled_from(["processor_class", "num_frames"]), st.integers()),
        },
    )
)
def test_to_dict_and_from_dict_are_inverse(options: dict[str, Any]) -> None:
    processor = VivitImageProcessor(**options)
    config = json.loads(json.dumps(processor.to_dict()))
    assert config["image_processor_type"] == "VivitImageProcessor"
    assert VivitImageProcessor.from_dict(config) == processor


def test_fields_for_others_are_kept_and_written_back(tmp_path: Path) -> None:
    config = {**VivitImageProcessor(size=64).to_dict(), "processor_class": "X", "num_frames": 32, "notes": {"a": [1]}}
    processor = VivitImageProcessor.from_dict(config)
    assert processor.extra == {"processor_class": "X", "num_frames": 32, "notes": {"a": [1]}}
    assert processor.to_dict() == config
    processor.save_pretrained(tmp_path)
    peer = PeerProcessor.from_pretrained(tmp_path)
    assert peer.num_frames == 32
    assert json.loads(peer.to_json_string()) == config


def test_changing_what_was_given_or_got_changes_no_processor() -> None:
    size, mean = {"shortest_edge": 64}, [0.1, 0.2, 0.3]
    processor = VivitImageProcessor(size=size, image_mean=mean)
    twin = VivitImageProcessor(size=64, image_mean=[0.1, 0.2, 0.3])
    size["shortest_edge"], mean[0] = 1, 9
    config = processor.to_dict()
    config["size"]["shortest_edge"] = 2
    assert processor == twin
    assert replace(processor, size=32).size == {"shortest_edge": 32}
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'size'"):
        processor.size = 32  # pyright: ignore[reportAttributeAccessIssue]


def test_a_processor_can_be_sent_to_another_process() -> None:
    processor = VivitImageProcessor.imagenet(size=64)
    assert pickle.loads(pickle.dumps(processor)) == processor


def test_overrides_take_the_place_of_the_files(tmp_path: Path) -> None:
    VivitImageProcessor(size=64).save_pretrained(tmp_path)
    processor = VivitImageProcessor.from_pretrained(tmp_path, crop_size=48, do_normalize=False)
    assert processor == VivitImageProcessor.trained_range(size=64, crop_size=48)
    with pytest.raises(ConfigError, match="no option 'cropsize'; did you mean 'crop_size'"):
        VivitImageProcessor.from_pretrained(tmp_path, cropsize=48)


@pytest.mark.parametrize("name", ["feature_extractor_type", "image_processor_type"])
def test_configurations_of_other_models_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="configuration is of a VideoMAEImageProcessor, whose missing fields"):
        VivitImageProcessor.from_dict({name: "VideoMAEImageProcessor", "size": 224})
    own = "VivitFeatureExtractor" if name.startswith("feature") else "VivitImageProcessorFast"
    assert VivitImageProcessor.from_dict({name: own}) == VivitImageProcessor()


def test_wrong_fields_of_a_file_are_refused() -> None:
    with pytest.raises(ConfigError, match="do_resize must be True or False, got 'yes'"):
        VivitImageProcessor.from_dict({"do_resize": "yes"})


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"has no preprocessor_config.json; write one by"):
        VivitImageProcessor.from_pretrained(tmp_path)
    path = tmp_path / CONFIG_NAME
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="is not JSON: Expecting property name"):
        VivitImageProcessor.from_pretrained(tmp_path)
    path.write_text("[1]", encoding="utf-8")
    with pytest.raises(ConfigError, match="must hold a JSON object, got a list"):
        VivitImageProcessor.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="is a file, wanted a directory"):
        VivitImageProcessor().save_pretrained(path)


def test_file_that_holds_several_processors(tmp_path: Path) -> None:
    path = tmp_path / "processor_config.json"
    path.write_text(json.dumps({"image_processor": {"size": 64}, "processor_class": "X"}), encoding="utf-8")
    assert VivitImageProcessor.from_pretrained(path) == VivitImageProcessor(size=64)


def test_hub_ids_are_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def resolve_file(model: str, filename: str, **place: Any) -> Path | None:
        asked.append((model, filename, place))
        return tmp_path / filename if model == "someone/vivit" else None

    monkeypatch.setattr(hub, "resolve_file", resolve_file)
    VivitImageProcessor(size=64).save_pretrained(tmp_path)
    place = {"revision": "v1", "cache_dir": tmp_path, "local_files_only": True, "token": "secret"}
    processor = VivitImageProcessor.from_pretrained("someone/vivit", **place, crop_size=8)
    assert processor == VivitImageProcessor(size=64, crop_size=8)
    assert asked == [("someone/vivit", CONFIG_NAME, place)]
    with pytest.raises(CheckpointNotFoundError, match=r"someone/else has no preprocessor_config.json"):
        read_config("someone/else")
