"""Large pages are a wish: results are the same, whatever the kernel answers. What is freed is kept."""

import mmap
import os
import platform
import subprocess
import sys

import pytest
import torch

from allmasks.kernels import pages
from allmasks.nn.multiply import mask_multiply


def test_only_whole_pages_inside_are_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(pages, "_madvise", lambda: lambda *call: asked.append(call))
    page = mmap.PAGESIZE
    pages.ask_for_large(10 * page + 64, 5 * page)
    pages.ask_for_large(10 * page, 5 * page)
    pages.ask_for_large(10 * page + 64, page)  # no whole page
    assert asked == [(11 * page, 4 * page, 14), (10 * page, 5 * page, 14)]


def test_large_tensors_ask_and_small_ones_do_not(monkeypatch):
    asked = []
    monkeypatch.setattr(pages, "ask_for_large", lambda address, size: asked.append(size))
    for n in (pages.FRESH_FROM // 4 - 1, pages.FRESH_FROM // 4):
        mask_multiply(torch.ones(n), 5, 0.5)
    mask_multiply(torch.ones(pages.FRESH_FROM // 4, dtype=torch.bfloat16), 5, 0.5)
    assert asked == [pages.FRESH_FROM]


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_a_refusal_changes_nothing(monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    pages._madvise.cache_clear()
    pages.ask_for_large(2**52, 2**20)  # nothing is mapped there
    pages.ask_for_large(0, 0)
    pages._madvise.cache_clear()
    monkeypatch.undo()
    n = pages.FRESH_FROM // 4
    out = mask_multiply(torch.ones(n), 5, 0.5)
    assert torch.equal(out[:4096], mask_multiply(torch.ones(4096), 5, 0.5))
    assert float(out.mean()) == pytest.approx(1.0, abs=5 / n**0.5)


FAULTS = """
import ctypes, resource, sys, torch
from allmasks.kernels import pages
from allmasks.nn.multiply import mask_multiply

ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: count pages of 4 KB wherever large ones are the rule
if sys.argv[1] == "planted":
    pages.keep_freed = lambda: None
torch.set_num_threads(1)
x = torch.ones(2**20)
for call in range(20):
    out = mask_multiply(x, call, 0.5), mask_multiply(x, call, 0.5)
    del out
    if call == 9:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have thresholds of their own")
def test_freed_memory_is_kept():
    """Twenty outputs of 4 MB are 20 480 pages of 4 KB: mapped again each time, or not at all."""
    # With one thread of OpenMP the allocator now and then keeps what is freed by itself.
    other = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "OMP_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(other)}
    faults = {}
    for name in ("as it is", "planted"):
        command = [sys.executable, "-c", FAULTS, name]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert run.returncode == 0, run.stderr[-3000:]
        faults[name] = int(run.stdout)
    assert faults["as it is"] < 2_000 < 10_000 < faults["planted"]
