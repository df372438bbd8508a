"""Figures without pyplot."""

import builtins
import subprocess
import sys

import pytest

from vivit_lab.errors import MissingExtraError
from vivit_lab.figures import new_figure


def test_a_figure_shows_itself_and_leaves_pyplot_alone():
    code = (
        "import sys; from vivit_lab.figures import new_figure; assert 'matplotlib' not in sys.modules\n"
        "figure, axes = new_figure(2, 3, (4.0, 3.0), sharex=True)\n"
        "assert axes.shape == (2, 3) and figure._repr_png_()[:4] == b'\\x89PNG'\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_matplotlib_is_an_extra(monkeypatch):
    real = builtins.__import__

    def missing(name, *rest, **more):
        if name.startswith("matplotlib"):
            raise ImportError("No module named 'matplotlib'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingExtraError, match=r"vivit-lab\[lab\]"):
        new_figure(1, 1, (1.0, 1.0))
