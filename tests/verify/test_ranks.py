"""Ranks under torchrun: those that share their masks are found, and those that must and do not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import allmasks as am

TESTS = Path(__file__).parents[1]


def said(how, n=2):
    script = Path(__file__).with_name("seeded_ranks.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n), script, how]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert run.returncode == 0, run.stdout + run.stderr
    lines = run.stdout.split("RANK")[1:]  # lines of several ranks may run into each other
    assert len(lines) == n
    return lines


@pytest.mark.slow
@pytest.mark.parametrize("how", ["own", "wrapped", "tensor_parallel"])
def test_ranks_with_the_masks_they_should_have_pass(how):
    assert all("ok=True" in line for line in said(how))


@pytest.mark.slow
@pytest.mark.parametrize(("how", "says"), [("alike", "every rank was seeded alike"), ("apart", "not in step")])
def test_ranks_that_share_masks_or_must_and_do_not_are_found(how, says):
    for line in said(how):
        assert "ok=False ['shared_by_ranks'" in line
        assert says in line


def test_same_masks_needs_a_group():
    net = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(3, 1))
    with pytest.raises(ValueError, match="same_masks is about ranks"):
        am.verify(net, torch.ones(4, 3), torch.zeros(4, 1), "squared_error", same_masks=("0",))
