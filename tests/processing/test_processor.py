"""The exact path gives bit for bit what transformers gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import BatchFeature as PeerBatchFeature

from tests.processing.peer import PeerProcessor, assert_equal_to_peer, frames_of, silence_announcements
from vivit_lab.errors import ConfigError, DoubleNormalizationWarning, InputError, VivitLabWarning
from vivit_lab.processing import VivitImageProcessor
from vivit_lab.processing import processor as preprocess
from vivit_lab.processing.options import ProcessorOptions
from vivit_lab.processing.processor import BatchFeature, ExactPath, _part_is_exact, aligned_span, to_levels
from vivit_lab.video import Clip

pytestmark = pytest.mark.peer


@pytest.fixture(autouse=True)
def _silent(monkeypatch: pytest.MonkeyPatch) -> None:
    silence_announcements(monkeypatch)


SIZES = [
    (240, 320),
    (320, 240),
    (256, 256),
    (257, 255),
    (1, 1),
    (3, 500),
    (97, 13),
    (720, 1280),
    (1080, 1920),
    (480, 854),
]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_defaults_at_any_resolution(size: tuple[int, int]) -> None:
    assert_equal_to_peer(frames_of(*size), input_data_format="channels_last")


@pytest.mark.parametrize("resample", [*Image.Resampling])
@pytest.mark.parametrize("size", [(90, 160), (41, 33)], ids=str)
@pytest.mark.parametrize("target", [{"shortest_edge": 50}, {"height": 37, "width": 61}, 64, (20, 30)], ids=str)
def test_filters_and_sizes(resample: int, size: tuple[int, int], target: Any) -> None:
    assert_equal_to_peer(frames_of(*size), {"resample": resample, "size": target, "crop_size": 48})


@pytest.mark.parametrize("crop", [(8, 8), (9, 8), (64, 64), (65, 64), (64, 65), (7, 99), (98, 5), (31, 31)], ids=str)
@pytest.mark.parametrize("size", [(31, 40), (40, 31), (30, 30)], ids=str)
@pytest.mark.parametrize("do_resize", [True, False])
def test_crops_with_padding_and_odd_remainders(crop: tuple[int, int], size: tuple[int, int], do_resize: bool) -> None:
    got = assert_equal_to_peer(frames_of(*size), {"do_resize": do_resize, "size": 33, "crop_size": crop})
    assert got.shape == (1, 2, 3, *crop)


ARITHMETIC = [
    {"offset": False},
    {"offset": False, "rescale_factor": 1 / 255},
    {"do_normalize": False},
    {"do_normalize": False, "rescale_factor": 2},
    {"do_normalize": False, "rescale_factor": np.float32(0.1)},
    {"do_rescale": False, "offset": False},
    {"do_rescale": False, "offset": False, "do_normalize": False},
    {"image_mean": 0.3, "image_std": 0.7},
    {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
    {"image_mean": (1, 2, 3), "image_std": 2},
    {"image_mean": np.array([0.1, 0.2, 0.3]), "image_std": np.float64(0.25)},
]


@pytest.mark.parametrize("options", ARITHMETIC, ids=str)
@pytest.mark.parametrize("do_resize", [True, False])
def test_arithmetic(options: dict[str, Any], do_resize: bool) -> None:
    assert_equal_to_peer(frames_of(40, 60), {"do_resize": do_resize, "size": 32, "crop_size": 30, **options})
    assert_equal_to_peer(frames_of(40, 60), {"size": 32, "crop_size": 30}, do_resize=do_resize, **options)


def test_steps_left_out() -> None:
    frames = frames_of(40, 60)
    for options in ({"do_center_crop": False}, {"do_resize": False, "do_center_crop": False}):
        assert_equal_to_peer(frames, {"size": 32, **options})
    # a longest edge beside the shortest has no effect
    assert_equal_to_peer(frames, {"size": {"shortest_edge": 30, "longest_edge": 31}, "do_center_crop": False})


@pytest.mark.parametrize("do_resize", [True, False])
@pytest.mark.parametrize("do_rescale", [True, False])
@pytest.mark.parametrize("do_normalize", [True, False])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "uint16", "float16", "float32", "float64", "bool"])
def test_dtypes_of_levels(dtype: str, do_resize: bool, do_rescale: bool, do_normalize: bool) -> None:
    options = {"do_resize": do_resize, "do_rescale": do_rescale, "offset": do_rescale, "do_normalize": do_normalize}
    frames = frames_of(30, 41)
    frames = frames > 127 if dtype == "bool" else frames.astype(dtype)
    assert_equal_to_peer(frames, {"size": 20, "crop_size": 25, **options})


@pytest.mark.parametrize("do_resize", [True, False])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_in_the_unit_interval(dtype: type, do_resize: bool) -> None:
    frames = np.random.default_rng(0).random((2, 30, 41, 3)).astype(dtype)
    options = {"size": 20, "crop_size": 25, "do_resize": do_resize}
    assert_equal_to_peer(frames, options)
    assert_equal_to_peer(frames, {**options, "do_rescale": False, "offset": False})
    assert_equal_to_peer(frames, {**options, "do_rescale": False, "offset": False, "do_normalize": False})
    # a frame of only zeros and ones among them counts as levels, and is resized as such
    frames[0] = frames[0] > 0.5
    assert_equal_to_peer(frames, {**options, "do_rescale": False, "offset": False})


@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_channel_orders(data_format: str, explicit: bool, first: bool, channels: int) -> None:
    frames = frames_of(30, 41, channels=channels)
    frames = np.moveaxis(frames, -1, 1) if first else frames
    call = {"input_data_format": "channels_first" if first else "channels_last"} if explicit else {}
    statistics = {"image_mean": 0.5, "image_std": 0.5}
    options = {"size": 20, "crop_size": 25, **statistics}
    got = assert_equal_to_peer(frames, options, data_format=data_format, **call)
    assert got.shape == ((1, 2, channels, 25, 25) if data_format == "channels_first" else (1, 2, 25, 25, channels))
    assert_equal_to_peer(frames.astype(np.float32), {"do_resize": False, **options}, data_format=data_format, **call)


@pytest.mark.parametrize("channels", [2, 4])
def test_unusual_channels(channels: int) -> None:
    options = {"size": 20, "crop_size": 25, "image_mean": 0.5, "image_std": 0.5}
    assert_equal_to_peer(frames_of(30, 41, channels=channels), options, input_data_format="channels_last")
    five = frames_of(30, 41, channels=5)
    assert_equal_to_peer(five, {"do_resize": False, **options}, input_data_format="channels_last")


def test_ambiguous_channels_are_first_as_in_transformers() -> None:
    options = {"size": 20, "crop_size": 8}
    assert_equal_to_peer(frames_of(3, 41), options)
    assert_equal_to_peer([Image.fromarray(frames_of(3, 41)[0])], options)


def test_output_layout_none_keeps_that_of_the_input() -> None:
    processor, frames = VivitImageProcessor(), frames_of(30, 41)
    last = processor(frames, data_format=None, return_tensors="np").pixel_values
    np.testing.assert_array_equal(
        last, processor(frames, data_format="channels_last", return_tensors="np").pixel_values
    )
    first = processor(np.moveaxis(frames, -1, 1), data_format=None, return_tensors="np").pixel_values
    np.testing.assert_array_equal(first, np.moveaxis(last, -1, 2))


@st.composite
def _cases(draw: st.DrawFn) -> tuple[np.ndarray, dict[str, Any]]:
    edge = st.integers(1, 70)
    size = draw(st.one_of(edge.map(lambda n: {"shortest_edge": n}), st.tuples(edge, edge).map(lambda s: [*s])))
    number = st.floats(-2, 2).map(lambda x: round(x, 3))
    positive = st.floats(0.1, 3)
    do_rescale = draw(st.booleans())
    options = {
        "size": size,
        "resample": draw(st.integers(0, 5)),
        "crop_size": [draw(edge), draw(edge)],
        "do_resize": draw(st.booleans()),
        "do_center_crop": draw(st.booleans()),
        "do_rescale": do_rescale,
        "rescale_factor": draw(st.sampled_from([1 / 127.5, 1 / 255, 1, 0.02])),
        "offset": do_rescale and draw(st.booleans()),
        "do_normalize": draw(st.booleans()),
        "image_mean": draw(st.one_of(number, st.lists(number, min_size=3, max_size=3))),
        "image_std": draw(st.one_of(positive, st.lists(positive, min_size=3, max_size=3))),
    }
    # aspect ratios are kept within bounds: 70 × 70 is what a short edge of 70 may become 4900 long from
    height = draw(st.integers(4, 90))
    width = draw(st.integers(max(4, height // 4), 4 * height))
    frames = frames_of(height, width, count=1, seed=draw(st.integers(0, 99)))
    kind = draw(st.sampled_from(["uint8", "int32", "float32", "unit"]))
    frames = (frames / 255).astype(np.float32) if kind == "unit" else frames.astype(kind)
    return frames, options


@settings(max_examples=150)
@given(_cases())
def test_any_options(case: tuple[np.ndarray, dict[str, Any]]) -> None:
    assert_equal_to_peer(*case)


@settings(max_examples=150)
@given(st.integers(4, 400), st.integers(4, 400), st.integers(8, 200), st.integers(1, 200), st.integers(1, 200))
@example(240, 320, 256, 224, 224)  # Pillow 13 would resize the part's axes in another order than the whole frame's
@example(360, 640, 144, 128, 128)
@example(18, 4, 8, 1, 1)  # one pixel may agree on noise by chance
def test_computing_only_what_the_crop_keeps_changes_no_bit(
    height: int, width: int, short: int, rows: int, columns: int
) -> None:
    """The default filter resizes only a part of the frame; Pillow's resize of the whole frame is the reference."""
    frame = frames_of(height, width, count=1)[0]
    options = ProcessorOptions(
        size=short, crop_size=(rows, columns), do_rescale=False, offset=False, do_normalize=False
    )
    plan = options.plan(height, width)
    whole = np.asarray(Image.fromarray(frame).resize(plan.resized[::-1], Image.Resampling.BILINEAR))
    top, left, bottom, right = plan.visible
    wanted = np.zeros((rows, columns, 3), np.uint8)
    wanted[top - plan.top : bottom - plan.top, left - plan.left : right - plan.left] = whole[top:bottom, left:right]
    np.testing.assert_array_equal(ExactPath(options, output_layout="channels_last").frame(frame), wanted)


