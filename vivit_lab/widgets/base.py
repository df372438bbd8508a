"""What all widgets share: traits for messages, model calls in the background, offline pages, a static picture."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, ClassVar

import torch

from vivit_lab.errors import InputError, MissingExtraError, VivitLabError
from vivit_lab.show.html import message
from vivit_lab.widgets.assets import script_of, style_of
from vivit_lab.widgets.executor import Executor, Task, model_lock
from vivit_lab.widgets.page import offline_page

try:
    import anywidget
    import traitlets
except ImportError as error:
    raise MissingExtraError(
        "widgets need the extra [lab], which is not installed: pip install 'vivit-lab[lab]'"
    ) from error

__all__ = ["LabWidget"]


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
