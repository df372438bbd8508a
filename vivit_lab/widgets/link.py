"""Several views that move together."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import traitlets

from vivit_lab.errors import InputError

if TYPE_CHECKING:
    from vivit_lab.widgets.base import LabWidget

__all__ = ["LINKED", "link_views"]

LINKED = ("frame", "layer", "head", "query", "preview")
"""What views share unless told otherwise."""


def link_views(*views: LabWidget, traits: tuple[str, ...] = LINKED) -> list[traitlets.link]:
    """Let views share their frame, layer, head and query; all take the values of the first.

    With ``query`` goes whether it is locked, where views know that (``ClipExplorer.locked``). Frame and layer are also
    shared inside the browser where a view can (``ClipExplorer``), so that all views follow while one plays. Traits are
    ordinary ones: ``traitlets.link`` and ``ipywidgets.jslink`` link any of them to other widgets.

    Args:
        *views: two or more widgets that have the traits.
        traits: which are shared.

    Returns:
        The links; ``unlink()`` each to part them.

    Raises:
        InputError: there are fewer than two views, one lacks a trait, or a value of the first does not fit another (the
            models differ in layers or tokens), or explorers that share a query begin with different ones.

    Example:
        >>> left, right = ClipExplorer(model, clip), ClipExplorer(model, clip, direction="attended_by")
        >>> links = link_views(left, right)
    """
    if len(views) < 2:
        raise InputError(f"wanted two or more views to link, got {len(views)}")
    for view in views:
        missing = [name for name in traits if not view.has_trait(name)]
        if missing:
            raise InputError(f"{type(view).__name__} has no trait {missing[0]!r}, so it cannot be linked by it")
    homes = {view.trait_values()["_home"] for view in views if view.has_trait("_home")}
    if "query" in traits and len(homes) > 1:
        raise InputError(
            "the views cannot share query: with nothing locked their models read different tokens (CLS, or the mean of "
            "all); link them by traits=('frame', 'layer', 'head')"
        )
    links = []
    locking = [view for view in views if view.has_trait("locked")] if "query" in traits else []
    for name, sharing in [*((name, views) for name in traits if name != "locked"), ("locked", locking)]:
        try:
            links += [traitlets.link((sharing[0], name), (view, name)) for view in sharing[1:]]
        except traitlets.TraitError as error:
            for link in links:
                link.unlink()
            raise InputError(f"the views cannot share {name}: {error}") from error
    group = uuid.uuid4().hex if {"frame", "layer"} <= set(traits) else ""
    for view in views:
        if group and view.has_trait("_group"):
            view.set_trait("_group", group)
    return links