def test_a_part_is_computed_where_it_saves_work() -> None:
    """The shortcut is taken for the sizes that matter, so the test above is about something."""
    for size, resized, spans in (
        ((1920, 1080), (256, 455), (16, 240, 91, 364)),
        ((1280, 720), (256, 455), (16, 240, 91, 364)),
    ):
        assert _part_is_exact(size, resized, spans)
    assert not _part_is_exact((64, 64), (128, 128), (0, 128, 0, 128))


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ((1080, 256, 16, 240), (16, 240)),  # 135/32: every position has few binary places
        ((1920, 455, 115, 339), (91, 364)),  # 384/91: positions that are multiples of 91
        ((640, 341, 58, 282), (0, 341)),  # nothing in common
        ((100, 128, 3, 40), (3, 40)),
        ((9000, 4500, 100, 200), (0, 4500)),  # beyond what single precision holds with six binary places
        ((7919, 256, 10, 20), (0, 256)),  # 256 is 2^8: too many binary places, and a prime length
    ],
)
def test_aligned_span(arguments: tuple[int, int, int, int], wanted: tuple[int, int]) -> None:
    assert aligned_span(*arguments) == wanted


def test_one_thread_and_many_agree() -> None:
    frames, processor, threads = frames_of(60, 80, count=7), VivitImageProcessor(), torch.get_num_threads()
    results = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(processor(frames, return_tensors="np").pixel_values)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(*results)


