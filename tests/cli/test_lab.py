"""``vivit-lab lab``: the notebooks in place, JupyterLab started with its token, errors said."""

import importlib.util
from pathlib import Path

import pytest

import vivit_lab.cli.lab as module
from vivit_lab.cli import main
from vivit_lab.errors import BundledDataError

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def started(monkeypatch):
    pytest.importorskip("jupyterlab", reason="needs the extra [lab]")
    commands = []

    class Process:
        def __init__(self, command):
            commands.append(command)
            self.interrupted = False

        def wait(self):
            if not self.interrupted:
                self.interrupted = True
                raise KeyboardInterrupt  # goes to JupyterLab, which asks whether to stop
            return 3

        def poll(self):
            return 3

    monkeypatch.setattr(module.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(module.subprocess, "Popen", Process)
    return commands


def test_a_checkouts_notebooks_are_served_where_they_are(started):
    assert main(["lab", "--port", "9123", "--no-browser"]) == 3
    ((python, *command),) = started
    assert Path(python).name.startswith("python")
    assert command == ["-m", "jupyterlab", f"--ServerApp.root_dir={ROOT / 'notebooks'}", "--port=9123", "--no-browser"]
    assert not any("token" in part or "password" in part for part in command)


def test_options_after_two_hyphens_go_to_jupyterlab(started):
    assert main(["lab", "--no-browser", "--", "--allow-root", "--ip=0.0.0.0"]) == 3
    assert started[0][-3:] == ["--no-browser", "--allow-root", "--ip=0.0.0.0"]


def test_a_folder_gets_what_it_lacks(started, tmp_path, capsys):
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "01_first_clip.ipynb").write_text("mine")
    assert main(["lab", "--dir", str(folder)]) == 3
    assert started[0][-1] == "--port=8888"
    names = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
    assert sorted(path.name for path in folder.iterdir()) == names
    assert (folder / "01_first_clip.ipynb").read_text() == "mine"
    assert f"copied {len(names) - 1} notebooks" in capsys.readouterr().err


def test_an_installed_packages_notebooks_are_copied_to_the_working_directory(monkeypatch, tmp_path):
    package = tmp_path / "site" / "vivit_lab"
    (package / "notebooks").mkdir(parents=True)
    (package / "notebooks" / "01_a.ipynb").write_text("{}")
    monkeypatch.setattr(module, "_PACKAGE", package)
    monkeypatch.chdir(tmp_path)
    folder, copied = module.prepare_notebooks(None)
    assert copied == ["01_a.ipynb"]
    assert (tmp_path / folder / "01_a.ipynb").exists()
    assert module.prepare_notebooks(None) == (folder, [])


def test_missing_notebooks_and_a_missing_jupyterlab_are_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(module, "_PACKAGE", tmp_path / "vivit_lab")
    with pytest.raises(BundledDataError, match="the notebooks are missing"):
        module.notebooks_directory()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["lab"]) == 1
    assert "pip install 'vivit-lab[lab]'" in capsys.readouterr().err


def test_what_is_no_option_is_not_handed_on(capsys):
    assert main(["lab", "folder"]) == 1
    assert "wanted options of JupyterLab after two hyphens, such as -- --ip=0.0.0.0; got 'folder'" in " ".join(
        capsys.readouterr().err.split()
    )


def test_the_wheel_carries_the_notebooks():
    import tomllib

    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]
    assert "notebooks" in build["wheel"]["only-include"]
    assert build["wheel"]["sources"]["notebooks"] == "vivit_lab/notebooks"
    assert "/notebooks" in build["sdist"]["include"]
