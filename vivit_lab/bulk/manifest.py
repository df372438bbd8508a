"""The manifest of a run: its clips, each with an id that tells segments of one video apart."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from vivit_lab.bulk.rows import clip_id
from vivit_lab.clips.listing import ClipList, list_clips
from vivit_lab.errors import InputError

__all__ = ["MANIFEST_SCHEMA", "manifest_of"]

MANIFEST_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("path", pa.string()),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("label", pa.string()),
    ]
)
"""The columns of a run's manifest."""


def manifest_of(
    videos: str | os.PathLike[str] | Sequence[Any] | ClipList,
    classes: Mapping[int, str],
    on_found: Callable[[ClipList], Any] | None = None,
) -> pa.Table:
    """Return the manifest of the clips that a name stands for.

    Args:
        videos: see ``vivit_lab.list_clips``.
        classes: index → name of the model's classes; empty where it has none.
        on_found: is called with the clips that were found, before anything is made of them.

    Returns:
        A table of ``MANIFEST_SCHEMA``.

    Raises:
        InputError: there are no clips, one is there twice, or a label is no class of the model.
    """
    if not isinstance(videos, ClipList):
        source: Any = list(videos) if isinstance(videos, (list, tuple)) else videos
        videos = list_clips(source)
    found = videos.for_classes(classes)
    if on_found is not None:
        on_found(found)
    table = found.table
    segments = zip(*(table[name].to_pylist() for name in ("path", "start", "end")), strict=True)
    ids = [clip_id(*segment) for segment in segments]
    if len(set(ids)) < len(ids):
        worst, count = Counter(ids).most_common(1)[0]
        path = table["path"][ids.index(worst)].as_py()
        raise InputError(
            f"{videos.name} has {path} (the same segment of it) {count} times; a clip can be in a run once"
        )
    columns = {name: table[name] for name in MANIFEST_SCHEMA.names if name != "clip_id"}
    return pa.table({"clip_id": ids, **columns}).cast(MANIFEST_SCHEMA)
