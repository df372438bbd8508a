"""Broken files of every kind: no crash, no hang, no foreign exception, no silent difference from decoding in order."""

from collections import Counter

import numpy as np

from tests.video import fuzz
from tests.video.make_video import FRAME, Variant


def test_sixty_broken_files(capfd):
    assert {(fuzz.case(number).kind.name, fuzz.case(number).damage) for number in range(60)} == {
        (kind.name, damage) for kind in fuzz.KINDS for damage in fuzz.DAMAGES
    }
    failed = fuzz.run(60)
    said = capfd.readouterr().out
    assert failed == 0, said
    assert "'passed': 60" in said


def test_each_way_to_fail_is_noticed(tmp_path, monkeypatch):
    path = Variant("good.avi", "mjpeg", "yuvj420p", time_base=FRAME, count=6).make(tmp_path)
    assert fuzz.check(path)["wrong"] == []
    clip = fuzz.read_clip(path)
    monkeypatch.setattr("tests.video.fuzz.read_frames", lambda *a, **k: clip)
    monkeypatch.setattr("tests.video.fuzz.read_clip", lambda *a, **k: clip)
    assert fuzz.check(path)["wrong"] == []
    clip.frames[2] ^= 1
    assert all("frame 2 differs" in one for one in fuzz.check(path)["wrong"])
    monkeypatch.setattr("tests.video.fuzz.decode_in_order", lambda path: [])
    assert fuzz.check(path)["wrong"][-1].endswith("frame 5 does not come in order")
    results = Counter(verdict.split(":")[0] for verdict in _verdicts(tmp_path, monkeypatch))
    assert results == {"crash": 1, "hang": 1, "foreign exception": 1}


def _verdicts(tmp_path, monkeypatch):
    ends = {
        "crash": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "hang": "import time; time.sleep(60)",
        "foreign": "raise KeyError(1)",
    }
    for code in ends.values():
        monkeypatch.setattr(
            "tests.video.fuzz._command", lambda path, number, code=code: [fuzz.sys.executable, "-c", code]
        )
        yield fuzz.in_process(tmp_path / "any", 0, 2.0)[0]


def test_a_case_is_the_same_each_time(tmp_path):
    good = Variant("good.avi", "mjpeg", "yuvj420p", time_base=FRAME, count=6).make(tmp_path)
    for number in (5, 17):
        case = fuzz.Case(number, fuzz.KINDS[5], fuzz.DAMAGES[number // 12])
        first = case.make(good, tmp_path).read_bytes()
        assert case.make(good, tmp_path).read_bytes() == first
        assert len(first) < good.stat().st_size or np.any(np.frombuffer(first, np.uint8) != np.fromfile(good, np.uint8))
