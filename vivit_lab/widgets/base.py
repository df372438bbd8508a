"""What all widgets share: their scripts, messages, model calls in the background, offline pages."""

from __future__ import annotations

import atexit
import base64
import difflib
import functools
import json
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from vivit_lab._version import __version__
from vivit_lab.colormap import COLORMAP_NAMES, get_colormap
from vivit_lab.errors import InputError, MissingExtraError, VivitLabError
from vivit_lab.html import Markup, message, render
from vivit_lab.model.hooks import lock_of
from vivit_lab.progress import watching_progress

__all__ = [
    "Executor",
    "LabWidget",
    "Task",
    "TaskCancelledError",
    "float_bytes",
    "floats_of",
    "model_lock",
    "offline_page",
    "root_bytes",
    "script_of",
    "style_of",
]


@functools.cache
def script_of(*parts: str) -> str:
    """Return the ESM text of a widget.

    Args:
        *parts: files of ``static/`` in order, the widget's own last; the last has ``export default { render }``.
    """
    return "\n".join([_colormaps(), *(_read(part) for part in parts)])


@functools.cache
def style_of(*parts: str) -> str:
    """Return the CSS text of a widget: files of ``static/``, one behind the other."""
    return "\n".join(_read(part) for part in parts)


def _read(name: str) -> str:
    return (files("vivit_lab.widgets") / "static" / name).read_text(encoding="utf-8")


def _colormaps() -> str:
    """The colour tables as a constant, so that there is one source of colours."""
    tables = {}
    for name in COLORMAP_NAMES:
        colormap = get_colormap(name)
        tables[name] = {
            "table": base64.b64encode(colormap.table.tobytes()).decode(),
            "diverging": colormap.diverging,
        }
    return f"const COLORMAPS = {json.dumps(tables)};"


def offline_page(script: str, style: str, state: dict[str, Any], title: str) -> str:
    """Return a page that shows a widget without a kernel.

    Args:
        script: the widget's ESM text, with ``export default { render }``.
        style: its CSS.
        state: its traits; values are JSON-able, or bytes.
        title: of the page.
    """
    buffers = {
        name: base64.b64encode(bytes(value)).decode()
        for name, value in state.items()
        if isinstance(value, (bytes, memoryview))
    }
    traits = {name: value for name, value in state.items() if name not in buffers}
    return render(
        "widget_page.html",
        version=__version__,
        title=title,
        style=Markup(style.replace("</", "<\\/")),
        state={"traits": traits, "buffers": buffers},
        script=script,
    )


def floats_of(values: Any) -> Tensor:
    """Return numbers as a float32 tensor on the CPU, apart from any graph."""
    return torch.as_tensor(values).detach().to("cpu", torch.float32)


def float_bytes(values: Any) -> bytes:
    """Return numbers as little-endian float32, in row-major order."""
    return floats_of(values).contiguous().numpy().astype("<f4").tobytes()


def root_bytes(values: Tensor) -> tuple[bytes, Tensor]:
    """Return maps as bytes: value = peak·(byte/255)², a peak for each map.

    Square roots keep small values apart; the error is at most 0.4 % of the peak.

    Args:
        values: (map, place), not negative.

    Returns:
        The bytes, a byte for each place, and the peaks (map,) float32.
    """
    values = floats_of(values)
    peaks = values.amax(dim=1)
    share = values / torch.where(peaks > 0, peaks, torch.ones_like(peaks)).unsqueeze(1)
    return (share.sqrt() * 255).round().to(torch.uint8).numpy().tobytes(), peaks


def model_lock(model: torch.nn.Module) -> AbstractContextManager[Any]:
    """Return the one re-entrant lock of a model, which its hooks and all its widgets share."""
    return lock_of(model)


class TaskCancelledError(Exception):
    """Ends a task from inside, because nobody waits for its result any more. Never shown to a user."""