def test_result_of_none_is_a_list_of_clips_of_frames() -> None:
    frames = frames_of(30, 41)
    wanted, got = PeerProcessor()(list(frames))["pixel_values"], VivitImageProcessor()(frames)["pixel_values"]
    assert [len(clip) for clip in got] == [len(clip) for clip in wanted] == [2]
    for mine, other in zip(got[0], wanted[0], strict=True):
        assert isinstance(mine, np.ndarray)
        np.testing.assert_array_equal(mine, other)


def test_result_of_pt_is_a_tensor() -> None:
    frames = frames_of(30, 41)
    got = VivitImageProcessor()(videos=frames, return_tensors="pt", device="cpu")
    wanted = PeerProcessor()(list(frames), return_tensors="pt")
    assert torch.equal(got.pixel_values, wanted.pixel_values)
    assert got.pixel_values.is_contiguous()
    assert set(got) == {"pixel_values"}


def test_result_never_shares_memory_with_the_frames() -> None:
    frames = frames_of(30, 41).astype(np.float32)
    off = {"do_resize": False, "do_center_crop": False, "do_rescale": False, "offset": False, "do_normalize": False}
    for data_format in ("channels_first", "channels_last"):
        result = VivitImageProcessor(**off)(frames, data_format=data_format).pixel_values[0][0]
        assert not np.shares_memory(result, frames)


