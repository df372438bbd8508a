"""Make the stored numbers and files anew: ``python -m tests.unchanged.make OUT``.

``--add`` keeps every number that is stored and adds what has none: a new method, or a new part of a result. Numbers
that are there are made again only on purpose, by making all of them into an empty folder.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tests.unchanged import calls, numbers

STORED = Path(__file__).parent / "stored"


def groups(bench: calls.Bench) -> Iterator[tuple[str, Any]]:
    """Every group and its values."""
    for name, make in calls.GROUPS.items():
        yield name, make(bench)
    for method in calls.methods():
        yield f"maps {method}", calls.maps(bench, method)
    with tempfile.TemporaryDirectory() as folder:
        yield "bulk", calls.bulk(bench, Path(folder) / "run")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", default=STORED)
    parser.add_argument("--add", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    file = asked.out / "numbers.npz"
    if file.exists() != asked.add:
        parser.error(f"{file} is {'there: give another folder, or --add' if file.exists() else 'not there'}")
    if not asked.add:
        calls.write_models(asked.out)
        calls.write_clips(asked.out)
        calls.write_saved(calls.Bench(asked.out))
    old = numbers.read(file) if asked.add else {}
    made = dict(old)
    for name, values in groups(calls.Bench(asked.out)):
        here = old.get(name, {})
        made[name] = here | {key: numbers.kept(value) for key, value in values if key not in here}
        print(f"{name}: {len(made[name])} values, {len(made[name]) - len(here)} new")
    numbers.write(file, made)


if __name__ == "__main__":
    main()
