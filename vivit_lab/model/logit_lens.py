"""Logit lens: what the classifier would say of each token at each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vivit_lab.errors import InputError, MissingExtraError
from vivit_lab.grid import TokenGrid
from vivit_lab.memory import require_bytes
from vivit_lab.model.inputs import is_index
from vivit_lab.show.html import facts_table, report_html, tiles

__all__ = ["LogitLens", "lens_of_cache", "readout_weights"]

_MOST_STRIPS = 8


@dataclass(frozen=True, eq=False)
class LogitLens:
    """Class logits of every token at every layer, by the final LayerNorm and the classifier.

    nostalgebraist 2020 (https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens):
    logits_l = classifier(LN_final(x_l)). Early layers need not speak the last one's language, so small logits there are
    no proof of absence.

    Args:
        values: (layer, batch, token, class) float32.
        labels: for each entry of the first axis, ``"0_pre"``, …, ``"final_post"``.
        classes: the classes, in order.
        names: what they are called.
        pooled: (layer, batch, class) float32, of the summary that the model reads: its CLS token or the mean of its
            tokens; the last layer's are the model's logits. None where not all tokens are there.
        grid: the token grid; None where it is not known.
        tokens: sequence indices of the tokens; None for all.
        model_id: which model.
    """

    values: Tensor
    labels: list[str]
    classes: list[int]
    names: list[str]
    pooled: Tensor | None = None
    grid: TokenGrid | None = None
    tokens: list[int] | None = None
    model_id: str | None = None

    def of(self, label: int | str) -> Tensor:
        """Return the logits of one class, (layer, batch, token).

        Args:
            label: the class by its number or name.

        Raises:
            InputError: the lens does not hold that class.
        """
        return self.values.select(-1, self._index(label))

    def tubelets(self, label: int | str) -> Tensor:
        """Return the logits of one class on the token grid, (layer, batch, t, h, w).

        Raises:
            InputError: the lens does not hold that class, or not all tokens.
        """
        if self.grid is None or self.tokens is not None:
            raise InputError("the lens does not hold all tokens of a known grid, so they cannot be laid out on it")
        return self.grid.unflatten(self.of(label))

    def strip(self, label: int | str) -> Tensor:
        """Return a class's time strip, (layer, batch, t): its logits averaged over the places of each time.

        Raises:
            InputError: see ``tubelets``.
        """
        return self.tubelets(label).mean(dim=(-2, -1))

    def to_pandas(self) -> Any:
        """Return the pooled logits as a table with columns clip, layer, class, name, logit.

        Raises:
            MissingExtraError: pandas is not installed.
            InputError: not all tokens are there.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise MissingExtraError("tables need pandas: pip install 'vivit-lab[lab]'") from error
        if self.pooled is None:
            raise InputError("not all tokens are there, so there are no pooled logits; the tensor is .values")
        rows = [
            (clip, label, index, name, float(self.pooled[place, clip, column]))
            for clip in range(self.pooled.shape[1])
            for place, label in enumerate(self.labels)
            for column, (index, name) in enumerate(zip(self.classes, self.names, strict=True))
        ]
        return pd.DataFrame(rows, columns=["clip", "layer", "class", "name", "logit"])

    def __repr__(self) -> str:
        layers, batch, tokens, classes = self.values.shape
        return f"LogitLens({batch} clips, {layers} places in the stream, {tokens} tokens, {classes} classes)"

    def _repr_html_(self) -> str:
        """Return the first clip's time strips (down: layers, across: time), of the classes that end strongest."""
        final = self.values[-1, 0].mean(dim=0) if self.pooled is None else self.pooled[-1, 0]
        facts = {"logit lens": repr(self), "model": self.model_id}
        if self.grid is None or self.tokens is not None:
            return report_html(facts_table(facts))
        chosen = final.argsort(descending=True)[:_MOST_STRIPS].tolist()
        facts["read"] = (
            f"clip 0; down: {self.labels[0]} … {self.labels[-1]}; across: {self.grid.t} tubelet rows in time; mean "
            "logit over space, less the mean over classes"
        )
        centred = self.grid.unflatten(self.values[:, 0] - self.values[:, 0].mean(dim=-1, keepdim=True), axis=1)
        strips = centred.mean(dim=(2, 3)).cpu().numpy()  # (layer, t, class)
        names = [self.names[index] for index in chosen]
        return report_html(facts_table(facts), tiles(strips.transpose(2, 0, 1)[chosen], names, signed=True))

    def _index(self, label: int | str) -> int:
        held: list[Any] = self.names if isinstance(label, str) else self.classes
        if label not in held or isinstance(label, bool):
            raise InputError(f"class {label!r} is not in the lens of {', '.join(map(str, held[:8]))}")
        return held.index(label)


def lens_of_cache(cache: Any, classes: Sequence[int] | None, *, incl_mid: bool) -> LogitLens:
    """Return the lens of a cache; see ``ActivationCache.logit_lens``."""
    model = cache._weights()
    count = model.config.num_labels if getattr(model, "classifier", None) is not None else 0
    if not count:
        raise InputError("the model has no classifier, so there is no lens to look through")
    chosen = list(range(count)) if classes is None else torch.as_tensor(classes).reshape(-1).tolist()
    if not chosen or any(not is_index(index) or not 0 <= index < count for index in chosen):
        raise InputError(f"classes must be some of 0..{count - 1}, got {classes}")
    if cache.single_token:
        raise InputError("this cache holds a single token without its axis; cut it with a list or slice instead")
    streams, labels = cache.accumulated_resid(incl_mid=incl_mid, return_labels=True)
    streams = streams if cache.has_batch_dim else streams.unsqueeze(1)
    layers, batch, tokens, _ = streams.shape
    require_bytes(
        4 * layers * batch * tokens * len(chosen),
        streams.device,
        f"the logits of {len(chosen)} classes for {layers} × {batch} × {tokens} tokens",
        "name fewer classes",
    )
    index = torch.tensor(chosen, device=streams.device)
    with torch.no_grad():
        made = [model.classifier(model.ln_final(stream)).index_select(-1, index).float() for stream in streams]
    values = torch.stack(made)
    pooled = None
    if cache.tokens is None:
        weights = readout_weights(model, tokens, cache.grid).to(values)
        pooled = torch.einsum("lbtc,t->lbc", values, weights)
    names = [(model.config.id2label or {}).get(each, f"LABEL_{each}") for each in chosen]
    return LogitLens(values, labels, chosen, names, pooled, cache.grid, cache.tokens, cache.model_id)


def readout_weights(model: Any, tokens: int, grid: TokenGrid | None) -> Tensor:
    """Return the weight (token,) of each token in the vector that stands for the clip; they sum to 1.

    1 for CLS and 0 for all others, or the same for all tokens, as the model has it.
    """
    from vivit_lab.model.encoder import Encoded

    with torch.inference_mode(False), torch.enable_grad():
        tokens_ = torch.zeros(1, tokens, 1, requires_grad=True, device=model.device)
        summary = model.summary_of(Encoded(tokens_, None, None, grid))
        return torch.autograd.grad(summary.sum(), tokens_)[0].reshape(-1)
