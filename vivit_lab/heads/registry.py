"""The methods of importance by name, for the command line."""

from __future__ import annotations

from typing import Any

from vivit_lab.errors import InputError
from vivit_lab.heads.ablation import SingleHeadAblation
from vivit_lab.heads.confidence import ConfidenceImportance
from vivit_lab.heads.gates import L0Gates
from vivit_lab.heads.gradient import FisherImportance, GradientActivation, MichelImportance

__all__ = ["IMPORTANCES", "make_importance"]

#: Name → method with its defaults.
IMPORTANCES: dict[str, Any] = {
    "michel": MichelImportance(),
    "fisher": FisherImportance(),
    "confidence": ConfidenceImportance(),
    "gradient_activation": GradientActivation(),
    "ablation": SingleHeadAblation(),
    "ablation_zero": SingleHeadAblation("zero"),
    "ablation_resample": SingleHeadAblation("resample"),
    "l0": L0Gates(),
}


def make_importance(name: str) -> Any:
    """Return a method of importance.

    Args:
        name: one of ``IMPORTANCES``, dashes or underscores.

    Raises:
        InputError: there is no such method.
    """
    found = IMPORTANCES.get(name.strip().lower().replace("-", "_"))
    if found is None:
        raise InputError(f"there is no importance {name!r}; choose one of {', '.join(IMPORTANCES)}")
    return found
