"""The explorer with a kernel, in JupyterLab: pixels in the browser and the state of the kernel."""

from pathlib import Path

import numpy as np

from tests.browser.conftest import in_kernel

NOTEBOOK = Path(__file__).resolve().parent.parent.parent / "notebooks" / "07_clip_explorer.ipynb"
PIXELS = """(index) => {
  const canvas = document.querySelectorAll("canvas[role=application]")[index];
  return [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
}"""
READY = "() => document.querySelectorAll('.vl-explorer[data-ready=true]').length >= {}"
# the widget's paper has the theme's brightness, and the theme's own transitions of colours are over
DARK = """(dark) => {
  const paper = getComputedStyle(document.querySelector(".vl-explorer")).backgroundColor;
  const sum = paper.match(/[0-9]+/g).slice(0, 3).reduce((total, part) => total + Number(part), 0);
  return (sum < 200) === dark && !document.getAnimations().some((one) => one instanceof CSSTransition);
}"""
CELL = [
    "import vivit_lab as lab\n"
    "model, processor = lab.load_pair('planted')\n"
    "clip = processor.prepare(lab.planted.planted_clip(lab.planted.PlantedConfig(split='test'), 4).clip())\n"
    "explorer = lab.ClipExplorer(model, clip)\n"
    "explorer"
]


def pixels(page, index=0):
    return np.array(page.evaluate(PIXELS, index), dtype=int)


def in_data(page, name, value, index=0):
    """Wait until the canvas says that it was drawn with a value."""
    page.wait_for_function(
        "([index, name, value]) =>"
        " document.querySelectorAll('canvas[role=application]')[index].dataset[name] === value",
        arg=[index, name, str(value)],
    )


def click_patch(page, y, x, index=0):
    canvas = page.locator("canvas[role=application]").nth(index)
    box = canvas.bounding_box()
    # of the element, not of the page: Playwright waits until it has come to rest
    canvas.click(position={"x": (x + 0.5) / 6 * box["width"], "y": (y + 0.5) / 6 * box["height"]})


def test_the_notebook_in_jupyterlab(run_notebook):
    page = run_notebook(NOTEBOOK, NOTEBOOK.name)
    page.wait_for_function(READY.format(3))
    in_kernel(page, "explorer.layer", "5")
    # a slider: pixels in the browser at once, the trait in the kernel
    before = pixels(page)
    slider = page.locator(".vl-explorer").first.get_by_label("Layer")
    box = slider.bounding_box()
    slider.hover(position={"x": box["width"] - 8, "y": box["height"] / 2})
    page.mouse.down()
    for share in (0.8, 0.6, 0.4):
        slider.hover(position={"x": box["width"] * share, "y": box["height"] / 2})
    page.mouse.up()
    in_data(page, "layer", 2)
    assert np.abs(pixels(page) - before).max() > 20
    in_kernel(page, "explorer.layer, other.layer", "2 2")
    # arrow keys move a slider, and not the selection of cells
    slider.focus()
    page.keyboard.press("ArrowRight")
    in_kernel(page, "explorer.layer", "3")
    # a click: the kernel answers with another map
    before = pixels(page)
    click_patch(page, 1, 4)
    in_kernel(page, "explorer.record.grid.position(explorer.query)", "(2, 1, 4)")
    in_data(page, "query", 1 + 2 * 36 + 10)
    assert np.abs(pixels(page) - before).max() > 5
    # the linked view shows the column of the same token
    in_data(page, "query", 1 + 2 * 36 + 10, index=1)
    shown = page.in_kernel("print(other.map.relevance.argmax().item(), other.direction, other.error)")
    exact = page.in_kernel("print(explorer.record.columns(3, explorer.query)[0].mean(0)[1:].argmax().item())")
    assert shown.split() == [exact, "attended_by"]
    # a second click lets go
    click_patch(page, 1, 4)
    in_kernel(page, "explorer.query", "0")
    # a heavy method in the background
    page.locator(".vl-explorer").first.get_by_label("Map").select_option("occlusion")
    in_kernel(page, "explorer.heat_info['signed'], len(explorer.error)", "True 0")
    page.wait_for_function(
        "() => document.querySelector('.vl-explorer .vl-status').textContent === 'Shown: Occlusion.'"
    )
    # a file from the kernel to the browser
    with page.expect_download() as saved:
        page.locator(".vl-explorer").first.get_by_role("button", name="NPZ").click()
    assert Path(saved.value.path()).read_bytes()[:2] == b"PK"
    assert saved.value.suggested_filename == "clip_occlusion.npz"


def test_it_is_accessible_and_follows_the_dark_theme_in_jupyterlab(run_notebook, violations):
    page = run_notebook(CELL)
    page.wait_for_function(READY.format(1))
    for theme in ("JupyterLab Light", "JupyterLab Dark"):
        page.evaluate("(theme) => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
        page.wait_for_function(DARK, arg="Dark" in theme)
        assert violations(page, ".vl-explorer") == []


def test_a_cancelled_method_leaves_the_map_and_says_so(run_notebook):
    slow = (
        "class Slow(lab.Rise):\n    pass\n"
        "explorer = lab.ClipExplorer(model, clip, methods={'slow': Slow(masks=200000)})\nexplorer"
    )
    page = run_notebook([*CELL, slow])
    page.wait_for_function(READY.format(2))
    view = page.locator(".vl-explorer").nth(1)
    view.get_by_label("Map").select_option("slow")
    page.wait_for_function("() => document.querySelectorAll('.vl-explorer progress')[1].value > 0")
    view.get_by_role("button", name="Cancel").click()
    in_kernel(page, "explorer.busy, explorer.status, explorer.heat_info['layered']", "False Cancelled. True")
    in_kernel(page, "explorer.wait(30)", "True")
