"""What all widgets share, in a widget of two lines."""

import subprocess
import sys
import threading

import pytest
import torch
import traitlets

from vivit_lab.errors import InputError
from vivit_lab.widgets.base import LabWidget


class Counter(LabWidget):
    count = traitlets.Int(0, min=0).tag(sync=True)
    _hidden = traitlets.Bytes(b"ab").tag(sync=True)

    def on_add(self, content):
        self.count += content["by"]


@pytest.fixture
def counter():
    return Counter(torch.nn.Linear(1, 1), count=2)


def test_a_misspelt_trait_is_refused_with_a_hint():
    with pytest.raises(InputError, match="Counter has no trait 'cuont': did you mean count"):
        Counter(torch.nn.Linear(1, 1), cuont=3)
    with pytest.raises(InputError, match="no trait 'xyzzy': it has busy, count, error, live, progress, status"):
        Counter(torch.nn.Linear(1, 1), xyzzy=3)


def test_a_value_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"Counter: .*count.*"):
        Counter(torch.nn.Linear(1, 1), count="three")


def test_messages_reach_their_method_and_unknown_ones_are_shown(counter):
    counter._handle_custom_msg({"type": "add", "by": 5}, [])
    assert counter.count == 7
    counter._handle_custom_msg({"type": "subtract"}, [])
    assert "a message that it does not know: {'type': 'subtract'}" in counter.error
    counter._handle_custom_msg("nonsense", [])
    assert "'nonsense'" in counter.error


def test_an_error_in_a_handler_or_a_wrong_value_from_the_browser_is_shown(counter):
    counter._handle_custom_msg({"type": "add"}, [])
    assert counter.error == "KeyError: 'by'"
    counter.set_state({"count": -4})
    assert "TraitError" in counter.error
    assert counter.count == 2


def test_a_request_shows_what_it_does_and_its_result_or_error(counter):
    gate, seen = threading.Event(), []

    def work(task):
        task.progress(1, 4)
        seen.append((counter.busy, counter.status, counter.progress))
        assert gate.wait(20)
        return 9

    counter.error = "old"
    counter.request(work, lambda result: setattr(counter, "count", result), saying="Counting …")
    gate.set()
    assert counter.wait(20)
    assert seen == [(True, "Counting …", 0.25)]
    assert (counter.count, counter.busy, counter.error) == (9, False, "")

    def broken(task):
        raise InputError("no such thing")

    counter.request(broken, lambda result: None)
    assert counter.wait(20)
    assert (counter.error, counter.busy) == ("no such thing", False)


def test_cancel_ends_what_runs(counter):
    started, go = threading.Event(), threading.Event()

    def work(task):
        started.set()
        assert go.wait(20)
        task.check()
        return 1

    counter.request(work, lambda result: setattr(counter, "count", 100), saying="Long …")
    assert started.wait(20)
    counter._handle_custom_msg({"type": "cancel"}, [])
    assert (counter.busy, counter.status) == (False, "Cancelled.")
    go.set()
    assert counter.wait(20)
    assert counter.count == 2


def test_closing_drops_what_is_asked(counter):
    started, go, answers = threading.Event(), threading.Event(), []

    def work(task):
        started.set()
        return go.wait(20)

    counter.request(work, answers.append)
    assert started.wait(20)
    counter.close()
    go.set()
    assert counter.wait(20)
    assert answers == []


def test_the_offline_state_is_the_widgets_own_traits_without_a_kernel(counter):
    counter.status = "something"
    state = counter.offline_state()
    assert state == {
        **{"count": 2, "_hidden": b"ab", "live": False, "busy": False, "status": "", "error": "", "progress": -1.0}
    }


def test_without_the_extra_the_error_names_it():
    code = (
        "import sys; sys.modules['anywidget'] = None\n"
        "from vivit_lab.errors import MissingExtraError\n"
        "try:\n    import vivit_lab.widgets.base\nexcept MissingExtraError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ("widgets need the extra [lab], which is not installed: pip install 'vivit-lab[lab]'")
