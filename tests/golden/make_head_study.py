"""Study the heads of the bundled classifier: which carry motion, which place, which nothing.

Run from the root of a checkout, after the weights have changed::

    python -m tests.golden.make_head_study [--clips 192] [--data data] [--readme README.md]

It writes ``data/reports/planted_heads.json`` (the effects clip by clip, and where each head looks), puts the table into
the README between its marks, and enters the file into the manifest. 36 heads and 192 clips take about 14,000 passes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from tests.golden.make_bundled import HEADS, PLANTED, write_manifest
from vivit_lab.explain import load_pair
from vivit_lab.heads import Taxonomy, head_roles, head_statistics, planted_motion
from vivit_lab.heads.roles import ROLES, HeadRoles
from vivit_lab.interventions import AblationEffects, CausalTemporalScore, EffectTable
from vivit_lab.planted import PlantedConfig
from vivit_lab.planted.clip import planted_batch

SCRIPT = "python -m tests.golden.make_head_study"
BEGIN, END = "<!-- table: heads of the bundled classifier -->\n", "<!-- end of heads -->"
ABLATION = AblationEffects(mode="mean", over="tokens")
DIMS = ("layer", "head")
LEVEL, SPLIT, DIGITS = 3, "test", 4


def study(clips: int, weights: Path) -> dict[str, Any]:
    """Ablate each head on clips and on the same clips standing still, and see where each looks.

    Args:
        clips: how many of the test split.
        weights: the bundled weights, which the study bears the digest of.
    """
    model, _ = load_pair("planted")
    pixels, labels, planted = planted_batch(PlantedConfig(split=SPLIT, level=LEVEL), range(clips))
    with torch.inference_mode():
        right = torch.cat([model(some).logits for some in pixels.split(8)]).argmax(dim=1) == labels
    effects = ABLATION(model, pixels, labels)
    temporal = CausalTemporalScore(ABLATION)(model, pixels, labels)
    shape = (clips, len(model.blocks), model.config.num_attention_heads)
    motion = planted_motion(planted, model.config.grid)
    return {
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "clips": clips,
        "level": LEVEL,
        "split": SPLIT,
        "right": int(right.sum()),
        "unit": effects.what,
        "kinds": [list(row) for row in Taxonomy()(head_statistics(model, pixels, motion=motion)).kinds],
        "effect": effects.effect.reshape(shape).round(decimals=DIGITS).tolist(),
        "temporal": temporal.effect.reshape(shape).round(decimals=DIGITS).tolist(),
    }


def roles_of(stored: dict[str, Any]) -> HeadRoles:
    """Return the roles that the stored effects tell."""
    tables = []
    for name in ("effect", "temporal"):
        effect = torch.tensor(stored[name], dtype=torch.float64)
        labels = {dim: [str(at) for at in range(size)] for dim, size in zip(DIMS, effect.shape[1:], strict=True)}
        tables.append(EffectTable(effect, DIMS, labels, what=stored["unit"]))
    return head_roles(*tables)


def markdown(stored: dict[str, Any]) -> str:
    """Return what the README shows: layers × heads with what the logit loses, and what is found in a sentence each."""
    roles = roles_of(stored)
    rows = roles.rows()
    heads = len(stored["kinds"][0])
    lines = [f"| layer | {' | '.join(f'head {head}' for head in range(heads))} |", f"| ---: |{' --- |' * heads}"]
    for start in range(0, len(rows), heads):
        cells = [f"{row['role']} {_interval(row, 'effect')}" for row in rows[start : start + heads]]
        lines.append(f"| {start // heads} | {' | '.join(cells)} |")
    told = [f"On {stored['clips']} clips, {stored['right']} of them named rightly:"]
    for role in ROLES:
        found = roles.heads(role)
        kinds = Counter(stored["kinds"][layer][head] for layer, head in found)
        looks = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        told.append(f"- *{role}*: {len(found)} of {len(rows)} heads" + f" (by where they look: {looks})" * bool(found))
    first = max(rows, key=lambda row: row["temporal_mean"])
    still = min(rows, key=lambda row: row["still_mean"])
    told += [
        f"- motion most: head {_name(first)} loses {_interval(first, 'effect')}, and standing still "
        f"{_interval(first, 'still')}",
        f"- standing still most: head {_name(still)} loses {_interval(still, 'still')} there",
    ]
    return "\n".join([*lines, "", told[0], "", *told[1:]])


def _name(row: dict[str, Any]) -> str:
    return f"{row['layer']}.{row['head']}"


def _interval(row: dict[str, Any], name: str) -> str:
    """What is lost, mean and interval: the opposite of an effect, which is ablated − intact."""
    mean, low, high = (0.0 - row[f"{name}_{part}"] for part in ("mean", "high", "low"))
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def replaced(readme: str, table: str) -> str:
    """Return the README with the table between its marks."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table}\n{END}{after}"


def main() -> None:
    """Read the command line, compute, and write everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=192)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    parser.add_argument("--only-readme", action="store_true", help="show what is stored, compute nothing")
    options = parser.parse_args()
    if not options.only_readme:
        made = study(options.clips, options.data / PLANTED / "model.safetensors")
        (options.data / HEADS).write_text(json.dumps(made) + "\n", encoding="utf-8")
    stored = json.loads((options.data / HEADS).read_text(encoding="utf-8"))
    text = options.readme.read_text(encoding="utf-8")
    options.readme.write_text(replaced(text, markdown(stored)), encoding="utf-8")
    write_manifest(options.data)


if __name__ == "__main__":
    main()
