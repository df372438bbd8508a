"""Gates that are learned: which heads a frozen model can do without, all at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vivit_lab.errors import InputError
from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
from vivit_lab.heads.clips import ClipSet, clip_set
from vivit_lab.heads.importance import LOSS, HeadImportance, bind_measure, made_importance, without_pruned
from vivit_lab.model.outputs import VideoClassifierOutput
from vivit_lab.numbers import MOST, checked_numbers
from vivit_lab.progress import progress_bar
from vivit_lab.records.attention import evaluating
from vivit_lab.records.values import frozen

__all__ = ["L0Gates", "gate_open", "hard_concrete"]

_LOW, _HIGH, _BETA = -0.1, 1.1, 0.33
_SHIFT = _BETA * math.log(-_LOW / _HIGH)
_TINY = 1e-6


def hard_concrete(log_alpha: Tensor, noise: Tensor | None = None) -> Tensor:
    """Return gates in [0, 1] of the hard concrete distribution (Louizos, Welling & Kingma, ICLR 2018, eq. 10 and 11).

    s = sigmoid((log u - log(1 - u) + log α)/β), stretched to (-0.1, 1.1) and cut to [0, 1]; β = 0.33. So a gate is
    exactly 0 or 1 with a chance above 0, and still has a gradient.

    Args:
        log_alpha: any shape.
        noise: u in (0, 1), of a shape to which ``log_alpha`` broadcasts; None gives the gates used after training,
            sigmoid(log α) stretched and cut.
    """
    if noise is None:
        soft = log_alpha.sigmoid()
    else:
        noise = noise.clamp(_TINY, 1 - _TINY)
        soft = ((noise.log() - (1 - noise).log() + log_alpha) / _BETA).sigmoid()
    return (soft * (_HIGH - _LOW) + _LOW).clamp(0, 1)


def gate_open(log_alpha: Tensor) -> Tensor:
    """Return the chance that each gate is not 0, sigmoid(log α - β·log(0.1/1.1)) (ibid., eq. 12)."""
    return (log_alpha - _SHIFT).sigmoid()


@checked_numbers(steps=(1, MOST), runs=(1, 1000))
@dataclass(frozen=True)
class L0Gates:
    """A gate on each head, trained to be closed where the model can spare it (Voita et al., ACL 2019, section 5.2).

    Minimises E[loss with gates] + penalty · |share of open gates - (1 - sparsity)| over the gates alone, the model
    frozen; without ``sparsity`` the second term is penalty · share of open gates, as in the paper. Gates are hard
    concrete, drawn anew for each clip and step; 1 keeps a head.

    Unlike the others it scores heads together: of two heads that do the same, one is kept. Which one depends on the
    seed, so each row of the result is one run, not one clip.

    Args:
        target: ``"loss"``, or what ``bind_target`` takes, of which there is then to be as much as possible.
        sparsity: share of heads to close, in [0, 1); None lets the penalty decide.
        penalty: weight of the penalty; more closes more.
        steps: updates of the gates in a run.
        learning_rate: of Adam.
        batch_size: clips in a step.
        runs: independent runs, at least 1.
        start: log α at the start; 2 is nearly open.
        seed: of the noise, and of the clips of each step.
        layer_norm: divide each layer's values by their L2 norm.

    Raises:
        InputError: a field is out of its range.

    Cost: a pass of all clips, and ``runs`` · ``steps`` forward and backward passes of a batch (and as many forward
    passes more for a model without a classifier).
    """

    target: Any = LOSS
    sparsity: float | None = 0.5
    penalty: float = 2.0
    steps: int = 200
    learning_rate: float = 0.1
    batch_size: int = 8
    runs: int = 2
    start: float = 2.0
    seed: int = 0
    layer_norm: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "runs"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} must be a positive integer, got {value!r}")
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise InputError(f"sparsity must lie in [0, 1), got {self.sparsity}")
        if not (self.penalty >= 0 and self.learning_rate > 0):
            raise InputError(
                f"penalty must not be negative and learning_rate above 0, got {self.penalty} and {self.learning_rate}"
            )

    def __call__(
        self, model: VivitModel | VivitForVideoClassification, data: Any, *, progress: bool | None = None
    ) -> HeadImportance:
        """Score all heads of a model.

        Args:
            model: a ViViT; its weights are neither changed nor given gradients.
            data: clips; see ``clip_set``.
            progress: whether to show a bar; None shows it on a terminal.

        Returns:
            The chance that each gate is open, (runs, layers, heads) behind it.

        Raises:
            InputError: the clips or the target do not fit the model.
        """
        clips = clip_set(data)
        with (
            evaluating(model),
            frozen(model),
            progress_bar(None, progress, "L0 gates", "step", self.runs * self.steps) as bar,
        ):
            clean = self._clean(model, clips)
            found = [self._run(model, clips, clean, self.seed + run, bar) for run in range(self.runs)]
        rows = without_pruned(torch.stack([row for row, _ in found]), model)
        return made_importance(self, model, rows, unit="chance that the gate is open", target=found[0][1], rows="run")

    def _clean(self, model: Any, clips: ClipSet) -> Tensor | None:
        """Return the logits (clip, class) without gates, which targets are bound to; None where there are none."""
        if not isinstance(model, VivitForVideoClassification):
            return None
        with torch.inference_mode(False), torch.no_grad():
            batches = clips.batches(self.batch_size)
            every = [
                model(batch.pixel_values.to(model.device), interpolate_pos_encoding=None).logits for batch in batches
            ]
            return torch.cat(every)

    def _run(self, model: Any, clips: ClipSet, clean: Tensor | None, seed: int, bar: Any) -> tuple[Tensor, str]:
        generator = torch.Generator().manual_seed(seed)
        layers, heads = len(model.blocks), model.config.num_attention_heads
        there = ~without_pruned(torch.zeros(layers, heads), model).isnan()
        log_alpha = torch.full((layers, heads), float(self.start), requires_grad=True)
        optimizer = torch.optim.Adam([log_alpha], lr=self.learning_rate)
        named = ""
        with torch.inference_mode(False), torch.enable_grad():
            for _ in range(self.steps):
                places = torch.randperm(len(clips), generator=generator)[: self.batch_size].tolist()
                batch = clips.batch(places)
                noise = torch.rand((layers, len(batch), heads), generator=generator)
                gates = hard_concrete(log_alpha.unsqueeze(1), noise)
                mask = gates.view(layers, len(batch), heads, 1, 1).to(model.device, model.dtype)
                pixels = batch.pixel_values.to(model.device)
                with torch.no_grad():  # what a target is bound to must not follow the gates
                    intact = (
                        model(pixels, interpolate_pos_encoding=None)
                        if clean is None
                        else VideoClassifierOutput(logits=clean[places])
                    )
                output = model(pixels, head_mask=mask, interpolate_pos_encoding=None)
                measured = bind_measure(self.target, intact, batch, model)
                named = measured.name
                open_share = gate_open(log_alpha)[there].mean()
                cost = open_share if self.sparsity is None else (open_share - (1 - self.sparsity)).abs()
                loss = measured.worse * measured.bound(output).float().mean().cpu() + self.penalty * cost
                optimizer.zero_grad()
                loss.backward(inputs=[log_alpha])
                optimizer.step()
                bar.update()
        return gate_open(log_alpha.detach()), named
