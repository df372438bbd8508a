from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.videos import CLASSES, write_broken, write_folders, write_video
from vivit_lab.errors import InputError
from vivit_lab.training import LabelledClip, find_clips
from vivit_lab.training.data import class_names, read_window, readable_clips, split_clips, stretch_of
from vivit_lab.video import load_index, read_clip


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def test_class_folders(tmp_path):
    for name in ("b/2.mp4", "b/deep/1.MKV", "a/1.mp4", "a/notes.txt", ".cache/x/3.mp4"):
        touch(tmp_path / name)
    found = find_clips(tmp_path)
    assert [(clip.path.relative_to(tmp_path).as_posix(), clip.label) for clip in found] == [
        ("a/1.mp4", "a"),
        ("b/2.mp4", "b"),
        ("b/deep/1.MKV", "b"),
    ]
    assert {clip.split for clip in found} == {None}


def test_class_folders_in_folders_of_splits(tmp_path):
    for name in ("train/a/1.mp4", "val/a/2.mp4", "test/b/3.mp4"):
        touch(tmp_path / name)
    splits = {clip.path.name: clip.split for clip in find_clips(tmp_path)}
    assert splits == {"1.mp4": "train", "2.mp4": "validation", "3.mp4": "test"}


def test_a_table(tmp_path):
    table = tmp_path / "list.csv"
    table.write_text("path,label,split,start,end\nv/1.mp4, x ,train,0.5,2\nv/2.mp4,y,val,,\nv/2.mp4,y,,1,\n")
    assert find_clips(table) == [
        LabelledClip(tmp_path / "v/1.mp4", "x", "train", 0.5, 2.0),
        LabelledClip(tmp_path / "v/2.mp4", "y", "validation"),
        LabelledClip(tmp_path / "v/2.mp4", "y", None, 1.0),
    ]
    table.rename(tmp_path / "manifest.csv")
    assert len(find_clips(tmp_path)) == 3


def test_a_name_goes_before_a_number(tmp_path):
    (tmp_path / "manifest.csv").write_text("path,label,label_name\n1.mp4,4,left\n")
    assert find_clips(tmp_path)[0].label == "left"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"wants a header with the column path"),
        ("path,class\n1.mp4,x\n", r"has no label for 1 of 1 clips, such as .*1\.mp4: wanted class folders"),
        ("path,label\n,x\n", r"row 1 of the clips has no path"),
        ("path,label\n1.mp4,x\n2.mp4,\n", r"has no label for 1 of 2 clips, such as .*2\.mp4"),
        ("path,label,split\n1.mp4,x,odd\n", r"split must be train, validation or test, got 'odd'"),
        ("path,label,start\n1.mp4,x,soon\n", r"the column start wants seconds"),
        ("path,label,start,end\n1.mp4,x,2,1\n", r"1 segments that end before they begin"),
        ("path,label,start\n1.mp4,x,-1\n", r"1 segments that begin before 0 s"),
    ],
)
def test_wrong_tables_are_refused(tmp_path, text, message):
    table = tmp_path / "t.csv"
    table.write_text(text)
    with pytest.raises(InputError, match=message):
        find_clips(table)


def test_what_holds_no_clips_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"wanted a folder of videos or of class folders"):
        find_clips(tmp_path / "nowhere")
    touch(tmp_path / "1.mp4")
    with pytest.raises(InputError, match=r"has no label for 1 of 1 clips, such as .*1\.mp4: wanted class folders"):
        find_clips(tmp_path)


def test_classes_are_in_order_by_number_or_name():
    def names(*labels):
        return class_names([LabelledClip(None, label) for label in labels])

    assert names("b", "a", "b") == ["a", "b"]
    assert names("10", "9", "2") == ["2", "9", "10"]
    assert names("10", "9", "x") == ["10", "9", "x"]


COUNTS = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(1, 30), min_size=1, max_size=5)


