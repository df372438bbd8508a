"""A widget as one HTML page of its own: its script, its state, and a small stand-in for the kernel's model.

The page loads nothing: script, style and data are inside, and its content security policy forbids all requests.
"""

from __future__ import annotations

import base64
from typing import Any

from vivit_lab._version import __version__
from vivit_lab.show.html import Markup, render

__all__ = ["offline_page"]


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
