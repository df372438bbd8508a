"""A script that ends while a widget computes ends well."""

import subprocess
import sys

SCRIPT = """
import time
import torch
from contextlib import nullcontext
from vivit_lab.widgets.base import Executor

started = []

def work(task):
    while True:  # ends by being cancelled alone
        started.append(torch.randn(64, 64) @ torch.randn(64, 64))
        task.check()

Executor.kept = Executor(nullcontext())
Executor.kept.submit(work, print, print)
while not started:
    time.sleep(0.01)
"""


def test_a_script_that_ends_amid_a_request_ends_well():
    found = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=False)
    assert (found.returncode, found.stderr) == (0, "")
