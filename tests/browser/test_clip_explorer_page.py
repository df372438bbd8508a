"""The explorer as an offline page: its pixels against numpy, its keys and clicks, axe, and no network."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.model.tiny import TINY
from vivit_lab.families import VivitForVideoClassification
from vivit_lab.model import VivitConfig
from vivit_lab.processing import VivitImageProcessor
from vivit_lab.render import to_frames
from vivit_lab.video import Clip
from vivit_lab.widgets import ClipExplorer
from vivit_lab.widgets.clip_explorer import painter_of

PIXELS = """() => {
  const canvas = document.querySelector("canvas[role=application]");
  const {data, width, height} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return {data: [...data], width, height};
}"""


@pytest.fixture
def explorer(planted):
    return ClipExplorer(*planted, threaded=False)


def pixels(page):
    found = page.evaluate(PIXELS)
    return np.array(found["data"], dtype=np.uint8).reshape(found["height"], found["width"], 4)[..., :3].astype(int)


def set_traits(page, **traits):
    """Set traits and wait until the picture was drawn with them."""
    before = page.evaluate(
        """(traits) => {
          const before = document.querySelector("canvas[role=application]").dataset.drawn;
          Object.entries(traits).forEach(([name, value]) => widgetModel.set(name, value));
          return before;
        }""",
        traits,
    )
    drawn(page, before)


def walk(page, *keys):
    for key in keys:
        page.keyboard.press(key)


def drawn(page, before):
    page.wait_for_function(
        "(before) => document.querySelector('canvas[role=application]').dataset.drawn !== String(before)", arg=before
    )


def shipped_clip(explorer):
    """The clip with the frames that the browser gets: after JPEG."""
    starts = [0, *explorer._frame_ends[:-1]]
    files = [explorer._frames[a:b] for a, b in zip(starts, explorer._frame_ends, strict=True)]
    return replace(explorer.clip, frames=np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files]))


@pytest.mark.parametrize(
    "traits",
    [
        {},
        {"normalize": "clip", "alpha": 0.5, "frame": 5, "layer": 2},
        {"normalize": "frame", "colormap": "viridis", "frame": 15, "layer": 0},
        {"alpha": 0.7, "threshold": 0.4, "frame": 9},
        {"view": "heat", "normalize": "clip", "frame": 3, "colormap": "cividis"},
    ],
)
def test_the_pixels_are_the_renderers(explorer, open_widget, traits):
    page = open_widget(explorer)
    if traits:
        set_traits(page, **traits)
    explorer.set_state(traits)
    explorer.clip = shipped_clip(explorer)
    (exact,) = painter_of(explorer, explorer.map).paint([explorer.frame])
    assert np.abs(pixels(page) - exact).max() <= 1


def test_signed_maps_take_a_diverging_map(planted, open_widget):
    explorer = ClipExplorer(*planted, threaded=False, method="input_x_gradient", colormap="viridis", frame=4)
    page = open_widget(explorer)
    explorer.clip = shipped_clip(explorer)
    exact = to_frames(explorer.clip, explorer.map, percentile=99)[4]
    assert np.abs(pixels(page) - exact).max() <= 1
    page.locator("canvas[role=application]").click()  # the map is of the clip as a whole: nothing to lock
    assert page.evaluate("widgetModel.get('query')") == 0
    assert page.locator("span.vl-query").text_content() == "The clip as a whole"
    labels = page.locator(".vl-colorbar .vl-numbers span").all_text_contents()
    assert labels[1] == "0"
    assert page.get_by_label("Colours").input_value() == "coolwarm"


def test_heat_lies_only_where_the_model_saw(planted, open_widget):
    model, clip = planted
    frames = np.random.default_rng(0).integers(0, 255, (16, 60, 100, 3), dtype=np.uint8)
    frames = np.repeat(np.repeat(frames, 2, axis=1), 2, axis=2)
    processor = VivitImageProcessor.trained_range(size={"shortest_edge": 56}, crop_size={"height": 48, "width": 48})
    wide = processor.prepare(replace(clip, frames=frames, pixel_values=None, geometry=None, path=None))
    explorer = ClipExplorer(model, wide, threaded=False, alpha=0.9, normalize="clip")
    page = open_widget(explorer)
    explorer.clip = shipped_clip(explorer)
    exact = to_frames(explorer.clip, explorer.map, alpha=0.9)[0]
    assert np.abs(pixels(page) - exact).max() <= 1
    top, left, bottom, right = explorer._clip["visible"]
    assert top > 0 < left
    outside = np.ones((120, 200), dtype=bool)
    outside[top:bottom, left:right] = False
    shown = pixels(page)[outside]
    assert np.abs(shown - shown[:, :1]).max() == 0  # grey: no colour, so never taken for heat


def test_clicks_are_answered_without_a_kernel_or_a_network(explorer, open_widget):
    page = open_widget(explorer)
    set_traits(page, frame=6)
    box = page.locator("canvas[role=application]").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.75, box["y"] + box["height"] * 0.25)
    token = explorer.record.grid.token(3, 1, 4)
    page.wait_for_function(
        "(token) => document.querySelector('canvas[role=application]').dataset.query === String(token)", arg=token
    )
    page.wait_for_selector(".vl-explorer[data-locked=true]")  # the pointer has previewed it on its way
    assert page.locator("span.vl-query").text_content() == "Locked on patch t 3, y 1, x 4 (0.75–1.00 s)"
    explorer.set_state({"query": token, "frame": 6})
    explorer.clip = shipped_clip(explorer)
    (exact,) = painter_of(explorer, explorer.map).paint([6])
    # the table's bytes are square roots: a value is off by 0.4 % of the largest at most, a few levels of colour
    assert np.abs(pixels(page) - exact).mean() < 1
    assert np.abs(pixels(page) - exact).max() <= 12
    page.keyboard.press("Escape")
    page.wait_for_function("() => document.querySelector('canvas[role=application]').dataset.query === '0'")
    assert page.locator("span.vl-query").text_content() == "Query: CLS token"
    assert page.requests_made == []
    assert "needs a live kernel" in page.locator(".vl-controls select").first.get_attribute("title")
    assert page.locator(".vl-controls select").first.is_disabled()


def test_the_middle_of_a_model_without_cls_is_locked_like_any_other_patch(open_widget, tmp_path):
    torch.manual_seed(0)
    model = VivitForVideoClassification(VivitConfig(**TINY, num_labels=5, classifier="gap")).eval()
    processor = VivitImageProcessor.trained_range(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32})
    frames = np.random.default_rng(0).integers(0, 255, (4, 48, 48, 3), dtype=np.uint8)
    clip = processor.prepare(Clip(frames, np.arange(4) / 4, np.arange(4), 4.0, 1.0))
    explorer = ClipExplorer(model, clip, method="rollout", threaded=False)
    page = open_widget(explorer)
    said = page.locator("span.vl-query")
    assert said.text_content() == "The clip as a whole"
    set_traits(page, frame=2)
    page.locator("canvas[role=application]").focus()
    walk(page, "ArrowUp", "Enter")  # the middle
    page.wait_for_selector(".vl-explorer[data-locked=true]")
    assert page.evaluate("[widgetModel.get('query'), widgetModel.get('locked')]") == [explorer.query, True]
    assert said.text_content().startswith("Locked on patch t 1, y 1, x 1")
    page.wait_for_function("() => widgetModel.get('status').startsWith('No stored answer')")
    walk(page, "Escape")
    page.wait_for_selector(".vl-explorer[data-locked=false]")
    assert said.text_content() == "The clip as a whole"
    page.wait_for_function("() => widgetModel.get('status').startsWith('Saved page')")
    explorer.locked = True
    page = open_widget(explorer)  # the map of the middle
    assert page.locator("span.vl-query").text_content().startswith("Locked on patch t 1, y 1, x 1")
    page.locator("canvas[role=application]").focus()
    walk(page, "Escape")
    page.wait_for_selector(".vl-explorer[data-locked=false]")
    page.wait_for_function("() => widgetModel.get('status').startsWith('No stored answer')")


def test_hovering_previews_and_a_second_click_lets_go(explorer, open_widget):
    page = open_widget(explorer)
    box = page.locator("canvas[role=application]").bounding_box()
    at = (box["x"] + box["width"] * 0.1, box["y"] + box["height"] * 0.1)
    page.mouse.move(*at)
    page.wait_for_function("() => document.querySelector('canvas[role=application]').dataset.query === '1'")
    assert page.locator("span.vl-query").text_content().startswith("Preview of patch t 0, y 0, x 0")
    page.mouse.click(*at)
    page.wait_for_selector(".vl-explorer[data-locked=true]")
    page.mouse.move(box["x"] + box["width"] * 0.9, at[1])
    page.wait_for_function("() => document.querySelector('.vl-readout').textContent.startsWith('Under the pointer')")
    assert page.evaluate("document.querySelector('canvas[role=application]').dataset.query") == "1"
    page.mouse.click(*at)
    page.wait_for_selector(".vl-explorer[data-locked=false]")
    page.mouse.move(box["x"] - 10, box["y"] - 10)
    page.wait_for_function("() => document.querySelector('span.vl-query').textContent === 'Query: CLS token'")


def test_the_keyboard_does_all_of_it(explorer, open_widget):
    page = open_widget(explorer)
    canvas = page.locator("canvas[role=application]")
    canvas.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowUp"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    page.wait_for_selector(".vl-explorer[data-locked=true]")
    assert page.evaluate("widgetModel.get('query')") == explorer.record.grid.token(0, 2, 4)
    page.keyboard.press(".")
    page.keyboard.press(".")
    page.keyboard.press(",")
    assert page.evaluate("widgetModel.get('frame')") == 1
    page.keyboard.press(" ")
    page.wait_for_function("() => widgetModel.get('frame') > 2")
    assert page.locator(".vl-play").text_content() == "Pause"
    page.keyboard.press(" ")
    assert page.locator(".vl-play").text_content() == "Play"
    set_traits(page, frame=0, alpha=1.0, layer=0)
    heat = pixels(page)
    before = canvas.get_attribute("data-drawn")
    page.keyboard.down("f")
    drawn(page, before)
    explorer.clip = shipped_clip(explorer)
    assert np.abs(pixels(page) - explorer.clip.frames[0]).max() <= 1
    before = canvas.get_attribute("data-drawn")
    page.keyboard.up("f")
    drawn(page, before)
    assert np.array_equal(pixels(page), heat)
    page.keyboard.press("Escape")
    page.wait_for_selector(".vl-explorer[data-locked=false]")


def test_the_strip_shows_the_sums_and_jumps(explorer, open_widget):
    page = open_widget(explorer)
    sums = explorer.map.over_time[0].numpy()
    heights = page.evaluate("[...document.querySelectorAll('.vl-bar')].map((bar) => parseFloat(bar.style.height))")
    np.testing.assert_allclose(heights, 100 * sums / sums.max(), rtol=1e-3)
    box = page.locator(".vl-bars").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.66, box["y"] + 10)
    seconds = explorer.clip.end * 0.66
    assert page.evaluate("widgetModel.get('frame')") == np.flatnonzero(explorer.clip.seconds <= seconds)[-1]
    assert page.locator(".vl-queryrow").is_hidden()
    set_traits(page, query=explorer.record.grid.token(2, 0, 0))
    assert page.locator(".vl-queryrow").is_visible()


def test_it_plays_at_the_frames_own_times(planted, open_widget):
    model, clip = planted
    times = np.concatenate([[0.0], 0.8 + np.arange(15) * 0.01])
    uneven = replace(clip, seconds=times, end=1.0, path=None)
    page = open_widget(ClipExplorer(model, uneven, threaded=False))
    page.evaluate("""() => {
      window.seen = [];
      widgetModel.on("change:frame", () => seen.push([performance.now(), widgetModel.get("frame")]));
      window.begun = performance.now();
    }""")
    page.click(".vl-play")
    page.wait_for_function("() => seen.some(([, frame]) => frame === 15)")
    first = page.evaluate("seen[0][0] - begun")
    assert first > 700  # the first frame is shown for 0.8 s; the machine may be late, never early


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1100])
def test_axe_finds_nothing_and_nothing_is_cut_off(explorer, open_widget, violations, scheme, width):
    explorer.head = [0, 2]
    page = open_widget(explorer, viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    spilt = page.evaluate("""() => [...document.querySelectorAll(".vl button, .vl label, .vl-note")]
      .filter((node) => node.offsetParent && node.scrollWidth > node.clientWidth + 1)
      .map((node) => node.textContent)""")
    assert spilt == []


def test_errors_progress_and_cancel_are_shown(explorer, open_widget, violations):
    page = open_widget(explorer)
    page.evaluate("widgetModel.set('error', 'No such thing: try another.')")
    assert page.locator("[role=alert]").inner_text().startswith("No such thing: try another.")
    page.evaluate("widgetModel.set('busy', true); widgetModel.set('progress', 0.25)")
    assert page.locator("progress").get_attribute("value") == "0.25"
    assert violations(page) == []
    page.click("text=Cancel")  # no kernel here: it says so
    assert "needs a live kernel" in page.locator(".vl-status").text_content()
    page.click("text=Dismiss")
    assert page.locator("[role=alert]").is_hidden()
