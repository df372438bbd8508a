"""A video that benchmarks read."""

from fractions import Fraction

import av
import numpy as np
import pytest

from tests.benchmarks.measure import FRAMES, GOP

SIZE = 720, 1280


@pytest.fixture(scope="session")
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
