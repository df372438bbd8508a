"""All widgets outside JupyterLab: Notebook 7 and voila run the same page, and clicks reach the kernel."""

import pytest

from tests.browser.conftest import free_port, in_kernel, kernel_of, serve, settle, until

# the widgets that a load panel, tabs and the model make, and the results' own; quick ones, for both front ends
CELLS = [
    "import vivit_lab as lab\n"
    "bench = lab.Workbench(threaded=False)\n"
    "for index in range(5):\n"
    "    bench.tabs.selected_index = index\n"
    "bench._boxes['Patching'].children[0].children[2].click()\n"
    "bench._boxes['Pruning'].children[0].children[1].value = 4\n"
    "bench._boxes['Pruning'].children[0].children[2].click()\n"
    "views = bench.views\n"
    "assert len(views) == 7, (views, bench.panel.error)",
    "from ipywidgets import VBox\nVBox([bench.panel, *views.values()])",
]
#: what each widget has once it is drawn
DRAWN = {
    "LoadPanel": ".vl-load-panel",
    "ClipExplorer": ".vl-explorer[data-ready=true]",
    "HeadExplorer": ".vl-heads-explorer[data-ready=true]",
    "CompareExplorer": ".vl-compare[data-ready=true]",
    "LogitLensStrip": "[aria-label^='Logit lens']",
    "FaithfulnessTable": ".vl-reportbox",
    "PatchingHeatmap": "[aria-label*='press a cell to choose the place']",
    "PruningCurvesView": ".vl-point",
}


def write_page(folder):
    import nbformat

    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(made, folder / "page.ipynb")


def use_widgets(page):
    """Wait for all widgets, then change the map by a click on a patch, and a prediction by a click on a head."""
    for selector in DRAWN.values():
        page.wait_for_selector(selector)
    canvas = page.locator(".vl-explorer canvas[role=application]")
    pixels = "node => node.getContext('2d').getImageData(0, 0, node.width, node.height).data.join()"
    settle(page)
    before = canvas.evaluate(pixels)
    box = canvas.bounding_box()
    canvas.click(position={"x": 3.5 / 6 * box["width"], "y": 2.5 / 6 * box["height"]})
    until(page, lambda: canvas.get_attribute("data-query"), "16")
    page.wait_for_selector(".vl-explorer[data-locked=true]")
    assert canvas.evaluate(pixels) != before
    page.locator("[aria-label^='Layer 4, head 3']").click()
    page.wait_for_function(
        "() => document.querySelector('.vl-heads-explorer').textContent.includes('35 of 36 heads on')"
    )
    page.locator("[aria-label^='layer 2, head 4']").click()
    page.wait_for_selector("[aria-label^='layer 2, head 4'][aria-pressed=true]")
    page.locator("[aria-label^='CheferRelevance, joint_ap']").click()
    page.wait_for_function(
        "() => document.querySelector('.vl-dotstitle').textContent.startsWith('CheferRelevance, joint ap')"
    )


def test_all_widgets_in_voila(browser, new_page, tmp_path):
    pytest.importorskip("voila", reason="needs the extra [dev]")
    write_page(tmp_path)
    port = free_port()
    command = ["voila", "page.ipynb", "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1"]
    for address in serve(command, f"http://127.0.0.1:{port}/api", tmp_path):
        page = new_page()
        page.goto(address)
        use_widgets(page)


def test_all_widgets_in_notebook_7(browser, new_page, tmp_path):
    pytest.importorskip("notebook", reason="needs the extra [dev]")
    write_page(tmp_path)
    port = free_port()
    options = ["--no-browser", f"--port={port}", "--ServerApp.ip=127.0.0.1", "--allow-root"]
    options += ["--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True", "--ServerApp.port_retries=0"]
    options += ["--JupyterNotebookApp.expose_app_in_browser=True"]
    for address in serve(["notebook", *options], f"http://127.0.0.1:{port}/api", tmp_path):
        page = new_page()
        page.goto(f"{address}/notebooks/page.ipynb")
        kernel_of(page)
        page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
        use_widgets(page)
        in_kernel(page, "views['Explore'].query, views['Heads'].mask.pruned", "16 {4: [3]}")
        in_kernel(page, "views['Patching'].layer, views['Patching'].head, views['Trust'].method", "2 4 CheferRelevance")
