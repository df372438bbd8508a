"""A browser test that fails leaves a picture and a trace, and says where."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FAILS = """
def test_that_fails(new_page):
    page = new_page()
    page.set_content("<p>here</p>")
    assert page.text_content("p") == "there"
"""


def test_a_failure_leaves_a_screenshot_and_a_trace(browser, tmp_path):
    (tmp_path / "test_it.py").write_text(FAILS)
    command = [sys.executable, "-m", "pytest", "-p", "tests.browser.conftest", "-p", "no:cacheprovider", "-q"]
    command += [f"--rootdir={tmp_path}", f"--basetemp={tmp_path / 'left'}", str(tmp_path / "test_it.py")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    (folder,) = [path.parent for path in (tmp_path / "left").rglob("trace0.zip")]
    assert f"screenshot and trace of the failure: {folder}" in ran.stdout
    assert (folder / "trace0.zip").read_bytes()[:2] == b"PK"
    assert (folder / "failure0.png").read_bytes()[1:4] == b"PNG"
