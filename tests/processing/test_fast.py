"""The fast path is at most one uint8 level off the exact one, on any device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.processing.peer import frames_of, silence_announcements
from vivit_lab.errors import BackendError, InputError
from vivit_lab.processing import VivitImageProcessor
from vivit_lab.processing.options import ProcessorOptions
from vivit_lab.processing.processor import ExactPath, resample_matrix, resize_by_matrices
from vivit_lab.video import Clip

RAW = {"do_rescale": False, "offset": False, "do_normalize": False}
FILTERS = [Image.Resampling(number) for number in range(6)]
SIZES = [(1080, 1920), (720, 1280), (1920, 1080), (480, 854), (5, 7), (31, 31), (257, 333), (64, 900), (2160, 3840)]


@pytest.fixture(autouse=True)
def _silent(monkeypatch: pytest.MonkeyPatch) -> None:
    silence_announcements(monkeypatch)


def _levels(frames: Any, fast: bool, **options: Any) -> np.ndarray:
    return VivitImageProcessor(**{**RAW, **options})(frames, fast=fast, return_tensors="np").pixel_values.astype(int)


def _smooth(frames: np.ndarray) -> np.ndarray:
    """The same frames as pictures rather than noise: flat areas and edges."""
    return np.where(np.cumsum(frames.astype(int), axis=2) % 4096 > 2048, 255, frames // 8).astype(np.uint8)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_one_level_at_any_resolution(size: tuple[int, int]) -> None:
    for frames in (frames_of(*size, count=1), _smooth(frames_of(*size, count=1))):
        assert abs(_levels(frames, True) - _levels(frames, False)).max() <= 1


@settings(max_examples=150)
@given(st.integers(4, 300), st.integers(4, 300), st.integers(4, 150), st.integers(1, 160), st.integers(1, 160))
def test_one_level_for_any_size(height: int, width: int, short: int, rows: int, columns: int) -> None:
    frames = frames_of(height, width, count=1, seed=height)
    options = {"size": short, "crop_size": (rows, columns)}
    assert abs(_levels(frames, True, **options) - _levels(frames, False, **options)).max() <= 1


@settings(max_examples=150)
@given(
    st.tuples(st.integers(4, 90), st.integers(4, 90)), st.tuples(st.integers(1, 150), st.integers(1, 150)), st.data()
)
@example((64, 32), (140, 126), None)  # torch's own resize is two levels off here,
@example((71, 34), (138, 119), None)
@example((63, 102), (56, 90), None)  # and where it hardly shrinks
@example((114, 86), (112, 85), None)
def test_one_level_for_any_two_edges(size: tuple[int, int], target: tuple[int, int], data: Any) -> None:
    frames = frames_of(*size, count=8, seed=0 if data is None else data.draw(st.integers(0, 99)))
    options = {"size": target, "crop_size": target}
    assert abs(_levels(frames, True, **options) - _levels(frames, False, **options)).max() <= 1


@pytest.mark.parametrize("resample", FILTERS)
def test_every_filter(resample: int) -> None:
    frames = frames_of(90, 160)
    for options in ({"size": 50, "crop_size": 48}, {"size": (120, 70), "crop_size": (130, 60)}):
        difference = _levels(frames, True, resample=resample, **options) - _levels(
            frames, False, resample=resample, **options
        )
        assert abs(difference).max() <= (resample == Image.Resampling.BILINEAR)


@settings(max_examples=200)
@example(Image.Resampling.BILINEAR, (37, 56), (62, 108), (62, 108))
@example(Image.Resampling.BICUBIC, (37, 56), (62, 108), (62, 108))
@example(Image.Resampling.LANCZOS, (37, 56), (62, 108), (62, 108))
@example(Image.Resampling.HAMMING, (124, 140), (119, 88), (119, 88))  # two of its constants are single precision
@example(Image.Resampling.HAMMING, (54, 345), (306, 161), (306, 161))  # which do not sum to 1, its centre does
@given(
    st.sampled_from(FILTERS),
    st.tuples(st.integers(1, 150), st.integers(1, 150)),
    st.tuples(st.integers(1, 120), st.integers(1, 120)),
    st.tuples(st.integers(1, 130), st.integers(1, 130)),
)
def test_matrices_do_what_pillow_does(
    resample: int, size: tuple[int, int], target: tuple[int, int], crop: tuple[int, int]
) -> None:
    """What runs on accelerators, on the CPU: any filter, crop and padding, to the bit as Pillow does."""
    frames = frames_of(*size, count=2)
    options = ProcessorOptions(size=target, crop_size=crop, resample=resample, **RAW)
    plan = options.plan(*size)
    got = resize_by_matrices(torch.from_numpy(frames).permute(0, 3, 1, 2), plan, resample)
    wanted = np.stack(ExactPath(options, "channels_last").clip(frames))
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("size", SIZES[:-1], ids=str)
def test_matrices_at_any_resolution(size: tuple[int, int]) -> None:
    frames = frames_of(*size, count=1)
    for resample in (Image.Resampling.BILINEAR, Image.Resampling.LANCZOS):
        options = ProcessorOptions(resample=resample, **RAW)
        got = resize_by_matrices(torch.from_numpy(frames).permute(0, 3, 1, 2), options.plan(*size), resample)
        wanted = np.stack(ExactPath(options, "channels_last").clip(frames))
        np.testing.assert_array_equal(got, wanted)


def test_without_float64_a_level_is_at_most_two_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """What MPS computes, on the CPU: one rounding to the other side of a half in each of two passes."""
    monkeypatch.setattr("vivit_lab.processing.processor._NO_FLOAT64", frozenset({"cpu"}))
    frames = frames_of(37, 56)
    for resample in FILTERS:
        options = ProcessorOptions(size=(62, 108), crop_size=(62, 108), resample=resample, **RAW)
        got = resize_by_matrices(torch.from_numpy(frames).permute(0, 3, 1, 2), options.plan(37, 56), resample)
        difference = abs(got.numpy().astype(int) - np.stack(ExactPath(options, "channels_last").clip(frames)))
        assert difference.max() <= 2
        assert (difference > 0).mean() < 0.03


def test_matrices_work_through_a_clip_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = torch.from_numpy(frames_of(30, 41, count=5)).permute(0, 3, 1, 2)
    plan = ProcessorOptions(size=20, crop_size=16).plan(30, 41)
    whole = resize_by_matrices(clip, plan, 2)
    monkeypatch.setattr("vivit_lab.processing.processor._CHUNK", 1)
    assert torch.equal(resize_by_matrices(clip, plan, 2), whole)


@settings(max_examples=100)
@given(st.sampled_from(FILTERS), st.integers(1, 90), st.integers(1, 90), st.integers(-20, 20), st.integers(1, 100))
def test_resample_matrix_is_an_average(resample: int, source: int, target: int, first: int, count: int) -> None:
    if first >= target or first + count <= 0:
        first, count = 0, target
    matrix, start, stop = resample_matrix(source, target, first, count, resample)
    assert matrix.shape == (count, stop - start)
    assert 0 <= start < stop <= source
    inside = np.array([0 <= first + row < target for row in range(count)])
    np.testing.assert_allclose(matrix.sum(axis=1), inside, atol=source * 2.0**-22)
    units = matrix * 2**22
    np.testing.assert_array_equal(units, np.rint(units))


def test_filter_that_has_no_matrix_is_refused() -> None:
    unknown = [filter_ for filter_ in Image.Resampling if filter_ not in FILTERS]
    if not unknown:
        pytest.skip("the installed Pillow has the six old filters only")
    clip, plan = torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ProcessorOptions().plan(8, 8)
    with pytest.raises(BackendError, match=f"no filter {unknown[0].name} .* on cpu; give fast=False"):
        resize_by_matrices(clip, plan, unknown[0])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_normalize": False},
        {"do_rescale": False, "offset": False},
        {"rescale_factor": 1 / 255, "offset": False, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]},
        {"image_mean": 0.1, "image_std": 2},
        {"do_resize": False},
        {"do_resize": False, "crop_size": (99, 20)},
        {"do_center_crop": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("data_format", ["channels_first", "channels_last", None])
def test_values_after_the_arithmetic(options: dict[str, Any], data_format: str | None) -> None:
    processor, frames = VivitImageProcessor(**{"size": 32, "crop_size": 30, **options}), frames_of(40, 60)
    exact = processor(frames, return_tensors="pt", data_format=data_format).pixel_values
    fast = processor(frames, fast=True, data_format=data_format).pixel_values
    assert fast.dtype == exact.dtype == torch.float32
    assert fast.is_contiguous()
    level = max(abs(gain) for gain in processor.gain_and_bias(3)[0]) * (1 if processor.do_resize else 0)
    torch.testing.assert_close(fast, exact, rtol=0, atol=level + 1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_and_layouts(channels: int) -> None:
    frames = torch.from_numpy(frames_of(40, 60, channels=channels))
    processor = VivitImageProcessor(size=32, crop_size=30, image_mean=0.5, image_std=0.5)
    last = processor(frames, fast=True).pixel_values
    first = processor(
        frames.permute(0, 3, 1, 2).contiguous(), fast=True, input_data_format="channels_first"
    ).pixel_values
    assert torch.equal(first, last)
    assert tuple(last.shape) == (1, 2, channels, 30, 30)


def test_frames_are_left_as_they_were() -> None:
    frames = torch.from_numpy(frames_of(40, 60))
    before = frames.clone()
    for options in ({"size": 32}, {"do_resize": False, "do_center_crop": False}):
        result = VivitImageProcessor(**options)(frames, fast=True).pixel_values
        result.zero_()
        assert torch.equal(frames, before)


@pytest.mark.parametrize("resample", [Image.Resampling.BILINEAR, Image.Resampling.LANCZOS])
@pytest.mark.parametrize("options", [{}, {"crop_size": 300}, {"do_resize": False}, RAW], ids=str)
def test_everything_stays_on_the_device_of_the_frames(resample: int, options: dict[str, Any]) -> None:
    processor = VivitImageProcessor(resample=resample, **options)
    with FakeTensorMode():
        clip = torch.empty(4, 90, 120, 3, dtype=torch.uint8, device="cuda:0")
        pixels = processor(clip, fast=True).pixel_values
        moved = processor(torch.empty(2, 4, 3, 90, 120, dtype=torch.uint8), fast=True, device="cuda:0").pixel_values
    assert pixels.device.type == moved.device.type == "cuda"
    size = processor.geometry(90, 120).model_size
    assert tuple(pixels.shape) == (1, 4, 3, *size)
    assert tuple(moved.shape) == (2, 4, 3, *size)


def test_a_clip_is_prepared_on_a_device() -> None:
    clip = Clip.from_frames(frames_of(45, 61, count=3))
    with FakeTensorMode():
        prepared = VivitImageProcessor().prepare(clip, fast=True, device="cuda:0")
    assert prepared.pixel_values is not None
    assert prepared.pixel_values.device.type == "cuda"
    assert tuple(prepared.pixel_values.shape) == (1, 3, 3, 224, 224)
    assert prepared.geometry == VivitImageProcessor().geometry(45, 61)


def test_what_the_fast_path_does_not_do_is_refused() -> None:
    processor, frames = VivitImageProcessor(), frames_of(40, 60)
    with pytest.raises(InputError, match=r"wants uint8 frames, got torch.float32; convert them, or give fast=False"):
        processor(frames.astype(np.float32), fast=True)
    with pytest.raises(InputError, match="wants frames of 1 or 3 channels, got 4"):
        processor(frames_of(40, 60, channels=4), fast=True, input_data_format="channels_last")
    with pytest.raises(
        InputError, match=r"of one size and dtype, got \[40, 60, 3\] torch.uint8 and \[50, 60, 3\] torch.uint8"
    ):
        processor([frames[0], frames_of(50, 60)[0]], fast=True)
