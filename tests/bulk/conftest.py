"""One run that many tests read."""

import pytest

from tests.bulk.tiny_bulk import tiny_job, tiny_run, write_bad, write_clips


@pytest.fixture(scope="session")
def movies(tmp_path_factory):
    """Twenty movies of noise."""
    return write_clips(tmp_path_factory.mktemp("movies"), 20)


@pytest.fixture(scope="session")
def table(movies, tmp_path_factory):
    """A CSV of the movies with labels, of which one has a segment, and five files that cannot be read."""
    folder = tmp_path_factory.mktemp("table")
    bad = write_bad(folder, movies[0])
    lines = [f"{path},{number % 5},," for number, path in enumerate(movies)]
    lines[3] = f"{movies[3]},3,0.3,0.9"
    path = folder / "clips.csv"
    path.write_text("\n".join(["path,label,start,end", *lines, *(f"{one.name},0,," for one in bad)]) + "\n")
    return path


@pytest.fixture(scope="session")
def finished(checkpoint, table, tmp_path_factory):
    """The results of a run over all of them, with two methods."""
    return tiny_run(checkpoint, table, tmp_path_factory.mktemp("runs") / "run", methods=("rollout", "chefer"))


@pytest.fixture
def job(checkpoint):
    return tiny_job(checkpoint)