class Task:
    """One request to an ``Executor``; what it runs is called with it.

    Args:
        number: of the request; a larger one is newer.
        report: is called with (steps done, steps in all or None) as a method's progress bar moves.
    """

    def __init__(self, number: int, report: Callable[[int, int | None], None] | None = None) -> None:
        self.number = number
        self.thread: int | None = None
        self._report = report
        self._stop = threading.Event()

    def cancel(self) -> None:
        """Ask the task to end at its next step."""
        self._stop.set()

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked it to end, or a newer request came."""
        return self._stop.is_set()

    def check(self) -> None:
        """End the task here if it was cancelled.

        Raises:
            TaskCancelledError: it was.
        """
        if self.cancelled:
            raise TaskCancelledError

    def progress(self, done: int, total: int | None) -> None:
        """Pass a method's progress on, and end the task if it was cancelled.

        Raises:
            TaskCancelledError: it was.
        """
        self.check()
        if self._report is not None:
            self._report(done, total)

    @contextmanager
    def watching(self, model: torch.nn.Module) -> Iterator[None]:
        """Let the task end at every block of the model and at every step of a progress bar, in its own thread alone.

        Raises:
            TaskCancelledError: the task was cancelled while the block ran.
        """
        self.thread = threading.get_ident()
        blocks = getattr(model, "blocks", None)
        handles = [block.register_forward_pre_hook(self._at_block) for block in (blocks if blocks is not None else ())]
        try:
            with watching_progress(self.progress):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _at_block(self, *_: Any) -> None:
        if threading.get_ident() == self.thread:
            self.check()


class Executor:
    """Runs the newest request; one that a newer one overtook is cancelled, or dropped before it starts.

    The thread exists only while there is something to do.

    Args:
        lock: is held while a request runs.
        threaded: whether requests run in a thread of their own; False runs each at once, in the caller's (tests,
            scripts).
    """

    def __init__(self, lock: AbstractContextManager[Any], *, threaded: bool = True) -> None:
        self.lock = lock
        self.threaded = threaded
        self._changed = threading.Condition(threading.RLock())
        self._thread: threading.Thread | None = None
        self._waiting: tuple[Task, Callable[[Task], Any], Callable[[Any], None], Callable[[Exception], None]] | None
        self._waiting = None
        self._running: Task | None = None
        self._count = 0
        _EXECUTORS.add(self)

    def submit(
        self,
        work: Callable[[Task], Any],
        done: Callable[[Any], None],
        failed: Callable[[Exception], None],
        report: Callable[[int, int | None], None] | None = None,
    ) -> Task:
        """Run ``work`` and hand its result to ``done``, unless a newer request comes first.

        Args:
            work: what to compute, while the lock is held.
            done: receives the result, after the lock was given back, in the thread that computed it.
            failed: receives what ``work`` or ``done`` raised.
            report: receives (steps done, steps in all or None).
        """
        with self._changed:
            self._count += 1
            task = Task(self._count, report)
            if self._running is not None:
                self._running.cancel()
            self._waiting = (task, work, done, failed)
            if self.threaded and self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="vivit-lab widget", daemon=True)
                self._thread.start()
        if not self.threaded:
            self._loop()
        return task

    def cancel(self) -> bool:
        """Drop the request that waits, and ask the running one to end; returns whether there was either."""
        with self._changed:
            found = self._waiting is not None or self._running is not None
            self._waiting = None
            if self._running is not None:
                self._running.cancel()
        return found

    def wait(self, timeout: float = 60.0) -> bool:
        """Wait until nothing runs or waits; returns whether that came within ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._waiting is None and self._running is None, timeout)

    def _loop(self) -> None:
        while True:
            with self._changed:
                if self._waiting is None:
                    self._thread = None
                    self._changed.notify_all()
                    return
                task, work, done, failed = self._waiting
                self._waiting, self._running = None, task
            try:
                self._run(task, work, done, failed)
            finally:
                with self._changed:
                    self._running = None
                    self._changed.notify_all()

    def _run(self, task: Task, work: Any, done: Any, failed: Any) -> None:
        try:
            with self.lock:
                task.check()
                result = work(task)
            task.check()
            done(result)
        except TaskCancelledError:
            return
        except Exception as error:  # the widget shows it: an error in a thread would be lost in a log
            if not task.cancelled:
                failed(error)


