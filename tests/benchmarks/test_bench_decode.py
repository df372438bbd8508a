"""Reading the end of a video: seeking against decoding from the first frame, as the documentation's helper does."""

import time
from fractions import Fraction

import av
import numpy as np
import pytest

from vivit_lab.video.read import read_clip, read_video_pyav

FRAMES, LAST, GOP, SIZE = 300, 32, 30, (720, 1280)


@pytest.fixture(scope="module")
def movie(tmp_path_factory):
    """300 frames of 720p h264 with a key frame each 30: a scene that pans under grain that is new in each frame."""
    path = tmp_path_factory.mktemp("bench") / "720p.mp4"
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    scene = np.stack([128 + 90 * np.sin(columns / (19 + k)) * np.cos(rows / (23 + k)) for k in range(3)], axis=-1)
    scene = scene.astype(np.int16)
    grain = random.normal(0, 6, (*SIZE, 1)).astype(np.int16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.gop_size = GOP
        stream.codec_context.thread_type = "FRAME"
        stream.codec_context.options = {"preset": "veryfast", "crf": "23", "bf": "2", "x264-params": "scenecut=0"}
        for number in range(FRAMES):
            pan = np.roll(scene, (2 * number, 5 * number), (0, 1))
            shift = tuple(random.integers(0, SIZE))
            frame = (pan + np.roll(grain, shift, (0, 1))).clip(0, 255).astype(np.uint8)
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def from_the_start(path, indices):
    """What the documentation's helper does: every frame up to the last wanted one is decoded, on PyAV's defaults."""
    wanted = set(indices)
    with av.open(str(path)) as container:
        kept = []
        for number, frame in enumerate(container.decode(video=0)):
            if number > max(wanted):
                break
            if number in wanted:
                kept.append(frame)
        return np.stack([frame.to_ndarray(format="rgb24") for frame in kept])


def seeking(path, indices):
    with av.open(str(path)) as container:
        return read_video_pyav(container, indices)


def quickest(read, repeats=5):
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        frames = read()
        times.append(time.perf_counter() - begin)
    return min(times), frames


@pytest.mark.benchmark
def test_last_32_of_300_frames_of_720p(movie, capsys):
    indices = list(range(FRAMES - LAST, FRAMES))
    theirs, expected = quickest(lambda: from_the_start(movie, indices))
    ours, clip = quickest(lambda: read_clip(movie, LAST, start=-LAST))
    helper, frames = quickest(lambda: seeking(movie, indices))
    with capsys.disabled():
        print(
            f"\nlast {LAST} of {FRAMES} frames, 720p h264, key frame each {GOP}: documentation {1000 * theirs:.0f} ms, "
            f"read_clip {1000 * ours:.0f} ms ({ours / theirs:.2f} ×), "
            f"read_video_pyav {1000 * helper:.0f} ms ({helper / theirs:.2f} ×)"
        )
    assert np.array_equal(clip.frames, expected)
    assert np.array_equal(frames, expected)
    assert ours <= 0.35 * theirs
    assert helper <= 0.35 * theirs
