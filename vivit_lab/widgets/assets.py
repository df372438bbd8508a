"""The JavaScript and CSS of a widget, put together from the files in ``static/``.

anywidget loads a module from a Blob URL, where a relative import leads nowhere. So what widgets share stands once in
``core.js`` (and its like), and each widget ships one self-contained text: the colour tables, the shared parts, its own
file, one behind the other. No build step, no download. Names at the top level of the parts must differ.
"""

from __future__ import annotations

import base64
import functools
import json
from importlib.resources import files

from vivit_lab.colormap import COLORMAP_NAMES, get_colormap

__all__ = ["script_of", "style_of"]


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
