"""The panel that loads a model and a clip: bundled, from a file or the Hub, or dropped into the browser."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import traitlets

from vivit_lab.checkpoints.hub import bundled_clip_path
from vivit_lab.errors import InputError
from vivit_lab.explain import load_pair
from vivit_lab.html import message
from vivit_lab.planted.clip import planted_clip
from vivit_lab.planted.scene import PlantedConfig
from vivit_lab.processing.sampling import sampling_of
from vivit_lab.video.read import read_clip
from vivit_lab.video.source import VIDEO_SUFFIXES, is_video_name
from vivit_lab.widgets.base import LabWidget, Task

if TYPE_CHECKING:
    from vivit_lab.processing.processor import VivitImageProcessor
    from vivit_lab.video.clip import Clip

__all__ = ["LoadPanel", "open_clip"]

_FIELDS = ("checkpoint", "device", "dtype", "clip_name", "stride", "start")
_DTYPES = ("float32", "bfloat16", "float16", "auto")


def open_clip(
    name: str, config: Any, processor: VivitImageProcessor, *, stride: int | None = None, start: float = 0.0
) -> Clip:
    """Return a prepared clip by name.

    Args:
        name: ``"bundled"``; ``"planted"`` or ``"planted:7"``, a clip of the planted test split; or a video's path.
        config: of the model.
        processor: of the model.
        stride: take one frame in so many; None takes the model's own, see ``sampling_of``. Planted clips are taken
            frame by frame.
        start: time of the first frame, in seconds.

    Raises:
        InputError: the number of a planted clip is none.
        VideoError: the file cannot be read.
    """
    if name.partition(":")[0] == "planted":
        number = name.partition(":")[2] or "0"
        if not number.isdecimal():
            raise InputError(f"a planted clip is called planted:7 or the like, got {name!r}")
        kind = PlantedConfig(split="test", frames=config.num_frames, size=config.image_size)
        return processor.prepare(planted_clip(kind, int(number)).clip())
    path = bundled_clip_path() if name == "bundled" else Path(name).expanduser()
    stride = sampling_of(processor, config.num_frames, stride).stride
    return read_clip(path, config.num_frames, stride, float(start), processor=processor)


class LoadPanel(LabWidget):
    """Choose and load a checkpoint and a clip.

    Args:
        threaded: whether loading runs in a thread; False loads at once (scripts, tests).
        **traits: first values of the traits below.

    Raises:
        InputError: a trait's value does not fit.
    """

    parts: ClassVar[tuple[str, ...]] = ("load_panel.js",)
    styles: ClassVar[tuple[str, ...]] = ("grid.css", "load_panel.css")

    checkpoint = traitlets.Unicode("planted").tag(sync=True)
    """``"planted"``, ``"bundled"``, a directory or a Hub id."""
    device = traitlets.Unicode("auto").tag(sync=True)
    """``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, …"""
    dtype = traitlets.Enum(_DTYPES, "float32").tag(sync=True)
    """The precision of the parameters; ``"auto"`` is the checkpoint's own."""
    clip_name = traitlets.Unicode("planted:4").tag(sync=True)
    """``"bundled"``, ``"planted:7"``, or the path of a video; see ``open_clip``."""
    stride: Any = traitlets.Int(None, allow_none=True, min=1).tag(sync=True)
    """One frame in so many is taken of a video; None is as the model was trained."""
    start = traitlets.Float(0.0, min=0.0).tag(sync=True)
    """Where in a video the clip begins, in seconds."""
    model: Any = traitlets.Any(None, allow_none=True)
    """What was loaded: the model. None before."""
    processor: Any = traitlets.Any(None, allow_none=True)
    """Its processor."""
    clip: Any = traitlets.Any(None, allow_none=True)
    """The prepared clip; set after the other two."""

    _offers = traitlets.Dict().tag(sync=True)

    def __init__(self, *, threaded: bool = True, **traits: Any) -> None:
        self._check_names(traits)
        devices = ["auto", "cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        offers = {
            "checkpoints": ["planted", "bundled", "google/vivit-b-16x2-kinetics400"],
            "clips": ["planted:4", "bundled"],
            "devices": devices,
            "dtypes": list(_DTYPES),
            "suffixes": ",".join(sorted(VIDEO_SUFFIXES)),
        }
        super().__init__(None, threaded=threaded, **traits, _offers=offers)
        self._loaded: Any = None
        self._uploads: tempfile.TemporaryDirectory[str] | None = None

    def load(self, done: Callable[[], None] | None = None) -> None:
        """Load what the traits say, in the background; ``done`` is called once it is there."""
        wanted = (self.checkpoint, self.device, self.dtype)
        name, stride, start = self.clip_name, self.stride, self.start

        def work(task: Task) -> tuple[Any, Any, Clip]:
            model, processor = self.model, self.processor
            if wanted != self._loaded:
                model, processor = load_pair(wanted[0], device=wanted[1], dtype=wanted[2])
            task.check()
            self.status = f"Reading {name} …"
            return model, processor, open_clip(name, model.config, processor, stride=stride, start=start)

        def finished(found: tuple[Any, Any, Clip]) -> None:
            self._loaded = wanted
            count = sum(parameter.numel() for parameter in found[0].parameters())
            self.status = f"Loaded {wanted[0]}, {count:,} parameters on {found[0].device.type}; {found[2]!r}."
            with self.hold_trait_notifications():
                self.model, self.processor, self.clip = found
            if done is not None:
                done()

        self.request(work, finished, saying=f"Loading {wanted[0]} …")

    def on_load(self, content: dict[str, Any]) -> None:
        """Answer the button, which tells the fields as they stand.

        Raises:
            InputError: a field's value does not fit.
        """
        fields = content.get("fields", {})
        try:
            for name in _FIELDS:
                self.set_trait(name, fields.get(name, getattr(self, name)))
        except traitlets.TraitError as error:
            raise InputError(f"cannot load: {error}") from error
        self.load()

    def on_upload(self, content: dict[str, Any], data: bytes | memoryview) -> None:
        """Keep a file that was dropped or chosen in the browser, and name it as the clip.

        Raises:
            InputError: its name is not that of a video.
        """
        name = Path(str(content.get("name", ""))).name
        if not is_video_name(name):
            raise InputError(f"{name!r} is no video: wanted one of {', '.join(sorted(VIDEO_SUFFIXES))}")
        if self._uploads is None:
            self._uploads = tempfile.TemporaryDirectory(prefix="vivit-lab-")
        path = Path(self._uploads.name) / name
        path.write_bytes(data)
        self.clip_name = str(path)
        self.status = f"Received {name} ({len(data) / 1e6:.1f} MB)."

    def _on_message(self, _: Any, content: Any, buffers: list[Any]) -> None:
        if isinstance(content, dict) and content.get("type") == "upload":
            with self.showing_errors():
                self.on_upload(content, buffers[0] if buffers else b"")
        else:
            super()._on_message(_, content, buffers)

    def close(self) -> None:
        """Leave the page, and remove what was uploaded."""
        uploads = getattr(self, "_uploads", None)
        if uploads is not None:
            uploads.cleanup()
        super().close()

    def _repr_html_(self) -> str:
        """Say what is loaded, for where no widget can run."""
        return message(self.status or "Nothing is loaded.")
