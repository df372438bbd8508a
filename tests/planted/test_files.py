"""Movies on disk show the clips, and the truth beside them is the clips' own."""

import csv
import json

import numpy as np
import pytest

from vivit_lab.errors import DamagedFileError, GridError, InputError
from vivit_lab.grid import TokenGrid
from vivit_lab.planted import PlantedConfig, planted_clip, read_planted, write_planted
from vivit_lab.planted.scene import LABELS
from vivit_lab.video import read_clip

CONFIG = PlantedConfig(frames=10, size=33, split="test", seed=4)
EVEN = PlantedConfig(frames=8, size=32, level=1, rule="odd")


@pytest.mark.parametrize("exact", [False, True])
def test_what_is_written_reads_back(tmp_path, exact):
    manifest = write_planted(tmp_path / "new" / "set", CONFIG, 3, start=5, fps=12.5, exact=exact)
    assert manifest == tmp_path / "new" / "set" / "manifest.json"
    found = read_planted(manifest.parent)
    assert [entry.index for entry in found] == [5, 6, 7]
    for entry in found:
        clip = planted_clip(CONFIG, entry.index)
        assert (entry.config, entry.counterfactual) == (CONFIG, None)
        assert (entry.label, entry.label_name, entry.window) == (clip.label, clip.label_name, clip.window)
        assert entry.path == manifest.parent / "clips" / f"{entry.index:05d}.mp4"
        np.testing.assert_array_equal(entry.track, clip.track)
        np.testing.assert_array_equal(entry.mask, clip.mask)
        assert entry.redraw().scene == clip.scene
        _check_movie(entry.path, clip, exact)


def test_other_tools_find_paths_and_labels_in_the_csv(tmp_path):
    manifest = write_planted(tmp_path, CONFIG, 2, start=6, counterfactuals=["reverse"])
    lines = list(csv.DictReader((tmp_path / "manifest.csv").read_text(encoding="utf-8").splitlines()))
    assert list(lines[0])[:3] == ["path", "label", "label_name"]
    content = json.loads(manifest.read_text(encoding="utf-8"))
    assert PlantedConfig(**content["config"]) == CONFIG
    assert content["labels"] == list(LABELS)
    for line, row in zip(lines, content["clips"], strict=True):
        assert (tmp_path / line["path"]).is_file()
        clip = planted_clip(CONFIG, int(line["index"]))
        clip = clip.counterfactual(line["counterfactual"]) if line["counterfactual"] else clip
        assert (int(line["label"]), line["label_name"]) == (clip.label, clip.label_name)
        assert (int(line["window_start"]), int(line["window_stop"])) == clip.window == tuple(row["window"])
        assert (line["level"], line["split"], line["rule"], line["seed"]) == ("3", "test", "outlined", "4")
        assert (line["path"], line["index"]) == (row["path"], str(row["index"]))
        assert row["target"]["direction"] == row["label_name"] == LABELS[row["label"]]
    # what is in the folder is what the manifest names
    assert sorted(line["path"] for line in lines) == sorted(f"clips/{p.name}" for p in (tmp_path / "clips").iterdir())


def test_counterfactuals_lie_beside_their_clips(tmp_path):
    write_planted(tmp_path, EVEN, 2, exact=True, counterfactuals=("window", "reverse", "window"))
    found = read_planted(tmp_path)
    assert [(entry.index, entry.counterfactual) for entry in found] == [
        (index, kind) for index in range(2) for kind in (None, "window", "reverse")
    ]
    for entry in found:
        clip = planted_clip(EVEN, entry.index)
        clip = clip if entry.counterfactual is None else clip.counterfactual(entry.counterfactual)
        assert entry.redraw().scene == clip.scene
        assert (entry.label, entry.window) == (clip.label, clip.window)
        np.testing.assert_array_equal(entry.mask, clip.mask)
        np.testing.assert_array_equal(read_clip(entry.path).frames, clip.frames)


def test_truth_in_tokens_is_the_clips_own(tmp_path):
    write_planted(tmp_path, EVEN, 3)
    grid = TokenGrid.from_video(8, 32, 32, (2, 8, 8))
    for entry in read_planted(tmp_path):
        clip = planted_clip(EVEN, entry.index)
        np.testing.assert_array_equal(entry.token_mask(grid), clip.token_mask(grid))
        np.testing.assert_array_equal(entry.token_window(grid), clip.token_window(grid))
        assert entry.token_mask(grid).sum() > 0
    other = TokenGrid.from_video(10, 32, 32, (2, 8, 8))
    with pytest.raises(GridError, match=r"covers 10 frames of \(32, 32\), the clip has 8 of \(32, 32\); make it by"):
        entry.token_mask(other)
    with pytest.raises(GridError, match=r"covers 10 frames, the clip has 8; make it by"):
        entry.token_window(other)


