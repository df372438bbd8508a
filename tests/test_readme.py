"""Every snippet of the README runs, and the two set-up commands are the ones CI takes from it."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from vivit_lab.checkpoints import bundled_clip_path
from vivit_lab.cli import main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = [line for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture(autouse=True)
def _beside_a_clip(tmp_path, monkeypatch):
    (tmp_path / "clip.mp4").write_bytes(bundled_clip_path().read_bytes())
    monkeypatch.chdir(tmp_path)


def test_there_are_two_set_up_commands_and_ci_runs_both():
    setup = [line for line in SHELL if line.startswith("python3 -m venv")]
    assert len(setup) == 2
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for word, line in zip(("demo", "pytest"), setup, strict=True):
        assert word in line
        assert f"readme_command {word}" in script
        found = subprocess.run(
            ["grep", "-E", f"^python3 -m venv .*{word}", str(ROOT / "README.md")],
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout.strip() == line


@pytest.mark.parametrize("line", [line for line in SHELL if line.startswith("vivit-lab")])
def test_every_command_runs(line, capsys):
    assert main(shlex.split(line)[1:]) == 0
    assert capsys.readouterr().out


def test_every_line_of_shell_is_run_by_something():
    assert all(line.startswith(("python3 -m venv", "vivit-lab")) for line in SHELL)


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_every_python_snippet_runs(code):
    exec(compile(code, "README.md", "exec"), {})


def test_files_that_it_names_exist():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
