"""A video that was overwritten is known by its mark."""

import pytest

from vivit_lab.bulk.clips import has_changed, mark_video


@pytest.mark.parametrize("name", ["a.mp4", "a:b.mp4", "a::b.mp4", "memory:c.mp4"])
def test_a_changed_video_is_told_whatever_its_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for path in (name, str(tmp_path / name)):
        (tmp_path / name).write_bytes(b"first")
        mark = mark_video(path, path)
        assert not has_changed(path, mark)
        (tmp_path / name).write_bytes(b"second, longer")
        assert has_changed(path, mark)
