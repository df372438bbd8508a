"""Make the README's screenshots of the widgets, in Debian's chromium.

Run from the root of a checkout, then ``python -m tests.golden.make_bundled --only-manifest``::

    python -m tests.golden.make_screenshots
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from tests.browser.conftest import CHROMIUM, FLAGS
from vivit_lab.attribution import AttentionRollout
from vivit_lab.checkpoints import bundled_clip_path
from vivit_lab.explain import load_pair
from vivit_lab.heads import HeadMask
from vivit_lab.planted import PlantedConfig, planted_clip
from vivit_lab.video import read_clip
from vivit_lab.widgets import ClipExplorer, CompareExplorer, HeadExplorer
from vivit_lab.widgets.base import LabWidget

PICTURES = Path("data/pictures")
#: name → (width in CSS pixels, colour scheme)
VIEWS = {"clip_explorer": (1000, "light"), "clip_explorer_dark": (1000, "dark"), "clip_explorer_narrow": (380, "light")}
#: the same of the other widgets
MORE_VIEWS = {"head_explorer": (1000, "light"), "compare_explorer": (1000, "light")}


def explorer() -> ClipExplorer:
    """The bundled clip, and where the patch on an eye looks in the last layer."""
    model, processor = load_pair("bundled")
    clip = read_clip(bundled_clip_path(), model.config.num_frames, 2, processor=processor)
    shown = ClipExplorer(model, clip, frame=8, threaded=False)
    shown.query = shown.record.grid.token(4, 8, 3)
    return shown


def heads() -> HeadExplorer:
    """A planted clip, with the heads of the last layer but one that matter least switched off."""
    model, processor = load_pair("planted")
    clip = processor.prepare(planted_clip(PlantedConfig(split="test"), 4).clip())
    shown = HeadExplorer(model, clip, color_by="michel", frame=4, layer=4, head=3, threaded=False)
    shown.mask = HeadMask.from_scores(shown.score().values, fraction=0.75)
    return shown


def comparison() -> CompareExplorer:
    """Two methods on the bundled clip."""
    model, processor = load_pair("bundled")
    clip = read_clip(bundled_clip_path(), model.config.num_frames, 2, processor=processor)
    return CompareExplorer.of_methods(
        model, clip, "raw", "late", methods={"late": AttentionRollout(start_layer=8)}, frame=8, threaded=False
    )


def live_page(shown: LabWidget, path: Path) -> Path:
    """Write a page that looks as with a kernel: what needs one is enabled."""
    state = {**shown.offline_state(), "live": True}
    path.write_text(shown._page(state), encoding="utf-8")
    return path


def animate(browser: Any, page_file: Path, target: Path) -> None:
    """Write the explorer going through the layers, and then through the frames, as an animated WebP."""
    page = browser.new_page(viewport={"width": 560, "height": 400})
    page.goto(page_file.as_uri())
    page.wait_for_selector(".vl-explorer[data-ready=true]")
    shots = []
    steps = [("layer", layer) for layer in range(12)] + [("frame", frame) for frame in range(16)]
    for name, value in steps:
        page.evaluate("([name, value]) => widgetModel.set(name, value)", [name, value])
        page.wait_for_function(
            "([name, value]) => document.querySelector('canvas[role=application]').dataset[name] === value",
            arg=[name, str(value)],
        )
        shots.append(Image.open(io.BytesIO(page.locator(".vl-main").screenshot())).convert("RGB"))
    durations = [400 if name == "layer" else 150 for name, _ in steps]
    shots[0].save(target, save_all=True, append_images=shots[1:], duration=durations, loop=0, quality=28, method=6)
    page.close()


def main() -> None:
    """Write one JPEG for each view, and the animation."""
    from playwright.sync_api import sync_playwright

    PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory, sync_playwright() as playwright:
        page_file = live_page(explorer(), Path(directory) / "page.html")
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        for name, (width, scheme) in VIEWS.items():
            page = browser.new_page(viewport={"width": width, "height": 400}, color_scheme=scheme)  # type: ignore[arg-type]
            page.goto(page_file.as_uri())
            page.wait_for_selector(".vl-explorer[data-ready=true]")
            page.wait_for_function("() => document.querySelector('canvas[role=application]').dataset.frame === '8'")
            shot = Path(directory) / f"{name}.png"
            page.locator(".vl-explorer").screenshot(path=str(shot))
            Image.open(shot).convert("RGB").save(PICTURES / f"{name}.jpg", quality=82)
            page.close()
        animate(browser, page_file, PICTURES / "clip_explorer.webp")
        for name, made in (("head_explorer", heads()), ("compare_explorer", comparison())):
            width, scheme = MORE_VIEWS[name]
            page = browser.new_page(viewport={"width": width, "height": 400}, color_scheme=scheme)  # type: ignore[arg-type]
            page.goto(live_page(made, Path(directory) / f"{name}.html").as_uri())
            page.wait_for_selector(".vl[data-ready=true]")
            page.wait_for_function(
                "frame => document.querySelector('canvas[role=application]').dataset.frame === frame",
                arg=str(made.frame),
            )
            shot = Path(directory) / f"{name}.png"
            page.locator(".vl").screenshot(path=str(shot))
            Image.open(shot).convert("RGB").save(PICTURES / f"{name}.jpg", quality=82)
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
