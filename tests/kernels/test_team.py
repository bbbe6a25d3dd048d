"""Sharing out the work: many callers at once, forked children, and Python's threads where torch has no OpenMP."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from allmasks.kernels import team
from allmasks.nn.multiply import mask_multiply

FORK = """
import os, time
import torch
from allmasks.nn.multiply import mask_multiply

torch.set_num_threads(2)
x = torch.ones(2**17)
before = mask_multiply(x, 5, 0.5)
child = os.fork()
if child == 0:
    same = (mask_multiply(x, 5, 0.5).numpy() == before.numpy()).all()  # torch's own threads hang in a child
    os._exit(0 if same else 9)
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        print(os.waitstatus_to_exitcode(status))
        break
    time.sleep(0.01)
else:
    os.kill(child, 9)
    print("the child hangs")
"""


@pytest.mark.parametrize("openmp", [True, False])
def test_callers_on_several_threads_do_not_meet(openmp, monkeypatch):
    if not openmp:
        monkeypatch.setattr(team, "_region", lambda: None)
    x, before = torch.ones(2**17), torch.get_num_threads()
    torch.set_num_threads(1)
    expected = [mask_multiply(x, key, 0.5) for key in range(8)]
    try:
        torch.set_num_threads(2)
        with ThreadPoolExecutor(4) as callers:
            found = list(callers.map(lambda key: mask_multiply(x, key % 8, 0.5), range(64)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(out, expected[i % 8]) for i, out in enumerate(found))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forking a process with threads is for Linux")
def test_a_forked_child_starts_no_threads():
    # The child's own minute begins at the fork: before it, a busy machine may take long to import and compile.
    run = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=600)
    assert run.stdout.strip() == "0", run.stderr


def test_an_interrupted_caller_waits_for_the_other_threads():
    """They write to its memory: it must not be let go before they are done."""
    caller, started, done = threading.get_ident(), threading.Event(), threading.Event()

    def body(block):
        if threading.get_ident() == caller:
            started.wait(60)
            raise KeyboardInterrupt
        started.set()
        time.sleep(0.2)
        done.set()

    with pytest.raises(KeyboardInterrupt):
        team._on_pool(body, b"", 2)
    assert done.is_set()
