"""Every notebook runs from top to bottom, is thin, and carries no outputs."""

import ast
import asyncio
import re
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


@pytest.fixture(scope="module")
def executed(request, tmp_path_factory):
    """Notebook → future of what it is after a run; two run at a time, each in one thread (tests/conftest.py)."""
    nbclient = pytest.importorskip("nbclient", reason="notebooks need the extra [lab]")

    def execute(path):
        notebook = nbformat.read(path, as_version=4)
        place = {"metadata": {"path": tmp_path_factory.mktemp(path.stem)}}
        client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place)
        return asyncio.run(client.async_execute())  # a loop of its own, closed after it

    wanted = [item for item in request.session.items if getattr(item, "originalname", "") == "test_it_runs"]
    with ThreadPoolExecutor(2) as pool:
        yield {path: pool.submit(execute, path) for path in (item.callspec.params["path"] for item in wanted)}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_it_runs(path, executed):
    notebook = executed[path].result()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    kinds = {kind for output in shown for kind in output.get("data", {})}
    assert kinds & {"image/png", "application/vnd.jupyter.widget-view+json"}
    if any("Video(" in cell.source for cell in cells(path, "code")):
        assert any("<video" in output.get("data", {}).get("text/html", "") for output in shown)
