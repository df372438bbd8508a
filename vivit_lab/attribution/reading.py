"""What the attention methods share: where they read from, which tokens they explain, how heads are fused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from vivit_lab.attribution.base import AttributionMap, is_fake
from vivit_lab.errors import InputError
from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
from vivit_lab.records.attention import AttentionRecord, record_attention
from vivit_lab.records.targets import TargetLike
from vivit_lab.video.clip import Clip

__all__ = [
    "HEAD_FUSIONS",
    "check_fusion",
    "fuse_heads",
    "map_of",
    "parameters_of",
    "query_tokens",
    "record_of",
    "refuse_target",
    "require_joint_attention",
    "require_one_sequence",
]

HEAD_FUSIONS = ("mean", "max", "min")


def check_fusion(head_fusion: str) -> None:
    """Refuse a head fusion that is not known.

    Raises:
        InputError: it is not one of ``HEAD_FUSIONS``.
    """
    if head_fusion not in HEAD_FUSIONS:
        raise InputError(f"head_fusion={head_fusion!r} is not known; choose one of {', '.join(HEAD_FUSIONS)}")


def fuse_heads(pattern: Tensor, how: str, dim: int) -> Tensor:
    """Reduce the head axis ``dim`` of a pattern by its mean, maximum or minimum."""
    if how == "mean":
        return pattern.mean(dim=dim)
    return pattern.amax(dim=dim) if how == "max" else pattern.amin(dim=dim)


def refuse_target(method: Any, target: TargetLike) -> None:
    """Refuse a target of a class-agnostic method, which would ignore it.

    Raises:
        InputError: it is not None.
    """
    if target is not None:
        raise InputError(
            f"{type(method).__name__} is class-agnostic: its map does not depend on the class, and target={target!r} "
            "would be ignored. Leave it out (queries=… chooses tokens), or use a class-specific method, e.g. "
            "CheferRelevance"
        )


def require_joint_attention(method: Any, model: VivitModel | VivitForVideoClassification) -> None:
    """Refuse a model for a method whose formula is about the CLS row of one pattern over all tokens.

    Raises:
        InputError: the model is factorised, or has no CLS; names methods that compose its patterns.
    """
    config = model.config
    if config.variant != "spacetime" or not config.grid.cls:
        has = config.variant if config.variant != "spacetime" else "joint, but it has no CLS token"
        raise InputError(
            f"{type(method).__name__} needs joint attention with a CLS token, and this model's is {has}: use "
            "CheferRelevance or GradientRollout, or a method of the pixels alone such as IntegratedGradients"
        )


def require_one_sequence(method: Any, config: Any) -> None:
    """Refuse a factorised encoder for a method that adds up layers token by token.

    Args:
        method: a method or a function, whose name the message bears.
        config: a ``VivitConfig``, or the record of a model.

    Raises:
        InputError: the model's layers do not all read the same tokens.
    """
    if getattr(config, "variant", None) == "factorized_encoder" or getattr(config, "has_frames", False):
        raise InputError(
            f"{getattr(method, '__name__', type(method).__name__)} needs layers that all read the same tokens, and a "
            "factorized_encoder has two "
            "kinds: use AttentionRollout, GradientRollout or CheferRelevance, which compose them"
        )


def parameters_of(method: Any) -> dict[str, Any]:
    """Return the fields of a method, a dataclass, as they come back from a file: a tuple as a list."""
    return json.loads(json.dumps(asdict(method)))


def record_of(
    model: VivitModel | VivitForVideoClassification | AttentionRecord,
    pixel_values: Tensor | Clip | Sequence[Clip] | None,
    layers: Sequence[int] | None = None,
    **forward: Any,
) -> AttentionRecord:
    """Return the record given, or take one of the ``layers`` that are needed.

    Args:
        model: a ViViT, or a record.
        pixel_values: with a model, the clips.
        layers: which layers a new record keeps.
        **forward: ``head_mask`` and ``interpolate_pos_encoding`` of a new record.

    Raises:
        InputError: a record came with what belongs to a forward pass, or a model without clips.
    """
    if isinstance(model, AttentionRecord):
        given = [name for name, value in forward.items() if value is not None and value is not False]
        if pixel_values is not None or given:
            raise InputError(
                "a record holds its own clips, head mask and grid: pass either (model, pixel_values, …) or (record), "
                "not both"
            )
        return model
    if pixel_values is None:
        raise InputError("pixel_values is missing: pass (model, pixel_values), or the record of a forward pass")
    return record_attention(model, pixel_values, layers=layers, **forward)


def query_tokens(record: AttentionRecord, queries: int | Sequence[int] | Tensor | None) -> tuple[list[int], str]:
    """Return the sequence indices that are explained, and their name.

    Without ``queries`` that is CLS, or every token where the model averages over tokens instead.

    Raises:
        InputError: a query is no token of the grid.
    """
    if queries is None:
        everything = range(record.grid.num_tokens)
        return record.token_indices(
            [0] if record.grid.cls else everything
        ), "CLS" if record.grid.cls else "mean of all tokens"
    tokens = record.token_indices(queries)
    names = []
    for token in tokens[:8]:
        place = record.grid.position(token)
        names.append("CLS" if place is None else "(t={}, y={}, x={})".format(*place))
    more = f" and {len(tokens) - 8} more" if len(tokens) > 8 else ""
    return tokens, f"{'token' if len(tokens) == 1 else 'mean of tokens'} {', '.join(names)}{more}"


def map_of(
    record: AttentionRecord,
    relevance: Tensor,
    method: Any,
    target: str | list[str],
    scale: str,
    *,
    signed: bool = False,
) -> AttributionMap:
    """Return the map of a relevance (batch, token) that a method, a dataclass, read from a record.

    Args:
        record: what it was read from.
        relevance: (batch, token).
        method: whose name and fields the map bears.
        target: what was explained, in words: one text for all clips, or one for each.
        scale: see ``AttributionMap``.
        signed: see ``AttributionMap``.
    """
    share = relevance.select(1, 0).tolist() if record.grid.cls and not is_fake(relevance) else None
    return AttributionMap(
        record.grid.unflatten(relevance),
        record.grid,
        method=type(method).__name__,
        parameters=parameters_of(method),
        scale=scale,
        signed=signed,
        target=target if isinstance(target, str) else None,
        targets=None if isinstance(target, str) else target,
        model_id=record.model_id,
        frame_indices=record.frame_indices,
        sources=record.sources,
        cls_share=share,
        provenance=dict(record.provenance),
    )
