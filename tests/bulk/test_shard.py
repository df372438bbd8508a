"""The loop that every engine runs, with models that fail in known ways."""

import numpy as np
import pytest
import torch

from tests.bulk.tiny_bulk import tiny_job
from vivit_lab.bulk.clips import ClipRow, Decoded, Failure
from vivit_lab.bulk.job import ClipStage, is_out_of_memory, run_shard
from vivit_lab.errors import BackendError, OutOfMemoryBudgetError
from vivit_lab.explain import load_pair


def rows(count):
    return [ClipRow(f"{number}", f"/{number}.mp4") for number in range(count)]


def outcomes(given):
    for row in given:
        number = int(row.clip_id)
        if number % 5 == 4:
            yield Failure("decode", "NotAVideoError", f"{row.path} is none")
        else:
            pixels = np.full((2, 3, 4, 4), number, np.float32)
            yield Decoded(pixels, [0, 1], [0.0, 0.1], 0.2, (4, 4), seconds={"decode": 1.0})


class Sums:
    """A stage that adds up pixels, keeps the batches it was given, and fails on a chosen clip."""

    def __init__(self, batch_size, poison=None, room=1000):
        self.batch_size, self.poison, self.room, self.given = batch_size, poison, room, []

    def __call__(self, pixels, part):
        values = pixels[:, 0, 0, 0, 0].tolist()
        if len(values) > self.room:
            torch.empty(1 << 60)  # what no machine has
        if self.poison is not None and self.poison(values):
            raise ValueError("not finite")
        self.given.append(values)
        return [{"value": value, "part": part} for value in values]


class Kept(dict):
    retries = False

    def __init__(self, *parts):
        self.parts = parts or ("only",)

    def __call__(self, part, results):
        self[part] = list(results)


def test_each_row_has_one_result_in_order():
    sink, stage = Kept(), Sums(4)
    report = run_shard(rows(11), outcomes, stage, sink)
    assert (report.clips, report.errors, report.batch_size) == (11, 2, 4)
    for number, result in enumerate(sink["only"]):
        if number % 5 == 4:
            assert result == Failure("decode", "NotAVideoError", f"/{number}.mp4 is none")
        else:
            assert (result["value"], result["frame_indices"], result["seconds_decode"]) == (number, [0, 1], 1.0)
    assert {len(values) for values in stage.given} == {4}  # always the same shape
    assert stage.given == [[0, 1, 2, 3], [5, 5, 6, 7], [8, 8, 10, 8]]


def test_a_clip_that_the_model_chokes_on_is_found_and_the_others_stay():
    sink = Kept()
    report = run_shard(rows(8), outcomes, Sums(4, lambda values: 6.0 in values), sink)
    assert report.errors == 2
    assert sink["only"][6] == Failure("model", "ValueError", "not finite")
    assert [result["value"] for result in sink["only"][:4]] == [0, 1, 2, 3]
    assert sink["only"][5]["value"] == 5
    assert sink["only"][7]["value"] == 7


def test_a_model_that_fails_on_everything_stops_the_run():
    with pytest.raises(BackendError, match="the model failed on all 7 clips of a shard"):
        run_shard(rows(8), outcomes, Sums(4, lambda values: True), Kept())


def test_clips_that_fail_again_do_not_stop_a_retry():
    sink = Kept()
    sink.retries = True
    assert run_shard(rows(8), outcomes, Sums(4, lambda values: True), sink).errors == 8
    assert sink["only"][0] == Failure("model", "ValueError", "not finite")


@pytest.mark.parametrize("wrong", ["logits", "map"])
def test_numbers_that_are_not_finite_are_a_failure_of_their_clip(wrong, checkpoint, monkeypatch):
    stage = ClipStage(tiny_job(checkpoint, head_statistics="none"), load_pair(str(checkpoint))[0], 2)
    if wrong == "map":
        explain = stage._map

        def broken(*given):
            heat = explain(*given)
            heat.relevance[1] = torch.nan
            return heat

        monkeypatch.setattr(stage, "_map", broken)
    else:
        stage.model.classifier.register_forward_hook(
            lambda _module, _given, out: out * torch.tensor([[1.0], [torch.inf]])
        )
    first, second = stage(torch.randn(2, 4, 3, 32, 32))
    assert first["prediction"] in range(5)
    assert (second.stage, second.kind) == ("model", "NotFinite")

    def decode(given):
        for _row in given:
            yield Decoded(np.zeros((4, 3, 32, 32), np.float32), [0], [0.0], 0.2, (4, 4))

    sink = Kept()
    assert run_shard(rows(2), decode, stage, sink).errors == 1
    assert sink["only"][1] == second


def test_the_batch_is_halved_for_good_when_memory_runs_out():
    sink, stage = Kept(), Sums(8, room=3)
    report = run_shard(rows(12), outcomes, stage, sink)
    assert report.batch_size == stage.batch_size == 2
    good = [result["value"] for result in sink["only"] if not isinstance(result, Failure)]
    assert good == [number for number in range(12) if number % 5 != 4]
    with pytest.raises(OutOfMemoryBudgetError, match="one clip alone does not fit"):
        run_shard(rows(2), outcomes, Sums(2, room=0), Kept())


def test_clips_are_decoded_once_for_several_parts():
    calls, sink = [], Kept("a", "b", "c")

    def once(given):
        calls.append(given)
        return outcomes(given)

    run_shard(rows(6), once, Sums(4), sink)
    assert len(calls) == 1
    for part in "abc":
        assert [result["part"] for result in sink[part] if isinstance(result, dict)] == [part] * 5


def test_what_counts_as_memory():
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    assert not is_out_of_memory(ValueError("out of memory of this"))
