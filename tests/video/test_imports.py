"""Reading videos works where numpy and PyAV alone are installed."""

import subprocess
import sys

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
