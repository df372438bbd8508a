"""The index of a package: a stub beside it that names what is public, each imported when it is first used."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["names_in", "public_index"]

_LINE = re.compile(r"^from (\S+) import (\w+) as \w+$", re.MULTILINE)


def names_in(package: str) -> dict[str, str]:
    """Return the public names of a package: name → the module it comes from."""
    stub = Path(str(sys.modules[package].__file__)).with_suffix(".pyi")
    return {name: module for module, name in _LINE.findall(stub.read_text(encoding="utf-8"))}


def public_index(package: str) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__all__``, ``__getattr__`` and ``__dir__`` of a package, from the stub beside its ``__init__``.

    Args:
        package: its ``__name__``.
    """
    homes = names_in(package)
    names = sorted(homes)
    inside = sys.modules[package].__dict__

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}{_new_home(package, name)}")
        home = homes[name]
        value = import_module(f"{home}.{name}") if home == package else getattr(import_module(home), name)
        inside[name] = value
        return value

    return names, find, lambda: sorted({*inside, *names})


def _new_home(package: str, name: str) -> str:
    """Return where a name is that is asked of the wrong package, as the end of a sentence; empty if nowhere."""
    root = Path(str(sys.modules[package].__file__)).parent
    if "." in package or name.startswith("_") or name in {module.stem for module in root.glob("*.py")}:
        return ""
    for stub in sorted(root.glob("*/__init__.pyi")):
        if any(found == name for _, found in _LINE.findall(stub.read_text(encoding="utf-8"))):
            return f"; it is {package}.{stub.parent.name}.{name}"
    for module in sorted(root.glob("*.py")):
        if re.search(rf"^__all__ = \[[^\]]*\"{name}\"", module.read_text(encoding="utf-8"), re.MULTILINE):
            return f"; it is {package}.{module.stem}.{name}"
    return ""
