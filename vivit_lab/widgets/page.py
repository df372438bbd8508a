"""A widget as one HTML page of its own: its script, its state, and a small stand-in for the kernel's model.

The page loads nothing: script, style and data are inside, and its content security policy forbids all requests.
"""

from __future__ import annotations

import base64
import html
import json
from typing import Any

from vivit_lab._version import __version__

__all__ = ["offline_page"]

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="vivit_lab {version}">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline' blob:; \
style-src 'unsafe-inline'; img-src data: blob:">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 0; padding: 16px; background: #fff; font: 14px/1.45 system-ui, sans-serif; }}
main {{ max-width: 1180px; margin: 0 auto; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #111114; }} }}
{style}
</style>
</head>
<body>
<main id="widget"></main>
<script type="application/json" id="state">{state}</script>
<script type="application/json" id="script">{script}</script>
<script type="module">
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const {{ traits, buffers }} = read("state");
for (const [name, text] of Object.entries(buffers)) {{
  traits[name] = new DataView(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
}}
const listeners = new Map();
const on = (name, call) => listeners.set(name, [...(listeners.get(name) ?? []), call]);
const model = {{
  get: (name) => traits[name],
  set: (name, value) => {{
    if (JSON.stringify(traits[name]) === JSON.stringify(value) && !(value instanceof DataView)) return;
    traits[name] = value;
    for (const call of listeners.get(`change:${{name}}`) ?? []) call();
  }},
  save_changes: () => undefined,
  send: () => model.set("status", "This needs a live kernel: open the notebook that made this page."),
  on,
  off: (name, call) => listeners.set(name, (listeners.get(name) ?? []).filter((other) => other !== call)),
}};
window.widgetModel = model;
const url = URL.createObjectURL(new Blob([read("script")], {{ type: "text/javascript" }}));
const widget = (await import(url)).default;
await widget.render({{ model, el: document.getElementById("widget") }});
document.body.dataset.ready = "true";
</script>
</body>
</html>
"""


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
    return _PAGE.format(
        version=__version__,
        title=html.escape(title),
        style=style.replace("</", "<\\/"),
        state=_inside_script({"traits": traits, "buffers": buffers}),
        script=_inside_script(script),
    )


def _inside_script(value: Any) -> str:
    """Return JSON that no HTML parser takes for the end of the script element."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
