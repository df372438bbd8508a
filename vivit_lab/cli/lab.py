"""``vivit-lab lab``: JupyterLab with the notebooks."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from vivit_lab.cli.options import Debug, errors
from vivit_lab.errors import BundledDataError, InputError, MissingExtraError
from vivit_lab.processes import Stopped

__all__ = ["lab", "notebooks_directory", "prepare_notebooks"]

_PACKAGE = Path(__file__).resolve().parent.parent
_PATIENCE = 20.0  # seconds that JupyterLab has to end its kernels and itself
_FOLDER = "vivit-lab-notebooks"


def notebooks_directory() -> Path:
    """Return where the notebooks are: in the installed package, else beside it in a checkout.

    Raises:
        BundledDataError: they are in neither place.
    """
    places = [_PACKAGE / "notebooks", _PACKAGE.parent / "notebooks"]
    for place in places:
        if any(place.glob("*.ipynb")):
            return place
    raise BundledDataError(
        f"the notebooks are missing from {' and '.join(map(str, places))}; install the package again"
    )


def prepare_notebooks(folder: Path | None) -> tuple[Path, list[str]]:
    """Return the folder to work in, and the names of the notebooks that were copied into it.

    A checkout's own notebooks are used where they are. An installed package's are copied, to ``vivit-lab-notebooks`` in
    the working directory unless a folder is given; what is there already is left as it is.

    Raises:
        BundledDataError: the notebooks are missing.
    """
    source = notebooks_directory()
    if folder is None and source.parent != _PACKAGE:
        return source, []
    target = folder or Path(_FOLDER)
    target.mkdir(parents=True, exist_ok=True)
    wanted = [path for path in sorted(source.glob("*.ipynb")) if not (target / path.name).exists()]
    for path in wanted:
        shutil.copyfile(path, target / path.name)
    return target, [path.name for path in wanted]


def lab(
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Where JupyterLab listens; the next free one if taken.")
    ] = 8888,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open it, only print its address.")] = False,
    dir: Annotated[
        Path | None,
        typer.Option("--dir", help=f"Where the notebooks go; ./{_FOLDER} by default, in a checkout its own."),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Argument(help="Options for JupyterLab itself, after two hyphens: -- --allow-root --ip=0.0.0.0"),
    ] = None,
    debug: Debug = False,
) -> None:
    """Start JupyterLab with the notebooks and open it. It keeps Jupyter's token; Ctrl-C ends it."""
    if importlib.util.find_spec("jupyterlab") is None:
        raise MissingExtraError("JupyterLab is not installed: pip install 'vivit-lab[lab]'")
    if wrong := [option for option in options or [] if not option.startswith("-")]:
        raise InputError(f"wanted options of JupyterLab after two hyphens, such as -- --ip=0.0.0.0; got {wrong[0]!r}")
    folder, copied = prepare_notebooks(dir)
    if copied:
        errors.print(f"copied {len(copied)} notebooks to {folder}")
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={folder.resolve()}", f"--port={port}"]
    if no_browser:
        command.append("--no-browser")
    command += options or []
    raise typer.Exit(_run(command))


def _run(command: list[str]) -> int:
    """Run JupyterLab until it ends, and end it with this process.

    Ctrl-C on a terminal goes to both: JupyterLab asks whether to stop. Where there is no terminal nobody could answer,
    so it is told to end, as it is by SIGTERM and SIGHUP; it then ends the kernels.
    """
    process = subprocess.Popen(command)
    try:
        while True:
            try:
                return process.wait()
            except Stopped:
                raise
            except KeyboardInterrupt:
                if sys.stdin is None or not sys.stdin.isatty():
                    raise
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
