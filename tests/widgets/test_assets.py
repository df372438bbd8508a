"""The scripts are whole: no imports, no requests, one module each."""

import re
import shutil
import subprocess
from importlib.resources import files

import numpy as np
import pytest

from vivit_lab.colormap import COLORMAP_NAMES, get_colormap
from vivit_lab.widgets import ClipExplorer
from vivit_lab.widgets.base import script_of, style_of

STATIC = files("vivit_lab.widgets") / "static"


def test_the_script_of_a_widget_is_one_module_that_asks_for_nothing():
    script = script_of("core.js", *ClipExplorer.parts)
    assert ClipExplorer._esm == script
    assert len(re.findall(r"^export default", script, re.M)) == 1
    assert not re.search(r"^\s*import\b|\bimport\(|\bfetch\(|https?://(?!www\.w3\.org/2000/svg)", script, re.M)
    for part in ("core.js", *ClipExplorer.parts):
        assert (STATIC / part).read_text(encoding="utf-8") in script


def test_the_style_of_a_widget_is_its_files():
    assert style_of("core.css", "clip_explorer.css") == ClipExplorer._css
    assert not re.search(r"@import|url\(", ClipExplorer._css)


def test_the_colour_tables_are_those_of_the_package():
    import base64
    import json

    line = script_of("core.js").splitlines()[0]
    tables = json.loads(line.removeprefix("const COLORMAPS = ").removesuffix(";"))
    assert tuple(tables) == COLORMAP_NAMES
    for name, entry in tables.items():
        table = np.frombuffer(base64.b64decode(entry["table"]), dtype=np.uint8).reshape(256, 3)
        assert np.array_equal(table, get_colormap(name).table)
        assert entry["diverging"] == get_colormap(name).diverging


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_script_is_valid(tmp_path):
    file = tmp_path / "widget.mjs"
    file.write_text(ClipExplorer._esm, encoding="utf-8")
    done = subprocess.run(["node", "--check", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
