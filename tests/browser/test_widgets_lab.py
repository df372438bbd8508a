"""The other widgets with a kernel, in JupyterLab: their notebooks run, clicks change pixels and kernel state."""

from pathlib import Path

import numpy as np

from tests.browser.conftest import in_kernel, until
from vivit_lab.evaluation import stored_report

NOTEBOOKS = Path(__file__).resolve().parent.parent.parent / "notebooks"
PIXELS = """(selector) => {
  const canvas = document.querySelector(selector);
  return [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
}"""
CUT_OFF = """() => [...document.querySelectorAll(".vl-workbench [role=tab]")]
  .map((tab) => [tab, tab.querySelector(".lm-TabBar-tabLabel")])
  .filter(([tab, label]) => label.scrollWidth > label.clientWidth + 1
    || tab.getBoundingClientRect().right > document.querySelector(".vl-workbench").getBoundingClientRect().right + 1)
  .map(([tab]) => tab.textContent)"""
RESULTS = [
    "import vivit_lab as lab\n"
    "from vivit_lab.heads.pruning import PruningExperiment\n"
    "from vivit_lab.interventions.patching import ActivationPatching\n"
    "from vivit_lab.interventions.corruptions import ReverseFrames\n"
    "model, processor = lab.load_pair('planted')\n"
    "clip = processor.prepare(lab.planted.planted_clip(lab.planted.PlantedConfig(split='test'), 4).clip())\n"
    "heat = lab.widgets.PatchingHeatmap(ActivationPatching()(model, clip, ReverseFrames()(clip)), model.config.grid)\n"
    "heat",
    "data = lab.evaluation.open_data('planted', model.config, processor, count=8)\n"
    "study = PruningExperiment(model, data, random=0, shares=(0.5,), timing_repeats=0)\n"
    "view = lab.widgets.PruningCurvesView(study.run())\nview",
    "table = lab.widgets.FaithfulnessTable(lab.evaluation.stored_report())\ntable",
]


def test_heads_are_switched_and_the_views_follow(run_notebook):
    page = run_notebook(NOTEBOOKS / "10_head_explorer.ipynb", "10_head_explorer.ipynb")
    page.wait_for_selector(".vl-heads-explorer[data-ready=true]")
    page.wait_for_selector(".vl-result")
    box = page.locator("[aria-label^='Layer 4, head 3']").bounding_box()
    assert box["width"] == box["height"] > 30  # the styles of the lens below, in the same page, do not reach it
    # the notebook's own last step left half of the heads on
    in_kernel(page, "len(heads.mask.kept), heads.error", "18 ")
    page.get_by_role("button", name="All", exact=True).click()
    in_kernel(page, "len(heads.mask.kept)", "36")
    cell = page.locator("[aria-label^='Layer 4, head 3']")
    cell.scroll_into_view_if_needed()
    cell.click()
    in_kernel(page, "heads.mask.pruned, heads.layer, heads.head, explorer.layer", "{4: [3]} 4 3 4")
    assert cell.get_attribute("aria-pressed") == "false"
    in_kernel(page, "heads.prediction['heads'], heads.error", "35 ")
    page.wait_for_function(
        "() => document.querySelector('.vl-heads-explorer').textContent.includes('35 of 36 heads on')"
    )
    shown = page.locator(".vl-prediction tbody tr").first.locator("td").nth(1).text_content()
    exact = page.in_kernel(
        "import torch\n"
        "with torch.no_grad(): found = model(clip.pixel_values, head_mask=heads.mask).logits.softmax(-1)\n"
        "print(f'{100 * float(found.max()):.1f} %')"
    )
    assert shown == exact
    page.get_by_role("button", name="Make the pruned model").click()
    in_kernel(page, "heads.pruned_model.config.pruned_heads", "{4: (3,)}")
    page.locator("[aria-label^='Layer 4, head 3']").focus()
    page.keyboard.press("s")
    in_kernel(page, "heads.mask.kept", "[(4, 3)]")
    page.get_by_role("button", name="Invert").click()
    in_kernel(page, "heads.mask.pruned", "{4: [3]}")
    # a score in the background colours the cells
    before = cell.evaluate("node => getComputedStyle(node).backgroundColor")
    page.locator(".vl-heads-explorer").get_by_label("Colour", exact=True).select_option("ablation_zero")
    in_kernel(page, "heads._score_info['name'], heads.error", "ablation_zero ")
    page.wait_for_function(
        "(before) => getComputedStyle("
        "document.querySelector(\"[aria-label^='Layer 4, head 3']\")).backgroundColor !== before",
        arg=before,
    )
    # the lens jumps in the clip
    cell = page.locator(".vl-result .vl-cell").nth(2 * 8 + 6)
    cell.scroll_into_view_if_needed()
    before = page.evaluate(PIXELS, ".vl-explorer canvas[role=application]")
    cell.click()
    in_kernel(page, "strip.frame, strip.layer, explorer.frame, heads.frame", "12 2 12 12")
    page.wait_for_function(
        "() => document.querySelector('.vl-explorer canvas[role=application]').dataset.frame === '12'"
    )
    after = page.evaluate(PIXELS, ".vl-explorer canvas[role=application]")
    assert np.abs(np.array(after) - np.array(before)).max() > 20


