"""Each kind of video is made once for all tests that read it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.video.make_video import VARIANTS, Variant


@pytest.fixture(scope="session")
def video_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Variant], Path]:
    """Return the path of a variant's file, which no test may change."""
    directory = tmp_path_factory.mktemp("videos")
    made: dict[str, Path] = {}

    def make(kind: Variant) -> Path:
        if kind.name not in made:
            made[kind.name] = kind.make(directory)
        return made[kind.name]

    return make


@pytest.fixture(scope="session")
def video(video_of: Callable[[Variant], Path]) -> Callable[[str], Path]:
    """Return the path of the file of that name among VARIANTS, which no test may change."""
    kinds = {kind.name: kind for kind in VARIANTS}
    return lambda name: video_of(kinds[name])