def test_movies_hardly_show_the_frames_before(tmp_path):
    # behind a moving shape an encoder leaves traces of where it was, which tell the direction in a single frame
    config = PlantedConfig(level=0)
    write_planted(tmp_path, config, 12)
    behind, ahead = [], []
    for entry in read_planted(tmp_path):
        clip = entry.redraw()
        error = np.abs(read_clip(entry.path).frames.astype(float) - clip.frames).mean(-1)
        for frame in range(entry.window[0] + 2, entry.window[1] - 1):
            now, before, after = clip.presence[frame], clip.presence[frame - 1], clip.presence[frame + 1]
            behind.append(error[frame][before & ~now].mean())
            ahead.append(error[frame][after & ~now].mean())
    assert abs(np.mean(behind) - np.mean(ahead)) < 0.4  # at crf 18 it is twice that


def _check_movie(path, clip, exact):
    movie = read_clip(path)
    assert len(movie) == 10
    np.testing.assert_allclose(movie.seconds, np.arange(10) / 12.5, atol=1e-4)
    shown = movie.frames[:, : clip.frames.shape[1], : clip.frames.shape[2]]  # an odd size gets a row and a column more
    if exact:
        np.testing.assert_array_equal(shown, clip.frames)
    else:
        # colours are stored at half resolution; brightness is nearly exact
        assert np.abs(shown.astype(float) - clip.frames).mean() < 10
        assert np.abs((shown.astype(float) - clip.frames) @ [0.2126, 0.7152, 0.0722]).mean() < 2.5


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (0, {}, "count must be a positive integer, got 0"),
        (1, {"start": -1}, "start must be an integer from 0, got -1"),
        (1, {"fps": 0}, r"fps=0"),
        (1, {"fps": float("nan")}, "fps must .*, got nan"),
        (1, {"fps": float("inf")}, "fps must .*, got inf"),
        (1, {"counterfactuals": ["mirror"]}, r"must be a list of reverse, window, got \['mirror'\]"),
        (1, {"counterfactuals": "reverse"}, r"must be a list of reverse, window, got 'reverse'"),
    ],
)
def test_counts_rates_and_kinds_that_cannot_be_are_refused(tmp_path, count, options, message):
    with pytest.raises(InputError, match=message):
        write_planted(tmp_path, CONFIG, count, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["manifest.json", "manifest.csv"])
def test_an_earlier_set_is_not_overwritten(tmp_path, name):
    (tmp_path / name).write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match=rf"{name} exists already; choose an empty directory"):
        write_planted(tmp_path, CONFIG, 2)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("name", ["manifest.json", "masks.npz"])
def test_directories_without_manifest_or_masks_are_refused(tmp_path, name):
    write_planted(tmp_path, EVEN, 1)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=rf"there is no .*{name}; wanted a directory that write_planted wrote to the"):
        read_planted(tmp_path)


def test_sets_that_lack_a_movie_are_refused(tmp_path):
    write_planted(tmp_path, EVEN, 3)
    (tmp_path / "clips" / "00001.mp4").unlink()
    with pytest.raises(InputError, match=r"1 of 3 movies in .* have no file or mask, such as clips/00001\.mp4"):
        read_planted(tmp_path)


def test_sets_of_other_classes_are_refused(tmp_path):
    manifest = write_planted(tmp_path, EVEN, 1)
    manifest.write_text(manifest.read_text(encoding="utf-8").replace('"right",', '"east",', 1), encoding="utf-8")
    with pytest.raises(InputError, match=r"the classes in .*manifest\.json are \['east', .* wanted \['right', "):
        read_planted(tmp_path)


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[: len(content) // 2]])
@pytest.mark.parametrize("name", ["manifest.json", "masks.npz"])
def test_a_damaged_set_is_named(name, damage, tmp_path):
    write_planted(tmp_path, PlantedConfig(frames=8, size=48), 1, progress=False)
    path = tmp_path / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DamagedFileError, match=rf"{name} is damaged .* write the set again into an empty directory"):
        read_planted(tmp_path)