def test_a_comparison_changes_its_method(run_notebook):
    page = run_notebook(NOTEBOOKS / "08_comparing.ipynb", "08_comparing.ipynb")
    page.wait_for_function("() => document.querySelectorAll('.vl-compare[data-ready=true]').length === 3")
    in_kernel(page, "compare.error, masked.error, len(masked.right_mask.kept)", "  30")
    first = page.locator(".vl-compare").first
    first.scroll_into_view_if_needed()
    before = page.evaluate(PIXELS, "[data-panel=right]")
    first.get_by_label("Right map").select_option("input_x_gradient")
    in_kernel(page, "compare.info['right']['title'], compare.error", "InputXGradient ")
    page.wait_for_function("() => document.querySelector('.vl-compare').textContent.includes('InputXGradient')")
    until(page, lambda: np.abs(np.subtract(page.evaluate(PIXELS, "[data-panel=right]"), before)).max() > 5, True)
    first.locator(".vl-player input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    in_kernel(page, "compare.frame", "6")


def test_results_answer_clicks(run_notebook):
    page = run_notebook(RESULTS)
    page.wait_for_selector(".vl-reportbox")
    page.wait_for_selector(".vl-point")
    cell = page.locator("[aria-label^='layer 2, head 3']")
    cell.scroll_into_view_if_needed()
    cell.click()
    in_kernel(page, "heat.layer, heat.head, heat.place['layer']", "2 3 2")
    assert cell.get_attribute("aria-pressed") == "true"
    point = page.locator(".vl-point").nth(1)
    point.scroll_into_view_if_needed()
    point.focus()
    page.keyboard.press("Enter")
    in_kernel(page, "len(view.mask.kept), view.share", "18 0.5")
    score = page.locator("[aria-label^='CheferRelevance, joint_ap']")
    score.scroll_into_view_if_needed()
    score.click()
    in_kernel(
        page, "table.method, table.metric, len(table._scores)", f"CheferRelevance joint_ap {len(stored_report().clips)}"
    )
    page.wait_for_function(
        "() => document.querySelector('.vl-dotstitle').textContent.startsWith('CheferRelevance, joint ap')"
    )
    page.locator(".vl-dot").nth(3).focus()
    page.keyboard.press("Enter")
    in_kernel(page, "table.clip != ''", "True")


def test_the_workbench_loads_uploads_and_opens_tabs(run_notebook, violations):
    page = run_notebook(NOTEBOOKS / "09_workbench.ipynb", "09_workbench.ipynb")
    page.wait_for_selector(".vl-load-panel")
    in_kernel(page, "list(bench.views), bench.panel.error", "['Explore', 'Stored report'] ")
    tab = page.get_by_role("tab", name="Heads")
    tab.scroll_into_view_if_needed()
    tab.click()
    page.wait_for_selector(".vl-heads-explorer[data-ready=true]")
    in_kernel(page, "bench.views['Heads'].error, bench.views['Heads'].record is bench.views['Explore'].record", " True")
    assert violations(page, ".vl-workbench") == []
    page.set_viewport_size({"width": 620, "height": 1100})  # narrow: all tabs keep their whole names
    until(page, lambda: page.evaluate(CUT_OFF), [])
    panel = page.locator(".vl-load-panel")
    panel.scroll_into_view_if_needed()
    panel.get_by_label("Checkpoint").fill("/no/such/place")
    panel.get_by_role("button", name="Load").click()
    page.wait_for_function(
        "() => document.querySelector('.vl-load-panel [role=alert]').innerText.includes('/no/such/place')"
    )
    panel.get_by_role("button", name="Dismiss").click()
    panel.get_by_label("Checkpoint").fill("planted")
    clip = Path(__file__).resolve().parent.parent.parent / "data" / "clips" / "samoyed.mp4"
    panel.locator("input[type=file]").set_input_files(str(clip))
    page.wait_for_function(
        "() => document.querySelector('.vl-load-panel').textContent.includes('Received samoyed.mp4')"
    )
    panel.get_by_role("button", name="Load").click()
    in_kernel(page, "bench.clip.path.endswith('samoyed.mp4'), bench.panel.error, bench.panel.busy", "True  False")
    in_kernel(page, "list(bench.views)", "['Heads']")  # the tab that is open, of the new clip
    page.wait_for_function("() => document.querySelector('.vl-heads-explorer').textContent.includes('samoyed.mp4')")
