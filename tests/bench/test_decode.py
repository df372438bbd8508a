import numpy as np
import pytest

from vivit_lab.bench import bench_decode
from vivit_lab.bench.decode import decode_from_start, write_test_movie
from vivit_lab.errors import InputError
from vivit_lab.video import probe, read_frames


@pytest.fixture(scope="module")
def movie(tmp_path_factory):
    return write_test_movie(tmp_path_factory.mktemp("bench") / "m.mp4", 70, (48, 64), progress=False)


def test_the_movie_is_what_it_says(movie):
    info = probe(movie)
    assert (info.frames, info.height, info.width) == (70, 48, 64)
    frames = read_frames(movie, [0, 35, 69]).frames.astype(int)
    assert abs(frames[0] - frames[1]).mean() > 5  # it moves


def test_from_the_start_gives_the_frames_asked_for(movie):
    wanted = np.array([3, 3, 40, 69])
    assert np.array_equal(decode_from_start(movie, wanted), read_frames(movie, wanted).frames)


def test_windows_of_a_video_are_compared(movie):
    table = bench_decode(movie, num_frames=8, stride=3, repeats=2, progress=False)
    assert [(row["window"], row["start"]) for row in table.rows] == [("beginning", 0), ("middle", 24), ("end", 48)]
    for row in table.rows:
        assert row["same_frames"] is True
        assert row["relative"] == pytest.approx(row["read_clip_per_second"] / row["from_start_per_second"])
    assert "of 70 of 48×64 h264" in table.markdown()


def test_a_video_that_is_too_short_is_refused(movie):
    with pytest.raises(InputError, match=r"has 70 frames, fewer than a window of 40 with stride 2; give fewer frames"):
        bench_decode(movie, num_frames=40, stride=2)