def test_batch_feature_is_a_mapping_with_attributes() -> None:
    features = BatchFeature(pixel_values=torch.zeros(2), names=["a"])
    assert features.names == ["a"]
    assert {**features}.keys() == {"pixel_values", "names"}
    with pytest.raises(AttributeError, match="no entry 'logits', only"):
        _ = features.logits


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((torch.float64,), {}),
        (("cpu",), {"dtype": torch.bfloat16}),
        ((torch.device("cpu"), torch.float16), {"non_blocking": True}),
        ((), {"device": "meta"}),
        (("meta", torch.float64), {}),
    ],
    ids=str,
)
def test_batch_feature_moves_as_that_of_the_peer(arguments: tuple, options: dict[str, Any]) -> None:
    def content() -> dict[str, Any]:
        return {"pixel_values": torch.zeros(2), "levels": torch.zeros(2, dtype=torch.uint8), "names": ["a"]}

    peer, features = PeerBatchFeature(content()), BatchFeature(content())
    assert peer.to(*arguments, **options) is peer
    assert features.to(*arguments, **options) is features
    for name in ("pixel_values", "levels"):
        assert (features[name].dtype, features[name].device) == (peer[name].dtype, peer[name].device)
    assert features.levels.dtype == torch.uint8
    assert features.names == ["a"]


def test_processors_are_hashable() -> None:
    assert len({VivitImageProcessor(), VivitImageProcessor(), VivitImageProcessor(size=112)}) == 2
    assert hash(VivitImageProcessor(image_mean=[0.5] * 3)) == hash(VivitImageProcessor())
    assert hash(VivitImageProcessor()) != hash(VivitImageProcessor(do_normalize=False))
    assert len({ProcessorOptions(size=(1, 2)), ProcessorOptions(size=[1, 2])}) == 1


def test_options_of_one_call_leave_the_processor_as_it_was() -> None:
    processor = VivitImageProcessor()
    processor(frames_of(30, 41), size={"shortest_edge": 20}, do_normalize=False, image_mean=None)
    assert processor == VivitImageProcessor()


def test_double_normalization_is_announced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess, "_announced", set())
    frames = frames_of(30, 41)
    VivitImageProcessor.trained_range()(frames)
    VivitImageProcessor.imagenet()(frames)
    with pytest.warns(DoubleNormalizationWarning, match=r"\[-3, 1\]; VivitImageProcessor.trained_range\(\)") as told:
        VivitImageProcessor()(frames)
    VivitImageProcessor()(frames)  # a second warning would be an error
    VivitImageProcessor().preprocess(frames)
    assert len(told) == 1
    assert told[0].filename == __file__


def test_each_configuration_that_normalizes_twice_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess, "_announced", set())
    frames = frames_of(30, 41)
    first, second = VivitImageProcessor(), VivitImageProcessor(image_mean=0.4)
    clip = Clip.from_frames(frames)
    for processor, use in ((first, first.preprocess), (second, second.prepare)):
        with pytest.warns(DoubleNormalizationWarning, match="said once of a configuration") as told:
            use(clip)
        assert [warning.filename for warning in told] == [__file__]
        use(clip)
        processor(frames)
    with pytest.warns(DoubleNormalizationWarning, match=r"\[-6, 2\]"):
        first(frames, image_std=0.25)


