"""Importance by doing it: one head at a time is taken out, and the change is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vivit_lab.errors import InputError
from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
from vivit_lab.heads.clips import ClipSet, clip_set
from vivit_lab.heads.importance import LOSS, HeadImportance, Measured, bind_measure, made_importance, without_pruned
from vivit_lab.heads.pruning import head_means
from vivit_lab.interventions.ablation import MODES, Replacements, partners
from vivit_lab.interventions.points import Point, cached, part_name, quiet, runs
from vivit_lab.model.attention import heads_left
from vivit_lab.numbers import checked_numbers
from vivit_lab.progress import progress_bar
from vivit_lab.records.inputs import warn_of_differences

__all__ = ["SingleHeadAblation"]


@checked_numbers(batch_size=(1, None))
@dataclass(frozen=True)
class SingleHeadAblation:
    """What the target loses when one head's context is replaced, for each head in turn: the ground truth of the others.

    The context z_h (batch, token, d_head) is replaced by 0 (``"zero"``), by the head's mean over clips and tokens
    (``"mean"``), or by what it was, token by token, in another clip drawn at random (``"resample"``). Zero also removes
    the head's constant part, which belongs to no clip and can be moved between the value bias and the output bias
    without changing the model; mean and resample ablation do not depend on where it lies.

    Args:
        mode: ``"mean"``, ``"zero"`` or ``"resample"``.
        target: as for ``MichelImportance``.
        absolute: take each clip's change without its sign, to compare with importances that have none.
        reference: clips for the means and resamples; the scored ones where None.
        layer_norm: divide each layer's values by their L2 norm.
        batch_size: clips in a pass.
        seed: of the clips drawn for ``"resample"``; each clip gets one other clip, the same for all heads.

    Raises:
        InputError: there is no such mode.

    Cost for L layers of H heads: one pass, and L·H passes that begin at the head's own layer (half a pass on average).
    """

    mode: str = "mean"
    target: Any = LOSS
    absolute: bool = False
    reference: Any = None
    layer_norm: bool = False
    batch_size: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"mode={self.mode!r} is not known; choose one of {', '.join(MODES)}")

    def __call__(
        self, model: VivitModel | VivitForVideoClassification, data: Any, *, progress: bool | None = None
    ) -> HeadImportance:
        """Score all heads of a model.

        Args:
            model: a ViViT.
            data: clips; see ``clip_set``.
            progress: whether to show a bar; None shows it on a terminal.

        Returns:
            Per clip, how much worse the target became: above 0 the head helps.

        Raises:
            InputError: the clips or the target do not fit the model, or one clip is to be resampled from itself.
        """
        clips = clip_set(data)
        source = clips if self.reference is None else clip_set(self.reference)
        if self.mode == "resample" and self.reference is None and len(clips) < 2:
            raise InputError("resample ablation wants two clips at least, or reference= clips to draw from")
        drawn = partners(len(clips), len(source), self.seed)
        names = [part_name(model, layer, "z") for layer in range(len(model.attention_layers))]
        means = self._means(model, source, names)
        places = [(layer, place, head) for layer in range(len(names)) for place, head in _heads(model, layer)]
        rows, measured = [], None
        total = len(places) * -(-len(clips) // self.batch_size)
        with progress_bar(None, progress, f"{self.mode} ablation", "head", total=total) as bar:
            for batch in clips.batches(self.batch_size):
                made = Replacements("zero" if self.mode == "zero" else "mean", means)
                if self.mode == "resample":
                    others = source.batch(drawn[batch.places].tolist())
                    made = Replacements("mean", cached(model, others.pixel_values, names, {}))  # a row for each clip
                with quiet(model):
                    clean = model(batch.pixel_values.to(model.device), interpolate_pos_encoding=None)
                    measured = bind_measure(self.target, clean, batch, model)
                    before = measured.bound(clean).float()
                changes = before.new_zeros(len(batch), len(names), model.config.num_attention_heads)
                hooks = [
                    ((layer, head), made.hook(Point(names[layer], (place,)), None)) for layer, place, head in places
                ]
                for (layer, head), output in runs(model, batch.pixel_values, hooks, {}):
                    changes[:, layer, head] = measured.worse * (measured.bound(output).float() - before)
                    bar.update()
                warn_of_differences(model, f"{type(self).__name__} of heads", changes, before)
                rows.append(changes.cpu())
        assert measured is not None, "there is a clip at least"
        return self._result(model, torch.cat(rows), measured)

    def _result(self, model: Any, rows: Tensor, measured: Measured) -> HeadImportance:
        found = without_pruned(rows, model)
        unit = f"change of the {measured.bound.unit} by {self.mode} ablation"
        return made_importance(
            self,
            model,
            found.abs() if self.absolute else found,
            unit=f"|{unit}|" if self.absolute else f"{unit}, above 0 the head helps",
            target=measured.name,
            signed=not self.absolute,
        )

    def _means(self, model: Any, source: ClipSet, names: list[str]) -> dict[str, Tensor]:
        """Return each hook point's mean (1, 1, head, d_head) over clips and tokens; nothing for the other modes."""
        if self.mode != "mean":
            return {}
        means = head_means(model, source, batch_size=self.batch_size, progress=False)
        return {
            name: means[layer][[head for _, head in _heads(model, layer)]][None, None]
            for layer, name in enumerate(names)
        }


def _heads(model: Any, layer: int) -> list[tuple[int, int]]:
    """Return the heads of a layer: its place among those that are there, and the number it was born with."""
    return list(enumerate(heads_left(model.config, layer)))
