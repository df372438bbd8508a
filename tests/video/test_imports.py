"""Reading videos works where numpy and PyAV alone are installed."""

import subprocess
import sys
from importlib import import_module

import pytest

import vivit_lab.video

BLOCKED = [
    *("torch", "PIL", "psutil", "einops", "jaxtyping", "safetensors", "huggingface_hub"),
    *("tqdm", "typer", "rich", "pyarrow", "pebble", "fsspec", "jinja2"),
]

SCRIPT = """
import sys
for name in {blocked}:
    sys.modules[name] = None
import numpy as np
from vivit_lab.video import *
from vivit_lab.video import probe, read_frames
with MovieWriter({path!r}, 16, 24, end=1.0) as movie:
    for number in range(10):
        movie.write(np.full((16, 24, 3), 20 * number, np.uint8), number / 10)
print(probe({path!r}).frames, read_frames({path!r}, [2, 7]).frames.shape, len(read_clip({path!r}, 4)))
"""


def test_reading_and_writing_import_nothing_but_numpy_and_av(tmp_path):
    code = SCRIPT.format(blocked=BLOCKED, path=str(tmp_path / "grey.mp4"))
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("10 (2, 16, 24, 3) 4", 0), done.stderr


def test_the_index_of_names_is_true():
    assert sorted(vivit_lab.video.__all__) == sorted(vivit_lab.video._HOME)
    for name in vivit_lab.video.__all__:
        home = import_module(f"vivit_lab.video.{vivit_lab.video._HOME[name]}")
        assert getattr(home, name) is getattr(vivit_lab.video, name)
        assert name in dir(vivit_lab.video)
    with pytest.raises(AttributeError, match=r"module 'vivit_lab\.video' has no attribute 'prob'"):
        vivit_lab.video.prob  # noqa: B018