def test_where_warnings_are_errors_every_use_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess, "_announced", set())
    for _ in range(2):  # pytest makes warnings errors
        with pytest.raises(DoubleNormalizationWarning, match="normalises twice"):
            VivitImageProcessor()(frames_of(30, 41))


def test_pixels_that_are_scaled_already_are_announced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess, "_announced", set())
    processor = VivitImageProcessor.trained_range()
    unit = frames_of(30, 41).astype(np.float32) / 255
    processor(unit, do_rescale=False, offset=False)
    processor(np.zeros_like(unit))
    processor([Image.fromarray(frames_of(30, 41)[0])])
    processor(unit * 255 // 1)
    with pytest.warns(VivitLabWarning, match=r"lie in \[0, 1\] already") as told:
        processor(unit)
    processor(torch.from_numpy(unit))
    assert len(told) == 1


def test_presets_and_their_ranges() -> None:
    levels = np.repeat(np.array([0, 127, 255], np.uint8), 3).reshape(1, 1, 3, 3)
    off = {"do_resize": False, "do_center_crop": False, "input_data_format": "channels_last", "return_tensors": "np"}
    trained = VivitImageProcessor.trained_range()(levels, **off).pixel_values[0, 0, 0, 0]
    np.testing.assert_allclose(trained, [-1, -0.0039216, 1], atol=1e-6)
    default = VivitImageProcessor()(levels, **off).pixel_values[0, 0, 0, 0]
    np.testing.assert_allclose(default, [-3, -1.0078431, 1], atol=1e-6)
    imagenet = VivitImageProcessor.imagenet()(levels, **off).pixel_values[0, 0, :, 0, :]
    for channel, (mean, std) in enumerate(zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)):
        np.testing.assert_allclose(imagenet[channel], (np.array([0, 127, 255]) / 255 - mean) / std, atol=1e-6)
    assert VivitImageProcessor.trained_range(size=112, do_normalize=True).normalizes_twice
    assert VivitImageProcessor.imagenet(crop_size=112).crop_size == {"height": 112, "width": 112}


@pytest.mark.parametrize(
    ("options", "twice", "limits"),
    [
        ({}, True, (-3, 1)),
        ({"do_normalize": False}, False, (-1, 1)),
        ({"image_mean": 0, "image_std": 1}, False, (-1, 1)),
        ({"offset": False, "image_mean": 1, "image_std": 1}, False, (-1, 1)),
        ({"rescale_factor": 1 / 255, "offset": False}, False, (-1, 1)),
        ({"rescale_factor": 1 / 255, "image_mean": -0.5}, False, (-1, 1)),
        ({"image_mean": [0, 0, 0.5], "image_std": 1}, True, (-1.5, 1)),
        ({"do_rescale": False, "offset": False, "do_normalize": False}, False, (0, 255)),
    ],
    ids=str,
)
def test_what_normalizes_twice(options: dict[str, Any], twice: bool, limits: tuple[float, float]) -> None:
    processor = VivitImageProcessor(**options)
    assert processor.normalizes_twice is twice
    assert processor.value_range == pytest.approx(limits)


