"""Requests: the newest wins, stale ones are dropped, a running one can be cancelled, one lock holds them apart."""

import threading

import pytest
import torch

from vivit_lab.attribution import Occlusion
from vivit_lab.progress import progress_bar
from vivit_lab.widgets.base import Executor, Task, TaskCancelledError, model_lock


def fail(error):
    raise AssertionError(f"unexpected {error!r}")


class Gate:
    """Work that starts, waits until it is let go, and then answers."""

    def __init__(self, answer):
        self.answer, self.started, self.go = answer, threading.Event(), threading.Event()

    def __call__(self, task):
        self.started.set()
        assert self.go.wait(20)
        return self.answer


def test_the_newest_request_wins_and_those_in_between_never_run():
    executor, answers = Executor(threading.RLock()), []
    first, last = Gate("first"), Gate("last")
    executor.submit(first, answers.append, fail)
    assert first.started.wait(20)
    skipped = Gate("skipped")
    executor.submit(skipped, answers.append, fail)
    executor.submit(last, answers.append, fail)
    first.go.set()
    last.go.set()
    assert executor.wait(20)
    assert answers == ["last"]
    assert not skipped.started.is_set()


def test_the_thread_lives_only_while_there_is_work():
    executor = Executor(threading.RLock())
    names = lambda: [thread.name for thread in threading.enumerate()]  # noqa: E731
    assert "vivit-lab widget" not in names()
    gate = Gate(1)
    executor.submit(gate, lambda _: None, fail)
    assert gate.started.wait(20)
    assert "vivit-lab widget" in names()
    thread = executor._thread
    gate.go.set()
    thread.join(20)
    assert not thread.is_alive()


def test_cancelling_drops_the_result_of_the_running_and_the_waiting():
    executor, answers = Executor(threading.RLock()), []
    assert not executor.cancel()
    running, waiting = Gate("running"), Gate("waiting")
    executor.submit(running, answers.append, fail)
    assert running.started.wait(20)
    executor.submit(waiting, answers.append, fail)
    assert executor.cancel()
    running.go.set()
    assert executor.wait(20)
    assert answers == []
    assert not waiting.started.is_set()


def test_an_error_is_handed_over_and_the_next_request_runs():
    executor, errors, answers = Executor(threading.RLock()), [], []

    def broken(task):
        raise ZeroDivisionError("nothing to divide by")

    executor.submit(broken, answers.append, errors.append)
    assert executor.wait(20)
    executor.submit(lambda task: 5, answers.append, fail)
    assert executor.wait(20)
    assert [type(error) for error in errors] == [ZeroDivisionError]
    assert answers == [5]


def test_without_a_thread_the_result_is_there_at_once():
    executor, answers = Executor(threading.RLock(), threaded=False), []
    executor.submit(lambda task: threading.get_ident(), answers.append, fail)
    assert answers == [threading.get_ident()]


def test_the_lock_of_a_model_is_one_and_re_entrant_and_held_while_work_runs(classifier):
    lock = model_lock(classifier)
    assert model_lock(classifier) is lock
    assert model_lock(torch.nn.Linear(1, 1)) is not lock
    executor, gate = Executor(lock), Gate(None)
    executor.submit(gate, lambda _: None, fail)
    assert gate.started.wait(20)
    assert not lock.acquire(blocking=False)
    gate.go.set()
    assert executor.wait(20)
    with lock, lock:
        pass


def test_a_cancelled_task_ends_at_the_next_block_and_leaves_no_hook(classifier):
    task = Task(1)
    pixels = torch.randn(1, 4, 3, 32, 32)
    with task.watching(classifier):
        classifier(pixels)
        task.cancel()
        with pytest.raises(TaskCancelledError):
            classifier(pixels)
    assert not any(block._forward_pre_hooks for block in classifier.blocks)
    classifier(pixels)


def test_a_cancelled_task_does_not_end_the_forward_of_another_thread(classifier):
    task, pixels, outputs = Task(1), torch.randn(1, 4, 3, 32, 32), []
    with task.watching(classifier):
        task.cancel()
        other = threading.Thread(target=lambda: outputs.append(classifier(pixels)))
        other.start()
        other.join(60)
    assert len(outputs) == 1


def test_the_steps_of_a_method_are_reported_and_a_step_ends_a_cancelled_task(classifier):
    steps = []
    task = Task(1, lambda done, total: steps.append((done, total)))
    with task.watching(classifier):
        Occlusion()(classifier, torch.randn(1, 4, 3, 32, 32), progress=True)
    assert steps[-1][0] == steps[-1][1] == 8
    with task.watching(classifier):
        assert [step for step in progress_bar(range(3), True, "name", "unit")] == [0, 1, 2]
    assert steps[-3:] == [(1, 3), (2, 3), (3, 3)]
    task.cancel()
    with task.watching(classifier), pytest.raises(TaskCancelledError):
        progress_bar(None, True, "name", "unit", 4).update()


def test_outside_a_task_a_bar_is_an_ordinary_one():
    assert type(progress_bar(None, False, "name", "unit", 4)).__name__ == "tqdm"
