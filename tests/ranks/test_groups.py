"""n processes give what one process gives, and one that fails takes the others along."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import allmasks as am
from ranks.plain_ranks import PREDICTED, net, problem

TESTS = Path(__file__).parents[1]


def torchrun(n, *arguments, script="plain_ranks.py"):
    script = Path(__file__).parent / script
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n), script]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=240, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3])
def test_ranks_give_what_one_process_gives(n, tmp_path):
    run = torchrun(n, tmp_path / "found.npz", "-1")
    assert run.returncode == 0, run.stdout + run.stderr
    found, model, data = np.load(tmp_path / "found.npz"), net(), problem()
    one = am.expected_loss(model, *data, "cross_entropy", n_masks=256)
    one.value.backward()
    for name in ("value", "error", "penalty", "per_example", "per_example_error"):
        np.testing.assert_allclose(found[name], getattr(one, name).detach(), rtol=2e-6, atol=1e-7, err_msg=name)
    grad = torch.cat([p.grad.flatten() for p in model.parameters()])
    np.testing.assert_allclose(found["grad"], grad, rtol=1e-4, atol=1e-6)
    audit = am.audit(model, data, "cross_entropy", n_masks=256, instruments=False, progress=False)
    sites = [(site.alone, site.alone_error, site.saved, site.saved_error) for site in audit.per_site]
    np.testing.assert_allclose(found["sites"], sites, rtol=1e-4, atol=1e-6)
    assert found["n"] == 23
    forecast = am.predict(model, data[0], task="multiclass", n_masks=256, keep_samples=True, y=data[1])
    for name in PREDICTED:
        # Each number is a mean of float32 outputs, whose rounding depends on the examples in a batch.
        wanted = getattr(forecast, name).numpy()
        np.testing.assert_allclose(found[f"predict_{name}"], wanted, rtol=1e-4, atol=1e-6, err_msg=name)
    assert found["predict_samples"].shape == (256, 23, 3)
    assert found["aimed"] == am.predict(model, data[0], task="regression", atol=0.03).n_masks


@pytest.mark.slow
def test_a_rank_that_raises_ends_all(tmp_path):
    run = torchrun(2, tmp_path / "found.npz", "1")
    assert run.returncode != 0
    assert not (tmp_path / "found.npz").exists()
    assert "RANK 1 ValueError: the inputs contain NaN" in run.stdout
    # torchrun may end the other before it has said so; if it spoke, it named the one that failed.
    assert all("rank 1 of 2 failed" in line for line in run.stdout.splitlines() if line.startswith("RANK 0"))


def test_a_group_without_torch_distributed_is_refused():
    with pytest.raises(ValueError, match=r"needs torch\.distributed: start the script with torchrun"):
        am.expected_loss(net(), *problem(), "cross_entropy", group="world")
    with pytest.raises(ValueError, match=r"needs torch\.distributed: start the script with torchrun"):
        am.predict(net(), problem()[0], group="world")
