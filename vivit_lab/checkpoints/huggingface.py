"""Hugging Face's names for a ViViT's tensors, and which tensor of a checkpoint goes where.

On disk the names are those of transformers 4, with the prefix ``vivit.`` in a classification model::

    embeddings.cls_token · embeddings.position_embeddings · embeddings.patch_embeddings.projection.{weight,bias}
    encoder.layer.{i}.attention.attention.{query,key,value}.{weight,bias} · .attention.output.dense.{weight,bias}
    encoder.layer.{i}.{layernorm_before,layernorm_after,intermediate.dense,output.dense}.{weight,bias}
    layernorm.{weight,bias} · pooler.dense.{weight,bias} · classifier.{weight,bias} (never prefixed)

transformers 5 keeps ``layers.{i}.attention.{q,k,v,o}_proj`` and ``mlp.{fc1,fc2}`` in memory. Both are read, prefixed or
not, and so are this package's own names; transformers 4's are written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vivit_lab.errors import KeyMismatchError

__all__ = ["LoadPlan", "both_names", "foreign_name", "match_tensors", "own_name"]

_LAYER = re.compile(r"(?:encoder\.layers?|layers?)\.(\d+)\.(.+)\.(weight|bias)")
_OWN_LAYER = re.compile(r"blocks\.(\d+)\.(.+)\.(weight|bias)")

# own name of a block's part → its name in transformers 4, and then in transformers 5
_PARTS: dict[str, tuple[str, ...]] = {
    "ln1": ("layernorm_before",),
    "attn.q": ("attention.attention.query", "attention.q_proj"),
    "attn.k": ("attention.attention.key", "attention.k_proj"),
    "attn.v": ("attention.attention.value", "attention.v_proj"),
    "attn.o": ("attention.output.dense", "attention.o_proj"),
    "ln2": ("layernorm_after",),
    "mlp.fc1": ("intermediate.dense", "mlp.fc1"),
    "mlp.fc2": ("output.dense", "mlp.fc2"),
}
_OWN_PARTS = {foreign: own for own, names in _PARTS.items() for foreign in names}

_OUTSIDE = {
    "embed.cls_token": "embeddings.cls_token",
    "embed.position": "embeddings.position_embeddings",
    "embed.projection.weight": "embeddings.patch_embeddings.projection.weight",
    "embed.projection.bias": "embeddings.patch_embeddings.projection.bias",
    "ln_final.weight": "layernorm.weight",
    "ln_final.bias": "layernorm.bias",
    "pooler.dense.weight": "pooler.dense.weight",
    "pooler.dense.bias": "pooler.dense.bias",
    "classifier.weight": "classifier.weight",
    "classifier.bias": "classifier.bias",
}
_OWN_OUTSIDE = {foreign: own for own, foreign in _OUTSIDE.items()}

_HEADS = ("pooler.", "classifier.")  # what may be absent from, or left over in, a checkpoint of the other class


def own_name(foreign: str) -> str | None:
    """Return this package's name of a tensor of a checkpoint, or None where it is no tensor of a ViViT.

    Args:
        foreign: a name as transformers 4 or 5 has it, with or without ``vivit.``; own names come back unchanged.

    Example:
        >>> own_name("vivit.encoder.layer.3.attention.attention.query.weight")
        'blocks.3.attn.q.weight'
    """
    name = foreign.removeprefix("vivit.")
    if name in _OUTSIDE:
        return name
    if name in _OWN_OUTSIDE:
        return _OWN_OUTSIDE[name]
    own = _OWN_LAYER.fullmatch(name)
    if own is not None:
        return name if own[2] in _PARTS else None
    layer = _LAYER.fullmatch(name)
    if layer is None or layer[2] not in _OWN_PARTS:
        return None
    return f"blocks.{int(layer[1])}.{_OWN_PARTS[layer[2]]}.{layer[3]}"


def foreign_name(own: str, *, prefixed: bool) -> str:
    """Return transformers 4's name of one of this package's tensors.

    Args:
        own: name of a parameter of ``VivitModel`` or ``VivitForVideoClassification``.
        prefixed: whether it is written by a classification model, whose backbone has the prefix ``vivit.``.

    Raises:
        KeyMismatchError: a ViViT of transformers has no such tensor.
    """
    foreign = _OUTSIDE.get(own)
    if foreign is None:
        layer = _OWN_LAYER.fullmatch(own)
        if layer is None or layer[2] not in _PARTS:
            raise KeyMismatchError(f"{own!r} has no name in Hugging Face's ViViT, so it cannot be written for it")
        foreign = f"encoder.layer.{layer[1]}.{_PARTS[layer[2]][0]}.{layer[3]}"
    return f"vivit.{foreign}" if prefixed and not own.startswith("classifier.") else foreign


@dataclass(frozen=True)
class LoadPlan:
    """Which tensor of a checkpoint goes into which parameter.

    Args:
        sources: parameter → tensor of the checkpoint.
        fresh: parameters of the pooler or classifier that the checkpoint cannot fill; to be drawn anew.
        dropped: tensors of a pooler or classifier that the model does not have.
        resized: those of ``fresh`` that the checkpoint has in another shape: (parameter, its shape, the model's).
    """

    sources: dict[str, str]
    fresh: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    resized: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()

    def describe(self, origin: str, model: str) -> str:
        """Return the warning about what did not come from the checkpoint, or ``""`` where all did."""
        parts = []
        resized = {name for name, _, _ in self.resized}
        missing = [name for name in self.fresh if name not in resized]
        if missing:
            parts.append(f"{model} is not all in {origin}; newly initialised: {', '.join(missing)}")
        if resized:
            parts.append(f"newly initialised, as {origin} has another shape: {_shapes(self.resized)}")
        if self.dropped:
            parts.append(f"{origin} has tensors that {model} has no place for, not used: {', '.join(self.dropped)}")
        if self.fresh:
            parts.append("train the new ones before their outputs mean anything")
        return "; ".join(parts)


def match_tensors(
    found: Mapping[str, tuple[int, ...]],
    wanted: Mapping[str, tuple[int, ...]],
    *,
    origin: str,
    model: str,
    ignore_mismatched_sizes: bool = False,
) -> LoadPlan:
    """Decide which tensor of a checkpoint fills which parameter; nothing is read.

    Everything must match, but for the two heads: a pooler or classifier that is absent is drawn anew, one that is left
    over is dropped.

    Args:
        found: name → shape of the checkpoint's tensors.
        wanted: name → shape of the model's parameters.
        origin: where the checkpoint is, for messages.
        model: the model's class, for messages.
        ignore_mismatched_sizes: draw a pooler or classifier of another shape anew instead of refusing it.

    Raises:
        KeyMismatchError: tensors are missing, unexpected, there twice, or of another shape; all are listed, by Hugging
            Face's names with this package's in brackets.
    """
    sources, unexpected, twice = _name_tensors(found, wanted)
    dropped = tuple(name for name in unexpected if _is_head(own_name(name) or ""))
    unexpected = [name for name in unexpected if name not in dropped]
    absent = [name for name in wanted if name not in sources]
    missing = [name for name in absent if not _is_head(name)]
    shapes = [
        (own, found[name], tuple(wanted[own]))
        for own, name in sources.items()
        if tuple(found[name]) != tuple(wanted[own])
    ]
    resized = [entry for entry in shapes if ignore_mismatched_sizes and _is_head(entry[0])]
    wrong = [entry for entry in shapes if entry not in resized]
    if missing or unexpected or wrong or twice:
        raise KeyMismatchError(_mismatch(origin, model, missing, unexpected, wrong, twice))
    fresh = {name for name in absent if _is_head(name)} | {name for name, _, _ in resized}
    kept = {own: name for own, name in sources.items() if own not in fresh}
    return LoadPlan(kept, tuple(name for name in wanted if name in fresh), dropped, tuple(resized))


def _name_tensors(
    found: Iterable[str], wanted: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, str], list[str], list[str]]:
    """Sort the checkpoint's tensors into those with a place, without one, and with one that is taken already."""
    sources: dict[str, str] = {}
    unexpected: list[str] = []
    twice: list[str] = []
    for name in found:
        own = name if name in wanted else own_name(name)  # a variant's parts have no other name
        if own is None or own not in wanted:
            unexpected.append(name)
        elif own in sources:
            twice.append(f"{sources[own]} and {name}")
        else:
            sources[own] = name
    return sources, unexpected, twice


def _is_head(own: str) -> bool:
    return own.startswith(_HEADS)


def both_names(own: str) -> str:
    """Return transformers 4's name of a tensor, for messages, and behind it this package's where that is another."""
    try:
        foreign = foreign_name(own, prefixed=False)
    except KeyMismatchError:  # a part that only the factorised variants have
        return own
    return foreign if foreign == own else f"{foreign} [{own}]"


def _with_own(found: str) -> str:
    """Return a checkpoint's name of a tensor, and behind it this package's where there is one."""
    own = own_name(found)
    return found if own is None or own == found.removeprefix("vivit.") else f"{found} [{own}]"


def _shapes(entries: Iterable[tuple[str, tuple[int, ...], tuple[int, ...]]]) -> str:
    return ", ".join(f"{both_names(name)} (checkpoint {tuple(old)}, model {tuple(new)})" for name, old, new in entries)


def _mismatch(
    origin: str,
    model: str,
    missing: list[str],
    unexpected: list[str],
    wrong: list[tuple[str, tuple[int, ...], tuple[int, ...]]],
    twice: list[str],
) -> str:
    lines = [f"{origin} does not fit this {model}:"]
    if missing:
        lines.append(f"  missing ({len(missing)}): {', '.join(map(both_names, missing))}")
    if unexpected:
        lines.append(f"  unexpected ({len(unexpected)}): {', '.join(map(_with_own, unexpected))}")
    if wrong:
        lines.append(f"  other shape ({len(wrong)}): {_shapes(wrong)}")
    if twice:
        lines.append(f"  there twice ({len(twice)}): {', '.join(twice)}")
    names = {name for name, _, _ in wrong}
    if "embed.position" in names:
        lines.append(
            "  The positions belong to one frame count and image size: load with the checkpoint's own and pass "
            "interpolate_pos_encoding=True to forward for another."
        )
    if any(_is_head(name) for name in names):
        lines.append("  For a new head of another size pass ignore_mismatched_sizes=True.")
    return "\n".join(lines)