_EXECUTORS: weakref.WeakSet[Executor] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """Let no thread be inside the model when the interpreter ends, which would abort the process."""
    for executor in list(_EXECUTORS):
        executor.cancel()
    for executor in list(_EXECUTORS):
        executor.wait(10)


try:
    import anywidget
    import traitlets
except ImportError as error:
    raise MissingExtraError(
        "widgets need the extra [lab], which is not installed: pip install 'vivit-lab[lab]'"
    ) from error


class LabWidget(anywidget.AnyWidget):
    """Base of the widgets: one view in the browser, one self-contained script, model calls off the main thread.

    A subclass names its files in ``parts`` (and ``styles``), has traits with ``.tag(sync=True)``, calls the model
    through ``request`` and answers messages of its script in methods ``on_<type>``.

    Args:
        model: the model that the widget asks; its lock is held while it is asked. None for one that shows a result.
        threaded: whether model calls run in a thread of their own; False runs them at once (tests, scripts).
        **traits: first values of public traits.

    Raises:
        InputError: there is no such trait, or its value does not fit.
    """

    parts: ClassVar[tuple[str, ...]] = ()
    """Files of ``static/`` that make the script, the widget's own last; ``core.js`` comes in front of them."""
    styles: ClassVar[tuple[str, ...]] = ()
    """Further CSS files of ``static/``; ``core.css`` comes in front of them."""

    error = traitlets.Unicode("").tag(sync=True)
    """The last error, as text; empty when there is none. Shown in the widget until dismissed."""
    status = traitlets.Unicode("").tag(sync=True)
    """What the widget last did, one line, read out by screen readers."""
    busy = traitlets.Bool(False).tag(sync=True)
    """Whether a computation runs that takes long enough to say so."""
    progress = traitlets.Float(-1.0).tag(sync=True)
    """Share of the running computation that is done, in [0, 1]; -1 where it is not known."""
    live = traitlets.Bool(True).tag(sync=True)
    """Whether a kernel answers; False in an offline page."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Put the script and the style of a subclass together."""
        if "parts" in cls.__dict__:  # not in the class that add_traits makes for an instance
            cls._esm = script_of("core.js", *cls.parts)
            cls._css = style_of("core.css", *cls.styles)
        super().__init_subclass__(**options)

    def __init__(self, model: torch.nn.Module | None, *, threaded: bool = True, **traits: Any) -> None:
        self._check_names(traits)
        self.model: Any = model
        self.lock: AbstractContextManager[Any] = nullcontext() if model is None else model_lock(model)
        self.executor = Executor(self.lock, threaded=threaded)
        try:
            super().__init__(**traits)
        except traitlets.TraitError as error:
            raise InputError(f"{type(self).__name__}: {error}") from error
        self.on_msg(self._on_message)

    @classmethod
    def _check_names(cls, traits: dict[str, Any]) -> None:
        base = set(anywidget.AnyWidget.class_trait_names())
        known = [name for name in cls.class_trait_names() if not name.startswith("_") and name not in base]
        for name in traits:
            if name not in cls.class_trait_names():
                near = difflib.get_close_matches(name, known, n=2)
                hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(sorted(known))}"
                raise InputError(f"{cls.__name__} has no trait {name!r}: {hint}")

    def request(
        self, work: Callable[[Task], Any], done: Callable[[Any], None], *, saying: str = "", quietly: bool = False
    ) -> Task:
        """Ask the model in the background; the newest request wins, and errors are shown in the widget.

        Args:
            work: computes, with the model's lock held. ``task.watching(model)`` lets it be cancelled and shows its
                progress.
            done: takes the result and sets traits.
            saying: what is shown while it runs.
            quietly: whether to leave ``busy`` as it is, for what takes milliseconds.
        """
        if not quietly:
            self.set_trait("progress", -1.0)
            self.busy = True
            self.status = saying

        def finished(result: Any) -> None:
            self.error = ""
            self.busy = False  # first, for ``done`` may ask for more
            done(result)

        def failed(error: Exception) -> None:
            self.show_error(error)  # first, so that who waits for the end sees it
            self.busy = False

        def report(step: int, total: int | None) -> None:
            self.progress = min(step / total, 1.0) if total else -1.0

        return self.executor.submit(work, finished, failed, report)

    def wait(self, timeout: float = 60.0) -> bool:
        """Wait until what was asked in the background is there; returns whether it came in ``timeout`` seconds."""
        return self.executor.wait(timeout)

    def show_error(self, error: BaseException) -> None:
        """Show an error in the widget."""
        name = "" if isinstance(error, VivitLabError) else f"{type(error).__name__}: "
        self.error = f"{name}{error}" or type(error).__name__

    @contextmanager
    def showing_errors(self) -> Iterator[None]:
        """Show what the block raises in the widget, where a callback's error would only reach a log."""
        try:
            yield
        except Exception as error:
            self.show_error(error)

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """Take values from the browser; one that does not fit is shown as an error."""
        with self.showing_errors():
            super().set_state(sync_data)

    def on_cancel(self, content: dict[str, Any]) -> None:
        """Answer the cancel button."""
        if self.executor.cancel():
            self.busy = False
            self.status = "Cancelled."

    def _on_message(self, _: Any, content: Any, buffers: list[Any]) -> None:
        with self.showing_errors():
            kind = content.get("type") if isinstance(content, dict) else None
            handler = getattr(self, f"on_{kind}", None)
            if not isinstance(kind, str) or handler is None:
                raise InputError(f"{type(self).__name__} got a message that it does not know: {content!r}")
            handler(content)

    def close(self) -> None:
        """Drop what is asked in the background and leave the page."""
        with suppress(AttributeError):  # the constructor may have raised before there was one
            self.executor.cancel()
        super().close()

    # --- without a kernel ---------------------------------------------------------------------------------------

    def offline_state(self) -> dict[str, Any]:
        """Return the traits that an offline page starts from; a subclass adds what answers without a kernel."""
        own = set(self.trait_names()) - set(anywidget.AnyWidget.class_trait_names())
        own -= {"_esm", "_css", "_anywidget_id"}
        state = {name: value for name, value in self.get_state().items() if name in own}
        return {**state, "live": False, "busy": False, "status": "", "error": ""}

    def offline_title(self) -> str:
        """Return the title of the offline page."""
        return type(self).__name__

    def to_html(self) -> str:
        """Return the widget as one HTML page that needs neither a kernel nor a network."""
        return self._page(self.offline_state())

    def _page(self, state: dict[str, Any]) -> str:
        return offline_page(str(self._esm), str(self._css), state, self.offline_title())

    def save_html(self, path: str | os.PathLike[str]) -> Path:
        """Write the page of ``to_html`` to a file and return its path.

        Raises:
            FileNotFoundError: the directory is not there.
        """
        path = Path(path)
        path.write_text(self.to_html(), encoding="utf-8")
        return path

    def _repr_html_(self) -> str:
        """Return a static picture, for where no widget can run. A subclass says more."""
        return message(f"{type(self).__name__}: needs a live kernel; save_html(path) makes a page that does not.")

    def _repr_mimebundle_(self, **options: Any) -> Any:
        bundle = super()._repr_mimebundle_(**options)
        if bundle is not None:
            bundle[0]["text/html"] = self._repr_html_()
        return bundle
