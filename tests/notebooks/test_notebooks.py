"""Every notebook runs from top to bottom, is thin, and carries no outputs."""

import ast
import asyncio
import random
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(path, kind):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_it_is_numbered_thin_and_stripped(path):
    assert re.fullmatch(r"\d\d_[a-z0-9_]+\.ipynb", path.name)
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata.kernelspec.name == "python3"  # without it a notebook opens with no kernel
    opening = notebook.cells[0].source
    assert "**Expect**" in opening
    assert "**Time**" in opening
    for cell in cells(path, "code"):
        assert not cell.outputs
        assert cell.execution_count is None
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, (ast.FunctionDef, ast.Lambda)):
                assert node.end_lineno - node.lineno < 5, f"{path.name} has a function of over five lines"


AGAIN = ROOT / "notebooks" / "06_fine_tune.ipynb"  # trains into a folder, which is where a second run is most delicate


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One folder that all notebooks run in, with folders that are no models but have the names of the bundled ones."""
    folder = tmp_path_factory.mktemp("notebooks")
    (folder / "planted").mkdir()
    (folder / "bundled").mkdir()
    return folder


@pytest.fixture(scope="module")
def executed(request, place):
    """Notebook → future of what it is after a run, and what stands beside it then.

    They run in one folder and in any order, two at a time, each in one thread (tests/conftest.py); one of them twice.
    """
    nbclient = pytest.importorskip("nbclient", reason="notebooks need the extra [lab]")

    def execute(path):
        notebook = nbformat.read(path, as_version=4)
        resources = {"metadata": {"path": place}}
        client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources)
        return asyncio.run(client.async_execute())  # a loop of its own, closed after it

    def twice(path):
        execute(path)
        return execute(path)

    wanted = [item for item in request.session.items if getattr(item, "originalname", "") == "test_it_runs"]
    paths = [item.callspec.params["path"] for item in wanted]
    random.shuffle(paths)
    paths.sort(key=lambda path: path != AGAIN)  # it takes longest, and begins in time
    print("order:", ", ".join(path.name for path in paths))  # shown where one fails
    with ThreadPoolExecutor(2) as pool:
        yield {path: pool.submit(twice if path == AGAIN else execute, path) for path in paths}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_it_runs(path, executed, place):
    notebook = executed[path].result()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    kinds = {kind for output in shown for kind in output.get("data", {})}
    assert kinds & {"image/png", "application/vnd.jupyter.widget-view+json"}
    if any("Video(" in cell.source for cell in cells(path, "code")):
        assert any("<video" in output.get("data", {}).get("text/html", "") for output in shown)
    # each writes in a folder of its own and nowhere else
    assert {entry.name for entry in place.iterdir()} <= {"out", "planted", "bundled"}
    assert {entry.name for entry in (place / "out").iterdir()} <= {path.stem for path in NOTEBOOKS}
    assert not any((place / "planted").iterdir())
    assert not any((place / "bundled").iterdir())


def test_what_notebooks_write_is_in_no_commit():
    ignored = [f"notebooks/out/{path.stem}/anything" for path in NOTEBOOKS]
    told = subprocess.run(["git", "check-ignore", *ignored], cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.stdout.split() == ignored
