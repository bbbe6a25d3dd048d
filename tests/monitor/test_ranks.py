"""Monitors of trainings over two processes: training as without, figures of one process, written once."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from allmasks.monitor import read
from monitor.nets import data, net
from monitor.ranks import EPOCHS, HOW

TESTS = Path(__file__).parents[1]
NEEDS = {"loop": "tensorboard", "lightning": "lightning", "trainer": "accelerate"}


class Held(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.net = inner

    def forward(self, x):
        return self.net(x)


def rows_of(file):
    return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "needs"), [("loop", "tensorboard"), ("lightning", "lightning"), ("trainer", "accelerate")]
)
def test_two_processes_log_what_one_process_measures(way, needs, tmp_path):
    pytest.importorskip(needs)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    script = Path(__file__).with_name("ranks.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    run = subprocess.run([*command, way, tmp_path], capture_output=True, text=True, timeout=300, env=environment)
    assert run.returncode == 0, run.stdout + run.stderr
    found = torch.load(tmp_path / "found.pt")
    assert found["unchanged"] == [True, True]
    first, second = found["histories"]
    assert [epoch for epoch, _ in first] == [1, 2] == list(range(1, EPOCHS + 1))
    np.testing.assert_equal(first, second)
    inner = net()
    inner.load_state_dict(found["state"])
    # Masks are keyed by the sites' names, which both frameworks' modules begin with the net's own.
    model = inner if way == "loop" else Held(inner)
    wanted = read(model, data(), "cross_entropy", **HOW).scalars()
    assert list(first[-1][1]) == list(wanted)
    np.testing.assert_allclose(list(first[-1][1].values()), list(wanted.values()), rtol=2e-5, atol=1e-6)
    written = list(tmp_path.rglob("*.csv"))
    if way == "loop":
        assert written == [tmp_path / "log.csv"]
        assert len(list((tmp_path / "board").iterdir())) == 1
        rows = rows_of(written[0])
        assert [float(row["expected_loss"]) for row in rows] == [one["allmasks/expected_loss"] for _, one in first]
    if way == "lightning":
        (log,) = [file for file in written if "plain" not in str(file)]
        rows = [row for row in rows_of(log) if row["allmasks/penalty"]]
        assert [float(row["allmasks/penalty"]) for row in rows] == pytest.approx(
            [one["allmasks/penalty"] for _, one in first], rel=1e-5
        )
