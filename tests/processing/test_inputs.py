"""Whatever form the frames come in, they are the same clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.image_utils import ChannelDimension

from tests.processing.peer import assert_equal_to_peer, frames_of, silence_announcements
from vivit_lab.errors import InputError
from vivit_lab.processing import VivitImageProcessor
from vivit_lab.processing.inputs import channel_layout, check_layout, looks_scaled, read_clips
from vivit_lab.video import Clip

pytestmark = pytest.mark.peer

SMALL: dict[str, Any] = {"size": 20, "crop_size": 16}


@pytest.fixture(autouse=True)
def _silent(monkeypatch: pytest.MonkeyPatch) -> None:
    silence_announcements(monkeypatch)


def _pixels(videos: Any, **call: Any) -> np.ndarray:
    return VivitImageProcessor(**SMALL)(videos, return_tensors="np", **call).pixel_values


@pytest.mark.parametrize("fast", [False, True])
def test_every_form_of_one_clip(fast: bool) -> None:
    frames = frames_of(30, 41, count=4)
    wanted = _pixels(list(frames), fast=fast)
    assert wanted.shape == (1, 4, 3, 16, 16)
    forms = {
        "4-D array": frames,
        "channels first": np.moveaxis(frames, -1, 1),
        "4-D tensor": torch.from_numpy(frames),
        "tuple": tuple(frames),
        "list of PIL": [Image.fromarray(frame) for frame in frames],
        "list of tensors": [torch.from_numpy(frame).permute(2, 0, 1) for frame in frames],
        "Clip": Clip.from_frames(frames),
        "mixed": [frames[0], torch.from_numpy(frames[1]), Image.fromarray(frames[2]), frames[3]],
        "read backwards": frames[::-1].copy()[::-1],
        "not writeable": np.frombuffer(frames.tobytes(), np.uint8).reshape(frames.shape),
        "list of one clip": [frames],
        "list of one list": [list(frames)],
        "5-D array": frames[None],
    }
    for name, form in forms.items():
        np.testing.assert_array_equal(_pixels(form, fast=fast), wanted, err_msg=name)


@pytest.mark.parametrize("fast", [False, True])
def test_every_form_of_a_batch(fast: bool) -> None:
    clips = [frames_of(30, 41, count=2, seed=seed) for seed in range(3)]
    wanted = np.concatenate([_pixels(clip, fast=fast) for clip in clips])
    assert wanted.shape == (3, 2, 3, 16, 16)
    batch = np.stack(clips)
    forms = {
        "5-D array": batch,
        "5-D tensor": torch.from_numpy(batch).permute(0, 1, 4, 2, 3),
        "list of 4-D": clips,
        "list of Clips": [Clip.from_frames(clip) for clip in clips],
        "list of lists": [list(clip) for clip in clips],
        "list of lists of PIL": [[Image.fromarray(frame) for frame in clip] for clip in clips],
        "mixed": [Clip.from_frames(clips[0]), clips[1], list(clips[2])],
    }
    for name, form in forms.items():
        np.testing.assert_array_equal(_pixels(form, fast=fast), wanted, err_msg=name)


@pytest.mark.parametrize("fast", [False, True])
def test_single_frame_is_a_clip_of_one(fast: bool) -> None:
    frame = frames_of(30, 41)[0]
    for form in (frame, torch.from_numpy(frame), Image.fromarray(frame)):
        np.testing.assert_array_equal(_pixels(form, fast=fast), _pixels(frame[None], fast=fast))


def test_peer_agrees_on_the_forms_it_takes() -> None:
    frames = frames_of(30, 41)
    assert_equal_to_peer([Image.fromarray(frame) for frame in frames], SMALL)
    assert_equal_to_peer([torch.from_numpy(frame) for frame in frames], SMALL)
    assert_equal_to_peer([list(frames), list(frames_of(50, 33))], SMALL)
    assert_equal_to_peer([Image.fromarray(frame).convert("YCbCr") for frame in frames], SMALL)
    rgba = [Image.fromarray(frame) for frame in frames_of(30, 41, channels=4)]
    four = {**SMALL, "image_mean": 0.5, "image_std": 0.5}
    assert_equal_to_peer(rgba, four, input_data_format="channels_last")
    assert_equal_to_peer([image.convert("CMYK") for image in rgba], four, input_data_format="channels_last")
    # an enumeration that equals its name
    assert_equal_to_peer(frames, SMALL, input_data_format=ChannelDimension.LAST, data_format=ChannelDimension.LAST)


def test_lazy_image_files(tmp_path: Path) -> None:
    frames = frames_of(30, 41, count=3)
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{index}.png")
    images = [Image.open(tmp_path / f"{index}.png") for index in range(3)]
    np.testing.assert_array_equal(_pixels([*images, images[0]]), _pixels([*frames, frames[0]]))


def test_tensors_that_numpy_does_not_know() -> None:
    frames = torch.from_numpy(frames_of(30, 41))
    bfloat = frames.to(torch.bfloat16)
    np.testing.assert_array_equal(_pixels(bfloat), _pixels(bfloat.float()))
    learnt = frames.float().requires_grad_()
    np.testing.assert_array_equal(_pixels(learnt), _pixels(frames))


def test_frames_of_several_sizes() -> None:
    frames = [frames_of(30, 41)[0], frames_of(50, 33)[0]]
    assert_equal_to_peer(frames, SMALL)
    ragged = VivitImageProcessor(do_center_crop=False, **SMALL)
    assert [frame.shape for frame in ragged(frames).pixel_values[0]] == [(3, 20, 27), (3, 30, 20)]
    for return_tensors in ("pt", "np"):
        with pytest.raises(InputError, match=r"do not fit into one tensor, .* \(2, 3, 20, 27\) and \(2, 3, 30, 20\)"):
            ragged(frames, return_tensors=return_tensors)


def test_clips_of_several_lengths() -> None:
    clips = [frames_of(30, 41, count=count) for count in (2, 3)]
    processor = VivitImageProcessor(**SMALL)
    assert [len(clip) for clip in processor(clips).pixel_values] == [2, 3]
    for call in ({"return_tensors": "pt"}, {"fast": True}):
        with pytest.raises(InputError, match=r"\(2, 3, 16, 16\) and \(3, 3, 16, 16\): give clips of as many frames"):
            processor(clips, **call)


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        (None, "wanted a Clip, .* got NoneType"),
        ("clip.mp4", "wanted a Clip, .* got str"),
        (["a.png"], "got a list with a str"),
        ([], "empty batch or clip"),
        ([[]], "empty batch or clip"),
        (np.zeros((0, 4, 4, 3), np.uint8), "empty batch or clip"),
        (np.zeros((0, 2, 4, 4, 3), np.uint8), "empty batch or clip"),
        (np.zeros((2, 0, 4, 4, 3), np.uint8), "empty batch or clip"),
        (np.zeros((4, 5), np.uint8), r"shape \(4, 5\); a grey frame needs a channel axis"),
        ([np.zeros((4, 5), np.uint8)], r"shape \(4, 5\); a grey frame needs a channel axis"),
        (np.zeros((1, 1, 1, 4, 4, 3), np.uint8), r"array of shape \(1, 1, 1, 4, 4, 3\)"),
        ([np.zeros((1, 1, 4, 4, 3), np.uint8)], "list of 5-D batches is one dimension too many"),
        ([Image.new("L", (4, 4))], r"mode 'L' has no channel axis; give frame.convert\('RGB'\)"),
        (Image.new("P", (4, 4)), "mode 'P' has no channel axis"),
        ([np.zeros((4, 4, 3)), np.zeros((2, 4, 4, 3))], "mixes frames with clips"),
        ([[np.zeros((2, 4, 4, 3))]], "a clip in a batch must hold frames only, got a ndarray"),
        ([[np.zeros((4, 4, 3)), "b.png"]], "a clip in a batch must hold frames only, got a str"),
        (np.zeros((2, 5, 6, 7), np.uint8), r"shape \(5, 6, 7\) has no axis of 1 or 3 channels; .* input_data_format="),
        (np.zeros((2, 0, 6, 3), np.uint8), "at least one pixel, got 0×6"),
    ],
    ids=str,
)
@pytest.mark.parametrize("fast", [False, True])
def test_what_is_no_clip_is_refused(videos: Any, message: str, fast: bool) -> None:
    with pytest.raises(InputError, match=message):
        VivitImageProcessor(**SMALL)(videos, fast=fast)


@pytest.mark.parametrize(
    "frames", [np.zeros((1, 4, 4, 3), complex), np.full((1, 4, 4, 3), None)], ids=["complex", "object"]
)
def test_what_is_no_number_is_refused(frames: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"must hold real numbers, got (complex128|object)"):
        VivitImageProcessor(**SMALL)(frames)
    with pytest.raises(InputError, match="the fast path wants uint8 frames, got"):
        VivitImageProcessor(**SMALL)(frames, fast=True)


def test_too_many_channels_for_a_resize() -> None:
    with pytest.raises(InputError, match=r"frame of 5 channels cannot be resized, .* is input_data_format right"):
        _pixels(frames_of(30, 41, channels=5), input_data_format="channels_last")


def test_wrong_arguments_are_refused() -> None:
    frames = frames_of(30, 41)
    with pytest.raises(InputError, match="return_tensors must be None, 'pt' or 'np', got 'tf'"):
        VivitImageProcessor()(frames, return_tensors="tf")
    with pytest.raises(InputError, match="device=cpu needs tensors"):
        VivitImageProcessor()(frames, device="cpu")
    for name in ("data_format", "input_data_format"):
        with pytest.raises(InputError, match=f"{name} must be 'channels_first' or 'channels_last', got 'none'"):
            VivitImageProcessor()(frames, **{name: "none"})


def test_layouts() -> None:
    assert channel_layout((3, 5, 7)) == "channels_first"
    assert channel_layout((5, 7, 1)) == "channels_last"
    assert channel_layout((3, 7, 3)) == "channels_first"
    assert channel_layout((3, 7, 3), "channels_last") == "channels_last"
    assert check_layout("data_format", None) is None


def test_arrays_are_not_copied() -> None:
    batch = np.zeros((2, 3, 4, 5, 3), np.uint8)
    assert all(np.shares_memory(clip, batch) for clip, _ in read_clips(batch))
    clip = Clip.from_frames(batch[0])
    assert read_clips(clip)[0][0] is clip.frames


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_clip_is_channels_last_whatever_its_shape(rows: int, fast: bool) -> None:
    frames = frames_of(rows, 41)
    wanted = _pixels(frames, fast=fast, input_data_format="channels_last")
    assert wanted.shape == (1, 2, 3, 16, 16)
    clip = Clip.from_frames(frames)
    first = np.ascontiguousarray(np.moveaxis(frames, -1, 1))
    for form in (clip, [clip]):
        np.testing.assert_array_equal(_pixels(form, fast=fast), wanted)
    # what is said of the layout is about what is no clip
    both = _pixels([clip, first], fast=fast, input_data_format="channels_first")
    np.testing.assert_array_equal(both, np.concatenate([wanted, wanted]))
    np.testing.assert_array_equal(VivitImageProcessor(**SMALL).prepare(clip, fast=fast).pixel_values, wanted)


def test_looks_scaled() -> None:
    unit = np.full((2, 4, 4, 3), 0.5, np.float32)
    assert looks_scaled(unit)
    assert looks_scaled(torch.from_numpy(unit))
    assert looks_scaled([unit[0], np.zeros((4, 4, 3))])
    assert not looks_scaled([unit[0], unit[0] * 255])
    assert not looks_scaled(unit - 1)
    assert not looks_scaled(np.ones((1, 4, 4, 3), np.uint8))
    assert not looks_scaled([Image.new("RGB", (4, 4))])
    assert not looks_scaled(np.zeros((1, 4, 4, 3)))
