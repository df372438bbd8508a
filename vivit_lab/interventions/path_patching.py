"""Path patching: what one head does to another, all other paths held still."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vivit_lab.errors import InputError
from vivit_lab.hooks.targets import TargetLike
from vivit_lab.interventions.base import Hook, check_batch_size, slices_of
from vivit_lab.interventions.pairs import Pairs
from vivit_lab.interventions.patch import patch_hook
from vivit_lab.interventions.patching_result import DIRECTIONS, PatchingResult
from vivit_lab.interventions.points import Point, chosen_points, put
from vivit_lab.interventions.runs import cached, quiet, stream_before
from vivit_lab.model.hook_names import layer_of, leaf_of
from vivit_lab.numbers import checked_numbers
from vivit_lab.progress import progress_bar
from vivit_lab.video.clip import Clip

__all__ = ["PathPatching"]

_INPUTS = ("q", "k", "v")


@checked_numbers()
@dataclass(frozen=True)
class PathPatching:
    """Patch the paths from a sender head to a receiver alone (Wang et al. 2022; Goldowsky-Dill et al. 2023).

    One run of the base clip with the sender's context (z) from the other clip, and every other head held at its base
    value, gives what the receiver then reads (its q, k or v). A second run of the base clip, nothing held, with that
    one input of the receiver replaced, gives the effect. For the receiver ``"logits"`` the first run does.

    Args:
        senders: (layer, head) pairs.
        receivers: ``"logits"``, or (layer, head, ``"q"`` | ``"k"`` | ``"v"``) triples, or a list of both.
        direction: see ``ActivationPatching``; the sender's context comes from the side that is patched from.
        hold_mlps: whether MLPs are held at their base values too, so that only the direct path through the residual
            stream is left. False lets them answer to the sender, as Wang et al. did.
        batch_size: pairs in one forward pass.
        seed: of the intervals and p-values.
        progress: whether to show a bar; None shows it in a terminal.

    Raises:
        InputError: a field has a value that is not known.

    In a factorised encoder, what leads from the spatial layers to the temporal ones (CLS of each time, LayerNorm)
    answers to the sender, as all LayerNorms do.

    Cost: for each batch and sender one pass from its layer on (in factorised variants: a whole one), and one for each
    receiver. Meant for few late heads.

    Example:
        >>> method = PathPatching(senders=[(3, 0), (3, 4)], receivers=[(5, 2, "v"), "logits"])
        >>> method(model, clean, corrupt, LogitDifference(labels, reversed_labels)).plot()
    """

    senders: Sequence[tuple[int | str, int]]
    receivers: str | Sequence[Any] = "logits"
    direction: str = "denoising"
    hold_mlps: bool = True
    batch_size: int = 8
    seed: int = 0
    progress: bool | None = None

    def __post_init__(self) -> None:
        check_batch_size(self.batch_size)
        if self.direction not in DIRECTIONS:
            raise InputError(f"direction must be one of {', '.join(DIRECTIONS)}, got {self.direction!r}")
        if not self.senders or not self.receivers:
            raise InputError("name at least one sender (layer, head) and one receiver")
        for receiver in self._receivers:
            triple = isinstance(receiver, (tuple, list)) and len(receiver) == 3 and receiver[2] in _INPUTS
            if receiver != "logits" and not triple:
                raise InputError(f"a receiver is 'logits' or (layer, head, 'q' | 'k' | 'v'), got {receiver!r}")

    @property
    def _receivers(self) -> list[Any]:
        return [self.receivers] if isinstance(self.receivers, str) else list(self.receivers)

    def __call__(
        self,
        model: Any,
        clean: Tensor | Clip | Sequence[Clip],
        corrupt: Tensor | Clip | Sequence[Clip],
        target: TargetLike = None,
    ) -> PatchingResult:
        """Patch the paths; the arguments are those of ``ActivationPatching``.

        Returns:
            A result with the axes sender and receiver; NaN where the receiver does not come after the sender.

        Raises:
            InputError: the clips, target or heads do not fit the model.
        """
        pairs = Pairs.of(model, clean, corrupt, target, batch_size=self.batch_size, interpolate_pos_encoding=None)
        senders = [chosen_points(model, heads=[pair])[0] for pair in self.senders]
        receivers = [self._point(model, receiver) for receiver in self._receivers]
        effect = torch.full((len(pairs), len(senders), len(receivers)), torch.nan, dtype=torch.float64)
        batches = list(slices_of(len(pairs), self.batch_size))
        with progress_bar(None, self.progress, "path patching", "sender", total=len(batches) * len(senders)) as bar:
            for rows in batches:
                batch = _Batch(pairs, rows, self.direction, senders, receivers, self.hold_mlps)
                for row, sender in enumerate(senders):
                    for column, change in batch.effects(sender):
                        effect[rows, row, column] = change.to(effect)
                    bar.update()
        labels = {
            "sender": [_label(sender) for sender in senders],
            "receiver": ["logits" if point is None else _label(point) for point in receivers],
        }
        return pairs.result(self, effect, ("sender", "receiver"), labels, self.direction)

    @staticmethod
    def _point(model: Any, receiver: Any) -> Point | None:
        if receiver == "logits":
            return None
        layer, head, part = receiver
        return chosen_points(model, heads=[(layer, head)], part=part)[0]


class _Batch:
    """The runs of one batch of pairs."""

    def __init__(
        self,
        pairs: Pairs,
        rows: slice,
        direction: str,
        senders: Sequence[Point],
        receivers: Sequence[Point | None],
        hold_mlps: bool,
    ) -> None:
        self.pairs, self.rows, self.receivers = pairs, rows, receivers
        model = pairs.model
        base, source, scores = pairs.sides(direction)
        self.scores = scores[rows].to(model.device)
        self.pixels = base[rows].to(model.device)
        parts = ("z", "mlp_out") if hold_mlps else ("z",)
        self.held = [name for name in model.hook_names if leaf_of(name) in parts]
        points = [*senders, *(point for point in receivers if point is not None)]
        streams = sorted({stream for point in points if (stream := stream_before(model, point.name)) is not None})
        self.base = cached(model, self.pixels, [*self.held, *streams], pairs.forward)
        names = list(dict.fromkeys(sender.name for sender in senders))
        self.source = cached(model, source[rows], names, pairs.forward)

    def effects(self, sender: Point) -> list[tuple[int, Tensor]]:
        """Return (receiver, effect (pair,)) for each receiver behind a sender."""
        first = int(layer_of(sender.name) or 0)
        behind = {
            column: point
            for column, point in enumerate(self.receivers)
            if point is None or int(layer_of(point.name) or 0) > first
        }
        read: dict[str, Tensor] = {}

        def keep(tensor: Tensor, hook: Any) -> None:
            read[hook.name] = tensor

        names = list(dict.fromkeys(point.name for point in behind.values() if point is not None))
        output = self._run(sender, [*self._hold(sender, first), *((name, keep) for name in names)])
        found = []
        for column, point in behind.items():
            if point is not None:
                output_there = self._run(point, [patch_hook(point, read[point.name], None)])
            else:
                output_there = output
            found.append((column, self.pairs.score(output_there, self.rows) - self.scores))
        return found

    def _hold(self, sender: Point, first: int) -> list[Hook]:
        """Return hooks that hold every head (and MLP) from the sender's layer on at its base value, but the sender."""
        hooks = []
        for name in self.held:
            if int(layer_of(name) or 0) >= first:
                value = self.base[name]
                if name == sender.name:
                    value = put(sender, value, self.source[name], None)
                hooks.append(patch_hook(Point(name), value, None))
        return hooks

    def _run(self, point: Point, hooks: list[Hook]) -> Any:
        """Return the output under hooks at a point and behind it, from its layer on where a pass can start there."""
        stream = stream_before(self.pairs.model, point.name)
        with quiet(self.pairs.model):
            if stream is None:
                return self.pairs.model.run_with_hooks(self.pixels, fwd_hooks=hooks, **self.pairs.forward)
            return self.pairs.model.run_with_hooks(self.base[stream], fwd_hooks=hooks, start_at_layer=layer_of(stream))


def _label(point: Point) -> str:
    assert point.heads is not None, "senders and receivers are heads"
    part = "" if point.part == "z" else f" {point.part}"
    return f"{layer_of(point.name)}.{point.heads[0]}{part}"
