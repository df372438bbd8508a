"""Fixtures that every test may use."""

import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from vivit_lab.video import MovieWriter

try:
    import torch
except ImportError:  # the tests of videos run where numpy, av, pytest and hypothesis alone are installed
    torch = None

ROOT = Path(__file__).resolve().parent.parent
settings.register_profile("untimed", deadline=None)  # the machine may be busy
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--benchmark", action="store_true", help="run the benchmarks (minutes; wants a quiet machine)")


def pytest_configure(config: pytest.Config) -> None:
    """Compute in one thread, in this process and those it starts: for tiny tensors, others wait more than they work.

    ``OMP_NUM_THREADS`` sets another number, and benchmarks keep PyTorch's own.
    """
    if torch is not None and not config.getoption("--benchmark"):
        torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--benchmark"):
        return
    for item in items:
        if "benchmark" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="a benchmark; run with --benchmark"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many tests compared with which versions of the peers."""
    counts = {
        outcome: sum("peer" in getattr(report, "keywords", ()) for report in terminalreporter.stats.get(outcome, ()))
        for outcome in ("passed", "failed", "error", "skipped")
    }
    if sum(counts.values()):
        told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
        versions = ", ".join(f"{name} {version(name)}" for name in ("transformers", "huggingface_hub"))
        terminalreporter.write_line(f"peers: {told} with {versions} on Python {platform.python_version()}")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    if torch is not None:
        torch.manual_seed(0)


@pytest.fixture
def shared_file() -> Callable[[str], Path]:
    """Path of a development file that the repository does not carry; the test skips where it is not there."""

    def find(name: str) -> Path:
        path = ROOT.parent / "shared" / "data" / name
        if not path.exists():
            pytest.skip(f"development data {name} is not beside the checkout")
        return path

    return find


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a tiny classifier and its processor."""
    from tests.model.tiny import TINY
    from vivit_lab.families import VivitForVideoClassification
    from vivit_lab.model import VivitConfig
    from vivit_lab.processing import VivitImageProcessor

    directory = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    VivitForVideoClassification(VivitConfig(**TINY, num_labels=5)).save_pretrained(directory)
    processor = VivitImageProcessor.trained_range(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of noise at ten frames a second, 48×80."""
    path = tmp_path_factory.mktemp("video") / "moving.mp4"
    rng = np.random.default_rng(0)
    with MovieWriter(path, 48, 80, end=2.0) as movie:
        for index in range(20):
            movie.write(rng.integers(0, 255, (48, 80, 3), dtype=np.uint8), index / 10)
    return path
