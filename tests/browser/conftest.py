"""A real browser, offline pages in it, and a JupyterLab server of our own.

Where Debian's chromium is missing the tests skip, unless CI_BROWSER=1, which makes that a failure. A test that fails
leaves a screenshot and a trace, and prints where.
"""

import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from vivit_lab.explain import load_pair
from vivit_lab.planted import PlantedConfig, planted_clip

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--force-color-profile=srgb",
]
SLOW = 240_000  # ms that a step may take on a busy machine of two cores


def needs(ok: bool, what: str) -> None:
    """Skip without a browser, but fail in CI."""
    if not ok:
        (pytest.fail if os.environ.get("CI_BROWSER") == "1" else pytest.skip)(f"{what} is not installed")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, once a session."""
    needs(CHROMIUM.exists(), str(CHROMIUM))
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        needs(False, "playwright (extra [dev])")
        raise
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield chromium
        chromium.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome: Any = yield
    if call.when == "call":
        item.failed_in_call = outcome.get_result().failed  # type: ignore[attr-defined]


@pytest.fixture
def new_page(browser: Any, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """``new_page(**options of a browser context)`` → a page; uncaught errors of our scripts fail the test."""
    contexts: list[Any] = []
    troubles: list[str] = []

    def note(error: Any) -> None:
        # widgets' scripts and offline pages come from blob: and file: addresses; Jupyter's own errors are not ours
        stack = getattr(error, "stack", None) or ""
        if "blob:" in stack or "file:" in stack:
            troubles.append(f"{error}\n{stack}")

    def make(**options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1100, "height": 1000}, **options})
        context.tracing.start(screenshots=True, snapshots=True)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(SLOW)
        page.on("pageerror", note)
        return page

    yield make
    failed = getattr(request.node, "failed_in_call", False)
    for number, context in enumerate(contexts):
        if failed:
            context.tracing.stop(path=str(tmp_path / f"trace{number}.zip"))  # first: a page that hangs has no picture
            for page in context.pages:
                with suppress(Exception):
                    page.screenshot(path=str(tmp_path / f"failure{number}.png"), timeout=20_000)
            print(f"\nscreenshot and trace of the failure: {tmp_path}")
        context.close()
    assert failed or not troubles, troubles


@pytest.fixture
def page(new_page: Callable[..., Any]) -> Any:
    """One page of 1100 × 1000."""
    return new_page()


@pytest.fixture
def open_widget(new_page: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """``open_widget(widget, page=None, **options)`` → its offline page, every network request blocked and counted.

    ``page.requests_made`` lists what the page asked of a network; ``window.widgetModel`` is the model's stand-in, with
    get, set, save_changes.
    """

    def show(widget: Any, page: Any = None, **options: Any) -> Any:
        page = page or new_page(**options)
        file = widget.save_html(tmp_path / f"{type(widget).__name__}.html")
        page.requests_made = []

        def answer(route: Any) -> None:
            if route.request.url == file.as_uri():
                return route.continue_()
            page.requests_made.append(route.request.url)
            return route.abort()

        page.route(lambda url: not url.startswith(("blob:", "data:")), answer)
        page.goto(file.as_uri())
        page.wait_for_selector("body[data-ready=true]")
        page.wait_for_function("() => !document.querySelector('.vl[data-ready=false]')")  # frames are decoded
        settle(page)
        return page

    return show


def settle(page: Any) -> None:
    """Let the widgets draw what they were asked to: they draw at the next frame of the screen."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def until(page: Any, found: Callable[[], Any], wanted: Any, seconds: float = SLOW / 1000) -> None:
    """Poll until a function returns what is wanted."""
    deadline, last = time.monotonic() + seconds, None
    while time.monotonic() < deadline:
        if (last := found()) == wanted:
            return
        page.wait_for_timeout(100)
    pytest.fail(f"found {last!r}, wanted {wanted!r} within {seconds:.0f} s")


def in_kernel(page: Any, expression: str, wanted: str) -> None:
    """Poll an expression of the notebook's kernel until it prints a text (ends stripped)."""
    until(page, lambda: page.in_kernel(f"print({expression})"), wanted.strip())


@pytest.fixture
def violations() -> Callable[[Any], list[str]]:
    """``violations(page)`` → what axe finds wrong, "rule: help (elements)"."""
    try:
        import axe_playwright_python
    except ImportError:
        needs(False, "axe-playwright-python (extra [dev])")
        raise
    source = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")

    def check(page: Any, within: str = "body") -> list[str]:
        page.evaluate(source)
        found = page.evaluate("(within) => axe.run(within, {resultTypes: ['violations']})", within)
        return [
            f"{one['id']}: {one['help']} ({'; '.join(node['html'][:160] for node in one['nodes'])})"
            for one in found["violations"]
        ]

    return check


