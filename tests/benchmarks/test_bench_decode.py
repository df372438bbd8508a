"""Reading the end of a video: seeking against decoding from the first frame, as the documentation's helper does."""

import time

import av
import numpy as np
import pytest

from tests.benchmarks.measure import FRAMES, GOP
from vivit_lab.video import read_clip, read_video_pyav

LAST = 32  # frames that are read


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
