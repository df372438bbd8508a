"""The workbench: load a model and a clip, then explore, switch heads, compare, patch and prune, a tab each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vivit_lab.errors import InputError, MissingExtraError
from vivit_lab.evaluation import open_data, stored_report
from vivit_lab.faithfulness.report import FaithfulnessReport
from vivit_lab.heads.pruning import PruningCurves, PruningExperiment
from vivit_lab.html import text_line
from vivit_lab.interventions.corruptions import FreezeFrame, ReverseFrames, ShuffleFrames
from vivit_lab.interventions.effects import EffectTable
from vivit_lab.interventions.patching import ActivationPatching
from vivit_lab.model.cache import LogitLens
from vivit_lab.numbers import checked_numbers
from vivit_lab.progress import watching_progress
from vivit_lab.records.attention import record_attention
from vivit_lab.records.logits import logit_lens
from vivit_lab.widgets.base import Task, model_lock
from vivit_lab.widgets.clip_explorer import ClipExplorer
from vivit_lab.widgets.compare_explorer import CompareExplorer
from vivit_lab.widgets.faithfulness_table import FaithfulnessTable
from vivit_lab.widgets.head_explorer import HeadExplorer
from vivit_lab.widgets.link import link_views
from vivit_lab.widgets.load_panel import LoadPanel
from vivit_lab.widgets.logit_lens_strip import LogitLensStrip
from vivit_lab.widgets.patching_heatmap import PatchingHeatmap
from vivit_lab.widgets.pruning_curves import PruningCurvesView

try:
    import ipywidgets
except ImportError as error:
    raise MissingExtraError(
        "widgets need the extra [lab], which is not installed: pip install 'vivit-lab[lab]'"
    ) from error

__all__ = ["Workbench", "view_of"]

_CORRUPTIONS = {"reversed": ReverseFrames, "shuffled": ShuffleFrames, "frozen": FreezeFrame}


def view_of(result: Any, *, grid: Any = None) -> Any:
    """Return the widget for a result of the package.

    Args:
        result: a ``FaithfulnessReport``, ``PruningCurves``, ``LogitLens``, ``PatchingResult`` or another table of
            effects.
        grid: the token grid of the clips, for a table of effects.

    Raises:
        InputError: there is no widget for it.
    """
    if isinstance(result, FaithfulnessReport):
        return FaithfulnessTable(result)
    if isinstance(result, PruningCurves):
        return PruningCurvesView(result)
    if isinstance(result, LogitLens):
        return LogitLensStrip(result)
    if isinstance(result, EffectTable):
        return PatchingHeatmap(result, grid)
    raise InputError(f"there is no widget for a {type(result).__name__}; show it by itself")


class Workbench(ipywidgets.VBox):
    """Everything in one place: a panel that loads a model and a clip, and tabs that look into them.

    Tabs are filled when they are first opened, in the background; progress, a cancel button and errors stand in the
    panel. While patching or pruning runs, a tab that is not filled yet waits for it. Explorer and heads share frame,
    layer, head and query; heads that are switched off are compared with the full model; a point of the pruning curves
    sets the heads.

    Args:
        load: whether to load what the panel says at once.
        threaded: whether work runs in threads; False works at once (scripts, tests).
        **options: traits of the panel: ``checkpoint``, ``device``, ``dtype``, ``clip_name``, ``stride``, ``start``.

    Raises:
        InputError: an option does not fit.

    Example:
        >>> bench = Workbench(checkpoint="google/vivit-b-16x2-kinetics400", clip_name="cat.mp4")
        >>> bench.views["Heads"].mask
    """

    def __init__(self, *, load: bool = True, threaded: bool = True, **options: Any) -> None:
        self.threaded = threaded
        self.panel = LoadPanel(threaded=threaded, **options)
        self.views: dict[str, Any] = {}
        self.record: Any = None
        self._job = ""  # the tab whose long computation runs, which opening another tab must not drop
        self._makers: dict[str, Callable[[Task], Callable[[], Any]]] = {
            "Explore": self._make_explore,
            "Heads": self._make_heads,
            "Compare": self._make_compare,
            "Logit lens": self._make_lens,
            "Trust": self._make_trust,
        }
        self._boxes = {name: ipywidgets.VBox() for name in (*self._makers, "Patching", "Pruning")}
        self.tabs = ipywidgets.Tab(list(self._boxes.values()), titles=list(self._boxes))
        super().__init__([self.panel, self.tabs])
        self.add_class("vl-workbench")  # styled by the panel's CSS
        self.panel.observe(self._loaded, names="clip")
        self.panel.observe(self._ended, names="busy")
        self.tabs.observe(self._open, names="selected_index")
        if load:
            self.panel.load()

    @property
    def model(self) -> Any:
        """The loaded model; None before."""
        return self.panel.model

    @property
    def clip(self) -> Any:
        """The prepared clip; None before."""
        return self.panel.clip

    @checked_numbers()
    def wait(self, timeout: float = 120.0) -> bool:
        """Wait until nothing runs in the background of the panel; returns whether that came in time."""
        return self.panel.wait(timeout)

    def show(self, result: Any, name: str | None = None) -> Any:
        """Add a tab with the widget of a result, and return the widget; see ``view_of``.

        Raises:
            InputError: there is no widget for it.
        """
        view = view_of(result, grid=None if self.model is None else self.model.config.grid)
        name = name or type(result).__name__
        self._boxes[name] = ipywidgets.VBox()
        self.tabs.children = list(self._boxes.values())
        self.tabs.titles = list(self._boxes)
        self._put(name, view)
        self.tabs.selected_index = list(self._boxes).index(name)
        return view

    # --- tabs ---------------------------------------------------------------------------------------------------

    def _loaded(self, _: Any) -> None:
        """Start anew with what was loaded: the old views are of another model or clip."""
        for name in list(self.views):
            self.views.pop(name).close()
            self._boxes[name].children = ()
        self.record = None
        for name, form in (("Patching", self._patching_form), ("Pruning", self._pruning_form)):
            self._boxes[name].children = form()
        self._open()

    def _open(self, _: Any = None) -> None:
        name = list(self._boxes)[self.tabs.selected_index or 0]
        if self.model is None or name in self.views or name not in self._makers:
            return
        if self._occupied(f"{name} opens when it is done"):
            return
        self._run(name, self._makers[name], f"Opening {name} …")

    def _occupied(self, saying: str) -> bool:
        """Whether a long computation runs, which another request would drop; then the panel says so."""
        if self._job:
            self.panel.status = f"{self._job} is running; {saying}."
        return bool(self._job)

    def _ended(self, change: Any) -> None:
        """Open the tab that had to wait for a long computation, unless there is an error to read first."""
        if self._job and not change.new:
            self._job = ""
            if not self.panel.error:
                self._open()

    def _run(
        self, name: str, make: Callable[[Task], Callable[[], Any]], saying: str, *, copies_model: bool = False
    ) -> None:
        """Fill a tab in the background; ``make`` computes and returns what makes the view."""
        model = self.model

        def work(task: Task) -> Callable[[], Any]:
            # a copy of the model would keep the hooks by which a task is cancelled: then only the bar's steps cancel
            watching = watching_progress(task.progress) if copies_model else task.watching(model)
            with model_lock(model), watching:
                return make(task)

        def done(view: Callable[[], Any]) -> None:
            self._put(name, view())
            if not self.panel.busy:  # a tab that waited may be opening
                self.panel.status = f"{name} is ready."

        self.panel.request(work, done, saying=saying)

    def _put(self, name: str, view: Any) -> None:
        if name in self.views:
            self.views[name].close()
        self.views[name] = view
        self._boxes[name].children = (*(one for one in self._boxes[name].children if not hasattr(one, "live")), view)
        self._link(name)

    def _link(self, name: str) -> None:
        """Let a new view move with those that are there."""
        views = self.views
        if name in ("Explore", "Heads") and {"Explore", "Heads"} <= set(views):
            link_views(views["Explore"], views["Heads"], traits=("frame", "layer", "head", "query"))
        elif name in ("Logit lens", "Patching") and "Explore" in views:
            view = views[name]
            for trait in ("layer", "frame") if name == "Logit lens" else ("layer", "head", "frame"):
                view.observe(lambda change, to=views["Explore"]: setattr(to, change.name, change.new), trait)
        if name == "Pruning" and "Heads" in views:
            views[name].observe(lambda change: setattr(views["Heads"], "mask", change.new), "mask")

    def _recorded(self) -> Any:
        if self.record is None:
            self.record = record_attention(self.model, self.clip)
        return self.record

    def _make_explore(self, task: Task) -> Callable[[], Any]:
        record = self._recorded()
        return lambda: ClipExplorer(self.model, self.clip, record=record, threaded=self.threaded)

    def _make_heads(self, task: Task) -> Callable[[], Any]:
        record = self._recorded()
        return lambda: HeadExplorer(self.model, self.clip, record=record, threaded=self.threaded)

    def _make_compare(self, task: Task) -> Callable[[], Any]:
        second = "chefer" if hasattr(self.model, "classifier") else "raw"
        heads = self.views.get("Heads")
        if heads is not None and heads.mask.share_removed:
            return lambda: CompareExplorer.of_masks(
                self.model, self.clip, heads.mask, method=second, threaded=self.threaded
            )
        return lambda: CompareExplorer.of_methods(self.model, self.clip, "rollout", second, threaded=self.threaded)

    def _make_lens(self, task: Task) -> Callable[[], Any]:
        lens = logit_lens(self.model, self.clip)
        layers = self.model.config.num_attention_layers
        return lambda: LogitLensStrip(lens, layers=layers)

    def _make_trust(self, task: Task) -> Callable[[], Any]:
        report = stored_report()
        return lambda: FaithfulnessTable(report, open_clip=self._jump)

    def _jump(self, clip: str, method: str) -> str:
        """Load a planted clip of the stored report, so that the explorer shows it."""
        number = int(clip.rpartition("-")[2])
        self.panel.checkpoint, self.panel.clip_name = "planted", f"planted:{number}"
        self.tabs.selected_index = 0
        self.panel.load()
        return self.panel.clip_name

    # --- tabs that are asked for --------------------------------------------------------------------------------

    def _patching_form(self) -> tuple[Any, ...]:
        config = self.model.config
        corruption = ipywidgets.Dropdown(options=list(_CORRUPTIONS), description="Corrupt by")
        slabs = ipywidgets.BoundedIntText(1, min=1, max=config.grid.t, description="Time slabs")
        heads = config.num_attention_layers * config.num_attention_heads
        note = f"{heads} heads, a pass from the head's layer on for each head and slab"

        def start(_: Any) -> None:
            if self._occupied("wait for it or cancel it, then start again"):
                return
            method = ActivationPatching(slabs=slabs.value if slabs.value > 1 else None, progress=True)
            corrupt = _CORRUPTIONS[str(corruption.value)]()

            def make(task: Task) -> Callable[[], Any]:
                result = method(self.model, self.clip, corrupt(self.clip))
                return lambda: PatchingHeatmap(result, config.grid)

            self._job = "Patching"
            self._run("Patching", make, "Patching …")

        return _form(corruption, slabs, _button("Patch", start), note=note)

    def _pruning_form(self) -> tuple[Any, ...]:
        data = ipywidgets.Text("planted", description="Clips")
        count = ipywidgets.BoundedIntText(64, min=4, max=100_000, description="How many")
        note = "planted, a directory of videos, or a CSV of path and label"

        def start(_: Any) -> None:
            if self._occupied("wait for it or cancel it, then start again"):
                return
            name, number = data.value, count.value

            def make(task: Task) -> Callable[[], Any]:
                found = open_data(name, self.model.config, self.panel.processor, count=number)
                curves = PruningExperiment(self.model, found, random=2, timing_repeats=1).run(progress=True)
                return lambda: PruningCurvesView(curves)

            self._job = "Pruning"
            self._run("Pruning", make, "Pruning …", copies_model=True)

        return _form(data, count, _button("Prune", start), note=note)

    def close(self) -> None:
        """Leave the page and drop what runs."""
        for view in (*self.views.values(), self.panel):
            view.close()
        super().close()


def _form(*controls: Any, note: str) -> tuple[Any, ...]:
    """Controls in a row, which wraps where it is narrow, and a line of text below."""
    row = ipywidgets.HBox(controls, layout=ipywidgets.Layout(flex_flow="row wrap"))
    return row, ipywidgets.HTML(str(text_line(note)))


def _button(label: str, call: Callable[[Any], None]) -> Any:
    made = ipywidgets.Button(description=label, button_style="primary")
    made.on_click(call)
    return made
