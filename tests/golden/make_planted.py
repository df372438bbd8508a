"""Put a run of the planted classifier's recipe into ``data/``, with what it can and cannot on held-out clips.

Run it from the root of a checkout::

    python -m tests.golden.make_planted RUN [--data data]

It copies the model, measures ``report.json`` (some minutes on two cores) and writes the table of the model card anew;
the rest of the card is written by hand. Then ``python -m tests.golden.make_bundled --only-manifest`` enters it all.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

import vivit_lab as lab
from tests.golden.make_bundled import PLANTED
from vivit_lab.planted import planted_report
from vivit_lab.processing import VivitImageProcessor

COUNT, EASIER = 1024, 256
ROWS = {
    "accuracy": "accuracy, level 3",
    "single_frame": "accuracy from a single frame, repeated (chance 0.125)",
    "shuffled": "accuracy with frames shuffled",
    "reversal_flip": "target's motion reversed: the class flips to its opposite",
    "reversed_accuracy": "accuracy on clips with the target's motion reversed",
    "backwards_flip": "whole clip played backwards: the class flips to its opposite",
    "moved_window": "accuracy with the motion moved to another window",
    "moved_window_same": "motion moved to another window: the class stays",
    "without_target": "names the class with the target left out (chance 0.125)",
    "decoy": "names a decoy's direction instead",
}


def measure(folder: Path) -> dict[str, Any]:
    """Return what the model makes of the test split: all rates on level 3, and accuracies on the easier levels."""
    model = lab.VivitForVideoClassification.from_pretrained(folder).eval()
    report = planted_report(model, lab.planted.PlantedConfig(split="test"), count=COUNT)
    report["levels"] = {
        str(level): planted_report(model, lab.planted.PlantedConfig(split="test", level=level), EASIER)["rates"][
            "accuracy"
        ]
        for level in range(3)
    }
    return report


def table(report: dict[str, Any]) -> str:
    """Return the card's table of a report."""
    easier = [(f"accuracy, level {level}", rate) for level, rate in report["levels"].items()]
    rows = [*easier, *((text, report["rates"][name]) for name, text in ROWS.items())]
    lines = [f"| {text} | {r['rate']:.3f} [{r['low']:.3f}, {r['high']:.3f}] | {r['count']} |" for text, r in rows]
    return "\n".join(["| | rate | clips |", "|---|---:|---:|", *lines])


def main() -> None:
    """Read the command line and make everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, default=Path("data"))
    options = parser.parse_args()
    folder = options.data / PLANTED
    for name in ("config.json", "model.safetensors", "training.json"):
        shutil.copyfile(options.run / name, folder / name)
    VivitImageProcessor.from_pretrained(options.run).save_pretrained(folder)
    report = measure(folder)
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8")
    marked = re.compile(r"(<!-- table: report -->\n).*?(<!-- end of table -->)", re.DOTALL)
    card.write_text(marked.sub(lambda found: f"{found[1]}{table(report)}\n{found[2]}", text), encoding="utf-8")


if __name__ == "__main__":
    main()