def test_offset_without_rescale_is_a_value_error_when_used() -> None:
    processor = VivitImageProcessor(do_rescale=False)
    processor(frames_of(30, 41), offset=False)
    for fast in (False, True):
        with pytest.raises(ValueError, match="offset=True needs do_rescale=True"):
            processor(frames_of(30, 41), fast=fast)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": {"longest_edge": 256}}, "size must have 'shortest_edge', or 'height' and 'width'"),
        ({"size": {"max_height": 3, "max_width": 4}}, "size must have 'shortest_edge'"),
        ({"crop_size": {"shortest_edge": 256}}, "crop_size must have 'height' and 'width'"),
    ],
    ids=str,
)
def test_sizes_that_are_no_target_are_refused_where_they_are_used(options: dict[str, Any], message: str) -> None:
    processor = VivitImageProcessor(**options)
    with pytest.raises(ConfigError, match=message):
        processor(frames_of(30, 41))
    with pytest.raises(ValueError, match="must have"):
        PeerProcessor(**options)(list(frames_of(30, 41)))
    unused = {"do_resize": False} if "size" in options else {"do_center_crop": False}
    assert_equal_to_peer(frames_of(30, 41), {**options, **unused})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"do_resize": 1}, "do_resize must be True or False, got 1"),
        ({"offset": None}, "offset must be True or False, got None"),
        ({"size": {"edge": 3}}, "size must be an integer, a pair or a dictionary with 'shortest_edge', or"),
        ({"size": "large"}, "size must be an integer"),
        ({"size": [1, 2, 3]}, "size must be an integer"),
        ({"size": True}, "size must be an integer"),
        ({"crop_size": {"height": 4}}, "crop_size must be an integer, a pair or a dictionary with 'height' and"),
        ({"size": {"shortest_edge": 2.5}}, r"size\['shortest_edge'\] must be a positive number of pixels, got 2.5"),
        ({"crop_size": 0}, r"crop_size\['height'\] must be a positive number of pixels, got 0"),
        ({"resample": 99}, "resample must be one of Pillow's filters .*2 bilinear.* got 99"),
        ({"resample": None}, "resample must be one of"),
        ({"resample": True}, "resample must be one of"),
        ({"rescale_factor": None}, "rescale_factor must be a finite number, got None"),
        ({"rescale_factor": float("nan")}, "rescale_factor must be a finite number, got nan"),
        ({"image_mean": "0.5"}, "image_mean must be a number or a list"),
        ({"image_mean": []}, "image_mean must be a number or a list"),
        ({"image_std": [0.5, None, 0.5]}, "image_std must be a number or a list"),
        ({"image_std": [0.5, 0.5, 0]}, "image_std must not be 0"),
        ({"image_mean": [0, 0], "image_std": [1, 1, 1]}, "image_mean has 2 channels and image_std 3"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VivitImageProcessor(**options)
    if None not in options.values():  # for one call, None stands for the processor's own
        with pytest.raises(ConfigError, match=message):
            VivitImageProcessor()(frames_of(30, 41), **options)


@pytest.mark.parametrize("fast", [False, True])
def test_statistics_of_another_number_of_channels(fast: bool) -> None:
    with pytest.raises(ConfigError, match="image_std has 2 channels, the frames have 3"):
        VivitImageProcessor(image_mean=0.5, image_std=[0.5, 0.5])(frames_of(30, 41), fast=fast)


def test_unknown_options_of_a_call_are_refused() -> None:
    with pytest.raises(ConfigError, match="no option 'do_normalise'; did you mean 'do_normalize'"):
        VivitImageProcessor()(frames_of(30, 41), do_normalise=False)
    with pytest.raises(ConfigError, match="no option 'extra'; the options are do_resize, size"):
        VivitImageProcessor()(frames_of(30, 41), extra={})


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.full((1, 30, 41, 3), 300), r"values from 300 to 300 \(int64\)"),
        (np.full((1, 30, 41, 3), -1), "values from -1 to -1"),
        (
            np.full((1, 30, 41, 3), 1.5),
            r"whole numbers in \[0, 255\] or numbers in \[0, 1\]; got values from 1.5 to 1.5",
        ),
        (np.full((1, 30, 41, 3), np.nan), "values that are not finite"),
    ],
    ids=["too large", "negative", "fraction", "nan"],
)
def test_values_that_cannot_be_resized(frames: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        VivitImageProcessor()(frames)
    with pytest.raises(ValueError, match="cannot be converted to uint8"):
        PeerProcessor()(list(np.nan_to_num(frames, nan=1.5)))
    if 0 <= frames.min() and frames.max() <= 255:  # the advice of the message
        VivitImageProcessor()(frames, do_resize=False)
    else:
        with pytest.raises(InputError, match=r"frame 0 of the clip (has values from|holds nan)"):
            VivitImageProcessor()(frames, do_resize=False)
    if np.isfinite(frames).all():  # another range is taken where nothing says that it is levels
        VivitImageProcessor()(frames, do_resize=False, do_rescale=False, offset=False)


def test_levels_of_an_empty_frame_are_refused() -> None:
    with pytest.raises(InputError, match="not finite"):
        to_levels(np.zeros((0, 4, 3)))
