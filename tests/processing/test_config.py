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

from tests.peers import TRANSFORMERS
from tests.processing.peer import PeerProcessor, frames_of, silence_announcements
from vivit_lab.errors import CheckpointNotFoundError, ConfigError, InputError
from vivit_lab.processing import VivitImageProcessor
from vivit_lab.processing.options import CONFIG_NAME

pytestmark = pytest.mark.peer

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


@settings(max_examples=50)
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
    if TRANSFORMERS >= 5:  # which leaves the name of the class around it to another file
        del config["processor_class"]
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


def _video_file(**changed: Any) -> dict[str, Any]:
    """What transformers 5.24's VivitVideoProcessor writes, with some values changed."""
    return {
        "crop_size": {"height": 224, "width": 224},
        "data_format": "channels_first",
        "default_to_square": False,
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "do_sample_frames": False,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 2,
        "rescale_factor": 1 / 127.5,
        "return_metadata": False,
        "size": {"shortest_edge": 256},
        "video_processor_type": "VivitVideoProcessor",
        **changed,
    }


@pytest.mark.parametrize("form", ["file", "part"])
def test_a_video_processors_file_is_read(form: str, tmp_path: Path) -> None:
    contents = _video_file(size={"shortest_edge": 50}, crop_size={"height": 44, "width": 44}, do_normalize=False)
    name = "video_preprocessor_config.json" if form == "file" else "processor_config.json"
    (tmp_path / name).write_text(json.dumps(contents if form == "file" else {"video_processor": contents}))
    processor = VivitImageProcessor.from_pretrained(tmp_path)
    same = VivitImageProcessor(size=50, crop_size=44, do_normalize=False)
    assert replace(processor, extra={}) == same
    assert processor.extra["do_sample_frames"] is False
    assert "offset" not in processor.extra
    np.testing.assert_array_equal(
        processor(frames_of(61, 45), fast=True).pixel_values, same(frames_of(61, 45), fast=True).pixel_values
    )
    assert VivitImageProcessor.from_dict(processor.to_dict()) == processor


@pytest.mark.parametrize("contents", [{"do_rescale": False}, {"do_rescale": True, "offset": False}], ids=str)
def test_what_a_video_processor_rescales_it_moves_to_minus_one_too(contents: dict[str, Any]) -> None:
    processor = VivitImageProcessor.from_dict(_video_file(**contents))
    assert processor.offset == contents["do_rescale"]
    processor.check_usable()


def test_of_several_files_the_one_that_transformers_5_takes_for_a_video_is_read(tmp_path: Path) -> None:
    VivitImageProcessor(size=61).save_pretrained(tmp_path)
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "X"}))  # no part is a processor
    assert VivitImageProcessor.from_pretrained(tmp_path).size == {"shortest_edge": 61}
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(_video_file(size={"shortest_edge": 62})))
    assert VivitImageProcessor.from_pretrained(tmp_path).size == {"shortest_edge": 62}
    parts = {"image_processor": {"size": 63}, "video_processor": _video_file(size={"shortest_edge": 64})}
    (tmp_path / "processor_config.json").write_text(json.dumps(parts))
    assert VivitImageProcessor.from_pretrained(tmp_path).size == {"shortest_edge": 64}
    del parts["video_processor"]
    (tmp_path / "processor_config.json").write_text(json.dumps(parts))
    assert VivitImageProcessor.from_pretrained(tmp_path).size == {"shortest_edge": 63}


def test_what_is_saved_is_what_is_read_again_whatever_files_were_there(tmp_path: Path) -> None:
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(_video_file()))
    (tmp_path / "processor_config.json").write_text(
        json.dumps({"video_processor": _video_file(), "image_processor": {"size": 63}, "processor_class": "X"})
    )
    saved = VivitImageProcessor(size=70, crop_size=60)
    saved.save_pretrained(tmp_path)
    files = ["processor_config.json", "video_preprocessor_config.json", CONFIG_NAME]
    for name in files:  # each in turn is the first
        assert VivitImageProcessor.from_pretrained(tmp_path) == saved
        (tmp_path / name).unlink()
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(_video_file()))
    with pytest.raises(ConfigError, match=r"offset=False with do_rescale=True cannot be written"):
        VivitImageProcessor(offset=False).save_pretrained(tmp_path)
    assert not (tmp_path / CONFIG_NAME).exists()  # and nothing was written
    VivitImageProcessor(offset=False).save_pretrained(tmp_path / "another")  # as the message advises
    assert not VivitImageProcessor.from_pretrained(tmp_path / "another").offset


def test_another_models_video_processor_is_refused() -> None:
    with pytest.raises(ConfigError, match="of a VideoMAEImageProcessor"):
        VivitImageProcessor.from_dict(_video_file(video_processor_type="VideoMAEVideoProcessor"))
