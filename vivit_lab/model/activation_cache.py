"""What flowed through a model in one pass, by the names of its hook points."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from vivit_lab._version import __version__
from vivit_lab.errors import InputError
from vivit_lab.files import stored_fields, stored_tensors
from vivit_lab.grid import TokenGrid
from vivit_lab.memory import format_bytes, require_bytes
from vivit_lab.model.attention import attention_pattern
from vivit_lab.model.cache_readouts import CacheReadouts
from vivit_lab.model.hook_names import NameLike, leaf_of, resolve_name, token_axis, token_index
from vivit_lab.numbers import checked_numbers
from vivit_lab.show.html import report_html, rows_table

__all__ = ["ActivationCache", "run_provenance"]

_FORMAT = "vivit_lab.ActivationCache/1"
_FIELDS = (
    "grid", "tokens", "single_token", "has_batch_dim", "points", "scales", "fixed_patterns", "fixed_results",
    "model_id", "provenance",
)  # fmt: skip


def run_provenance(model: Any, dtype: torch.dtype) -> dict[str, str]:
    """Return how a pass was computed, to be kept with what came of it."""
    return {
        "vivit_lab": __version__,
        "torch": torch.__version__,
        "dtype": str(dtype).removeprefix("torch."),
        "device": model.device.type,
        "attn_implementation": model.attn_implementation,
    }


class ActivationCache(CacheReadouts):
    """A mapping from hook points to the tensors that were there, with TransformerLens's short forms and readouts.

    ``cache["blocks.3.hook_resid_post"]``, ``cache["resid_post", -1]``, ``cache["scale", 0, "ln1"]``.
    Scores, pattern and result that were not kept are computed exactly, when asked for, from q, k and z.

    Args:
        tensors: full name → tensor, such as (batch, token, d_model); see the table of hook points in the README.
        model: the model it is of, which the readouts need; None where it is not at hand.
        grid: the token grid; None where the pass did not tell it.
        tokens: sequence indices of the tokens that were kept; None for all.
        single_token: whether the token axis is gone, because one was picked by its index.
        has_batch_dim: whether there is a batch axis.
        points: all hook points of the model.
        scales: attention module → factor on its scores, for modules in which every token attends to all.
        fixed_patterns: attention modules whose pattern a hook or dropout changed, so that it cannot be computed later.
        fixed_results: attention modules whose result a hook changed; likewise.
        model_id: which model.
        provenance: how the pass was computed.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        model: Any = None,
        *,
        grid: TokenGrid | None = None,
        tokens: list[int] | None = None,
        single_token: bool = False,
        has_batch_dim: bool = True,
        points: Iterable[str] = (),
        scales: Mapping[str, float] | None = None,
        fixed_patterns: frozenset[str] = frozenset(),
        fixed_results: frozenset[str] = frozenset(),
        model_id: str | None = None,
        provenance: dict[str, Any] | None = None,
    ) -> None:
        self.tensors = dict(tensors)
        self.model = model
        self.grid = grid
        self.tokens = tokens
        self.single_token = single_token
        self.has_batch_dim = has_batch_dim
        self.points = tuple(points) or tuple(self.tensors)
        self.scales = dict(scales or {})
        self.fixed_patterns = frozenset(fixed_patterns)
        self.fixed_results = frozenset(fixed_results)
        self.model_id = model_id
        self.provenance = provenance or {}

    def __getitem__(self, key: NameLike) -> Tensor:
        """Return what stood at a hook point.

        Args:
            key: a full name or a short form; a name that ends with ``_grad`` for its gradient.

        Raises:
            InputError: it was not kept and cannot be computed, or the key means several points.
            OutOfMemoryBudgetError: what would have to be computed does not fit.
        """
        derived = {name: path for path in self._attention_paths() for name in self._derivable(path)}
        held = [*self.tensors, *(name for name in derived if name not in self.tensors)]
        name = resolve_name(key, held, elsewhere=self.points)
        return self.tensors[name] if name in self.tensors else self._derive(name, derived[name])

    def __contains__(self, key: object) -> bool:
        return key in self.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    @property
    def nbytes(self) -> int:
        """Bytes that the cache holds; what stands at two points (one layer's end, the next one's start) counts once."""
        held = {
            (tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape): tensor for tensor in self.values()
        }
        return sum(tensor.numel() * tensor.element_size() for tensor in held.values())

    @property
    def batch_size(self) -> int | None:
        """How many clips; None without a batch axis."""
        return len(next(iter(self.tensors.values()))) if self.has_batch_dim else None

    @checked_numbers()
    def pattern_rows(self, layer: int, queries: Any) -> Tensor:
        """Return what some queries attend to, (batch, head, query, key), from q and k alone.

        Args:
            layer: the layer; negative ones count from the last.
            queries: sequence indices: one, a slice or a list.

        Raises:
            InputError: q or k was not kept, of all tokens, or a hook changed the pattern.
        """
        derived = [name for path in self.scales for name in self._derivable(path)]
        name = resolve_name(("pattern", layer), derived, elsewhere=self.points)
        path = name.rpartition(".")[0]
        return self._derive(name, path, token_index(queries, self._with_batch(f"{path}.hook_q").shape[1])[0])

    def at(self, t: Any = None, y: Any = None, x: Any = None, *, cls: bool = False) -> ActivationCache:
        """Return the tokens at some places of the grid, in sequence order.

        Args:
            t: tubelet rows in time: an index, a slice or a list; None for all.
            y: rows; likewise.
            x: columns; likewise.
            cls: whether the CLS token comes first. With neither t, y nor x, it comes alone.

        Raises:
            InputError: the cache has no grid or not all its tokens, there is no CLS token, a place is outside, or a
                tensor is not over the tokens of the grid (those of a factorised encoder's layers).
        """
        if self.grid is None or self.tokens is not None:
            raise InputError("at() wants a cache of all tokens of a known grid; this one was cut already, or has none")
        if cls and not self.grid.cls:
            raise InputError("there is no CLS token in this model")
        chosen = [0] if cls else []
        if not (cls and t is None and y is None and x is None):
            axes = [
                token_index(slice(None) if part is None else part, size, name)[0]
                for name, part, size in zip("tyx", (t, y, x), self.grid.shape, strict=True)
            ]
            chosen += sorted(self.grid.token(*place) for place in product(*axes))
        return self._changed(lambda name, tensor: self._take(name, tensor, chosen), tokens=chosen)

    def to(self, *args: Any, **options: Any) -> ActivationCache:
        """Return the cache on another device or in another dtype; the arguments are those of ``Tensor.to``."""
        return self._changed(lambda _, tensor: tensor.to(*args, **options))

    @checked_numbers()
    def clip(self, index: int) -> ActivationCache:
        """Return one clip of the batch, without the batch axis.

        Raises:
            InputError: there is no such clip, or no batch axis.
        """
        count = self.batch_size
        if count is None or not -count <= index < count:
            raise InputError(f"index={index} is not in a cache of {'one clip' if count is None else f'{count} clips'}")
        return self._changed(lambda _, tensor: tensor.select(0, index), has_batch_dim=False)

    def remove_batch_dim(self) -> ActivationCache:
        """Return a cache of one clip without its batch axis.

        Raises:
            InputError: it holds several clips.
        """
        if self.has_batch_dim and self.batch_size != 1:
            raise InputError(f"a cache of {self.batch_size} clips keeps its batch axis; clip(index) picks one")
        return self.clip(0) if self.has_batch_dim else self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the cache as one safetensors file: a tensor for each name, all else as JSON in its metadata."""
        facts = {
            "grid": None if self.grid is None else self.grid.to_dict(),
            "tokens": self.tokens,
            "single_token": self.single_token,
            "has_batch_dim": self.has_batch_dim,
            "points": self.points,
            "scales": self.scales,
            "fixed_patterns": sorted(self.fixed_patterns),
            "fixed_results": sorted(self.fixed_results),
            "model_id": self.model_id,
            "provenance": self.provenance,
        }
        # a tensor that stands at two points is written twice: the format has no references
        contents = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in self.tensors.items()}
        Path(path).write_bytes(save(contents, metadata={"format": _FORMAT, "cache": json.dumps(facts)}))

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Any = None) -> ActivationCache:
        """Read a cache that ``save`` wrote.

        Args:
            path: the file.
            model: the model it is of, for the readouts that need its weights.

        Raises:
            InputError: the file is not an activation cache.
            FileNotFoundError: there is no such file.
        """
        kind = f"an activation cache ({_FORMAT})"
        facts, tensors = stored_tensors(path, kind, "cache", format=_FORMAT)
        with stored_fields(path, kind):
            facts["grid"] = None if facts["grid"] is None else TokenGrid(**facts["grid"])
            for name in ("fixed_patterns", "fixed_results"):
                facts[name] = frozenset(facts.get(name, ()))
            return cls(tensors, model, **facts)

    def __repr__(self) -> str:
        clips = "1 clip" if self.batch_size in (None, 1) else f"{self.batch_size} clips"
        return f"ActivationCache({len(self)} tensors, {clips}, {self._tokens_text()}, {format_bytes(self.nbytes)})"

    def _repr_html_(self) -> str:
        """Return what is in the cache, as a notebook shows it: for each kind of point its shape, layers and size."""
        rows = [
            [what, " × ".join(map(str, shape)), dtype, str(count), format_bytes(size)]
            for what, shape, dtype, count, size in self._kinds()
        ]
        return report_html(repr(self), rows_table(["hook point", "shape", "dtype", "tensors", "size"], rows))

    def _kinds(self) -> list[tuple[str, tuple[int, ...], str, int, int]]:
        """What is held, by kind: name with ``{i}`` for the layer, shape, dtype, count and bytes."""
        kinds: dict[tuple[str, tuple[int, ...], str], list[int]] = {}
        for name, tensor in self.tensors.items():
            kind = ".".join("{i}" if part.isdecimal() else part for part in name.split("."))
            dtype = str(tensor.dtype).removeprefix("torch.")
            kinds.setdefault((kind, tuple(tensor.shape), dtype), []).append(tensor.numel() * tensor.element_size())
        return [(*key, len(sizes), sum(sizes)) for key, sizes in kinds.items()]

    def _tokens_text(self) -> str:
        if self.tokens is not None:
            return f"{len(self.tokens)} tokens"
        grid = self.grid
        return "tokens of an unknown grid" if grid is None else f"grid {grid.t}×{grid.h}×{grid.w}{' + CLS' * grid.cls}"

    def _changed(self, change: Callable[[str, Tensor], Tensor], **fields: Any) -> ActivationCache:
        kept = {name: getattr(self, name) for name in _FIELDS} | fields
        return ActivationCache(
            {name: change(name, tensor) for name, tensor in self.tensors.items()}, self.model, **kept
        )

    def _take(self, name: str, tensor: Tensor, tokens: list[int]) -> Tensor:
        axis = token_axis(name) - (not self.has_batch_dim)
        assert self.grid is not None, "at() has looked"
        if tensor.shape[axis] != self.grid.num_tokens:
            raise InputError(
                f"at() wants tensors over the {self.grid.num_tokens} tokens of the grid, {name} is over "
                f"{tensor.shape[axis]}: a layer of a factorised encoder has for each time a CLS and the tubelets, or a "
                "CLS and a token for each time. Index the tensor of one name"
            )
        return tensor.index_select(axis, torch.tensor(tokens, device=tensor.device))

    def _with_batch(self, name: str) -> Tensor:
        return self.tensors[name] if self.has_batch_dim else self.tensors[name].unsqueeze(0)

    def _attention_paths(self) -> list[str]:
        """The attention modules: those of joint attention, and all others whose z was kept."""
        kept = (name.removesuffix(".hook_z") for name in self.tensors if leaf_of(name) == "z")
        return list(dict.fromkeys((*self.scales, *kept)))

    def _derivable(self, path: str) -> list[str]:
        """What could be computed of an attention module from what was kept of it."""
        names = []
        joint = self.tokens is None and path in self.scales
        if joint and f"{path}.hook_q" in self.tensors and f"{path}.hook_k" in self.tensors:
            names += [f"{path}.hook_attn_scores", f"{path}.hook_pattern"]
        if self.model is not None and not self.single_token and f"{path}.hook_z" in self.tensors:
            names.append(f"{path}.hook_result")
        return names

    def _derive(self, name: str, path: str, rows: list[int] | None = None) -> Tensor:
        if leaf_of(name) == "result":
            made = self._results_of(path, self._with_batch(f"{path}.hook_z"))
            return made if self.has_batch_dim else made.squeeze(0)
        if path in self.fixed_patterns:
            raise InputError(
                f"{name} was changed by a hook or by dropout, so it is not the softmax of q and k: keep it in the "
                f"pass, names_filter=[{name!r}]"
            )
        query, key = (self._with_batch(f"{path}.hook_{what}").transpose(1, 2) for what in "qk")
        if rows is not None:
            query = query.index_select(2, torch.tensor(rows, device=query.device))
        count = query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2]
        size = query.element_size()
        wanted = count * (size + (4 + size if leaf_of(name) == "pattern" else size))
        require_bytes(wanted, query.device, f"{name} of {len(query)} clips", "ask for some rows: pattern_rows()")
        if leaf_of(name) == "pattern":
            made = attention_pattern(query, key, self.scales[path])
        else:
            made = torch.matmul(query, key.transpose(-1, -2)) * self.scales[path]
        return made if self.has_batch_dim else made.squeeze(0)