@given(COUNTS, st.floats(0.01, 0.9), st.integers(0, 5))
def test_a_split_takes_its_share_of_each_class(counts, share, seed):
    clips = [LabelledClip(f"{label}/{number}", label) for label, count in counts.items() for number in range(count)]
    train, held = split_clips(clips, share, seed)
    assert sorted(map(id, train + held)) == sorted(map(id, clips))
    assert (train, held) == split_clips(clips, share, seed)
    taken = Counter(clip.label for clip in held)
    for label, count in counts.items():
        assert abs(taken[label] - share * count) <= 1
        assert taken[label] >= (count > 1)
        assert taken[label] < count
    rest = [clip for clip in clips if clip.label == next(iter(counts))]
    assert split_clips(rest, share, seed)[1] == [clip for clip in held if clip.label == rest[0].label]


def test_stretches_of_one_video_stay_together():
    clips = [LabelledClip(video, "a", None, start, start + 1.0) for video in range(6) for start in (0.0, 1.0, 2.0)]
    clips += [LabelledClip(9, "b", None, start) for start in (0.0, 1.0)]
    train, held = split_clips(clips, 0.4)
    assert {clip.path for clip in train} & {clip.path for clip in held} == set()
    assert len(held) == 3 * 2  # two of six videos; the only one of class b is trained on


def test_a_video_of_two_classes_is_on_one_side_and_each_class_is_trained_on():
    both = [
        LabelledClip(video, name, None, start) for video in range(10) for start, name in ((0.0, "open"), (1.0, "shut"))
    ]
    train, held = split_clips(both, 0.2)
    assert {clip.path for clip in train} & {clip.path for clip in held} == set()
    assert 2 <= len({clip.path for clip in held}) <= 4
    few = [LabelledClip(video, name) for video, name in ((0, "a"), (1, "a"), (0, "b"), (2, "b"), (1, "c"), (2, "c"))]
    for seed in range(20):
        train, held = split_clips(few, 0.5, seed)
        assert {clip.label for clip in train} == {"a", "b", "c"}
        assert {clip.path for clip in train} & {clip.path for clip in held} == set()


def test_another_seed_splits_otherwise_and_a_given_split_is_kept():
    clips = [LabelledClip(number, "a") for number in range(40)]
    assert split_clips(clips, 0.5, 0) != split_clips(clips, 0.5, 1)
    assert split_clips(clips, 0.0) == (clips, [])
    given_split = [LabelledClip(1, "a", "train"), LabelledClip(2, "a", "validation"), LabelledClip(3, "a", "test")]
    assert split_clips(given_split, 0.5) == (given_split[:1], given_split[1:2])
    with pytest.raises(InputError, match=r"of 1 clips none is for training"):
        split_clips(given_split[2:])
    with pytest.raises(InputError, match=r"validation must be a share in 0 … 1 \(1 excluded\), got 1"):
        split_clips(clips, 1)


def test_what_cannot_be_read_is_told_apart(tmp_path):
    write_folders(tmp_path, each=1)
    write_broken(tmp_path / "red" / "broken.mp4")
    late = LabelledClip(tmp_path / "red" / "0.mp4", "red", None, 9.0)
    gone = LabelledClip(tmp_path / "red" / "gone.mp4", "red")
    good, bad = readable_clips([*find_clips(tmp_path), late, gone], progress=False)
    assert [clip.label for clip in good] == list(CLASSES)
    assert [clip.path.name for clip, _ in bad] == ["broken.mp4", "0.mp4", "gone.mp4"]
    assert "begins at 9.0 s, outside" in bad[1][1]


def test_a_stretch_is_the_frames_shown_in_it(tmp_path):
    path = write_video(tmp_path / "v.mp4", "red")  # frame k is shown from k / 10 s
    index = load_index(path)

    def stretch(start, end):
        return stretch_of(LabelledClip(path, "red", None, start, end), index)

    assert stretch(None, None) == (0, 12)
    assert stretch(0.25, 0.65) == (2, 7)
    assert stretch(0.3, 0.5) == (3, 5)
    assert stretch(0.31, 0.32) == (3, 4)
    wanted = np.array([1, 4, 4, 9])
    frames = read_window(LabelledClip(path, "red"), index, wanted)
    assert np.array_equal(frames, read_clip(path).frames[wanted])