@pytest.fixture(scope="session")
def planted() -> tuple[Any, Any]:
    """The bundled classifier of planted clips, and a clip prepared for it."""
    model, processor = load_pair("planted")
    return model, processor.prepare(planted_clip(PlantedConfig(split="test"), 4).clip())


# --- servers --------------------------------------------------------------------------------------------------------


def free_port() -> int:
    """A port below those that the system gives to whoever asks for any: nobody takes it before our server does."""
    while True:
        port = random.randrange(15_000, 32_000)
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port


def jupyter_environment(home: Path) -> dict[str, str]:
    """Directories of a Jupyter that knows nothing of the user's own."""
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    names += ("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    directories = {name: str(home / name.lower()) for name in names}
    for directory in directories.values():
        Path(directory).mkdir(parents=True, exist_ok=True)
    settings = home / "jupyterlab_settings_dir" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "tracker.jupyterlab-settings").write_text(json.dumps({"windowingMode": "none"}))
    root = str(Path(__file__).resolve().parent.parent.parent)
    return {**os.environ, **directories, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 120) -> None:
    """Poll until a server answers."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except urllib.error.HTTPError:
            return  # it answers, if only to say no
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"no answer from {url} in {seconds} s:\n{log.read_text(errors='replace')[-3000:]}")


def serve(command: list[str], url: str, home: Path) -> Iterator[str]:
    """Start a server, give its address, and end it."""
    log = home / "server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=home, env=jupyter_environment(home), stdout=file, stderr=file
        )
        try:
            wait_for(url, process, log)
            yield url.rsplit("/api", 1)[0]
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="session")
def jupyter_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory whose notebooks the server of ``jupyter`` serves."""
    return tmp_path_factory.mktemp("jupyter")


@pytest.fixture(scope="session")
def jupyter(jupyter_home: Path, browser: Any) -> Iterator[str]:
    """Address of a JupyterLab of our own on loopback, which serves ``jupyter_home``."""
    pytest.importorskip("jupyterlab", reason="needs the extra [lab]")
    port = free_port()
    options = [
        "--no-browser",
        f"--port={port}",
        "--ServerApp.ip=127.0.0.1",
        "--allow-root",
        "--IdentityProvider.token=",
        "--ServerApp.disable_check_xsrf=True",
        "--ServerApp.port_retries=0",
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.news_url=None",
    ]
    yield from serve(["jupyterlab", *options], f"http://127.0.0.1:{port}/api", jupyter_home)


def kernel_of(page: Any) -> None:
    """Wait for the kernel of the notebook that is open, and give the page ``in_kernel(code)`` → what it prints."""
    page.wait_for_function(_IDLE)
    page.in_kernel = lambda code: page.evaluate(_IN_KERNEL, code)


@pytest.fixture
def run_notebook(jupyter: str, jupyter_home: Path, new_page: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """``run_notebook(path or [cell, …], **options)`` → the page of JupyterLab after all cells ran.

    ``page.in_kernel(code)`` runs code in the notebook's kernel and returns what it prints.
    """
    pages: list[Any] = []

    def run(notebook: Path | list[str], name: str = "test.ipynb", **options: Any) -> Any:
        import nbformat

        target = jupyter_home / name
        if isinstance(notebook, Path):
            target.write_bytes(notebook.read_bytes())
        else:
            made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in notebook])
            made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
            nbformat.write(made, target)
        page = new_page(**{"viewport": {"width": 1400, "height": 1100}, **options})
        pages.append(page)
        page.goto(f"{jupyter}/lab/tree/{name}?reset")
        kernel_of(page)
        page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
        return page

    yield run
    for page in pages:
        page.evaluate("() => window.jupyterapp.commands.execute('kernelmenu:shutdown').catch(() => 0)")
        page.evaluate(_SHUTDOWN)


_KERNEL = "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel"
_IDLE = f"() => {_KERNEL}?.status === 'idle'"
_SHUTDOWN = "() => window.jupyterapp.shell.currentWidget?.sessionContext?.shutdown()"
_IN_KERNEL = """async (code) => {
  const future = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.requestExecute({code});
  let text = "";
  future.onIOPub = (message) => {
    if (message.header.msg_type === "stream") text += message.content.text;
    if (message.header.msg_type === "error") text += message.content.evalue;
  };
  await future.done;
  return text.trim();
}"""
