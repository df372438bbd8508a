"""Format, lint, types and layers: the same checks on a laptop and in CI."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

CHECKS = {
    "format": ["ruff", "format", "--check", "."],
    "lint": ["ruff", "check", "."],
    "types": ["pyright"],
    "layers": ["lint-imports", "--no-cache"],
}


_PEERS = re.compile(
    r"^\s*(?:import (?:transformers|huggingface_hub)\b|from (?:transformers|tests\.peers|tests\S+image_peers)\b"
    r"|from tests\S+ import .*\b(?:pair|peer_name|PeerProcessor)\b)",
    re.MULTILINE,
)


def test_what_compares_with_a_peer_is_marked():
    """So that it runs with both majors of the peer; see .ci/run."""
    texts = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    comparing = [path for path, text in texts.items() if _PEERS.search(text) and path.parent.name != "benchmarks"]
    assert len(comparing) > 10
    assert not [path.name for path in comparing if "pytest.mark.peer" not in texts[path]]


@pytest.mark.parametrize("command", CHECKS.values(), ids=CHECKS)
def test_the_tree_is_clean(command):
    tool = BIN / command[0]
    if not tool.exists():
        pytest.skip(f"{command[0]} is not installed; it comes with the extra [dev]")
    done = subprocess.run([str(tool), *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
