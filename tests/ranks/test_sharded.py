"""Models sharded by FSDP give what one process gives, however unevenly the examples are shared out."""

import time

import numpy as np
import pytest
import torch

import allmasks as am
from allmasks.sites.sharding import class_name, known_path, n_parameters
from ranks.sharded_ranks import CUTS, N_EXAMPLES, measured, net, problem, units
from ranks.test_groups import torchrun

FLAVORS = ("wrapped", "fully")


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3])
def test_sharded_models_give_what_one_process_gives(n, tmp_path):
    run = torchrun(n, tmp_path / "found.npz", script="sharded_ranks.py")
    assert run.returncode == 0, run.stdout + run.stderr
    found = np.load(tmp_path / "found.npz")
    for name in ("deep", "wary"):
        for key, wanted in measured(net(name), *problem(name)).items():
            for flavor in FLAVORS:
                got = found[f"{flavor}_{name}_{key}"]
                if wanted.dtype.kind in "iU":
                    np.testing.assert_array_equal(got, wanted, err_msg=f"{flavor} {key}")
                else:
                    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6, err_msg=f"{flavor} {key}")
        for flavor in FLAVORS:
            assert f"RankFailed: rank {n - 1} of {n} failed" in str(found[f"{flavor}_{name}_failure"])
    x, y, loss = problem("deep")
    audit = am.audit(net("deep"), (x[: CUTS[n][1]], y[: CUTS[n][1]]), loss, n_masks=256, progress=False)
    np.testing.assert_allclose(found["units"], units(audit), rtol=1e-4, atol=1e-6)
    loss, forecast, gradient = found["told"]
    for told in (loss, forecast):
        assert "ValueError: Sequential has its parameters sharded by FSDP, and every pass gathers" in told
        assert 'with group="world" and am.shard of the data' in told
    assert "RuntimeError: gradients do not flow through a model that is sharded by FSDP" in gradient


@pytest.mark.slow
def test_a_rank_that_raises_within_a_pass_ends_all(tmp_path):
    began = time.monotonic()
    run = torchrun(2, "touchy", script="sharded_ranks.py")
    assert run.returncode != 0
    assert "RANK 1 too large for me" in run.stdout
    assert "raised on rank 1 of 2 within a pass of a sharded model" in run.stdout
    # The other may notice the lost connection before torchrun ends it.
    said = [line for line in run.stdout.splitlines() if line.startswith("RANK 0")]
    assert all("onnection closed" in line or "onnection reset" in line for line in said), said
    assert time.monotonic() - began < 120


def test_paths_and_names_are_those_before_wrapping():
    assert known_path("_fsdp_wrapped_module.a._checkpoint_wrapped_module.b") == "a.b"
    assert class_name(torch.nn.Dropout(0.5)) == "Dropout"
    assert n_parameters(net("deep")) == 6 * 8 + 8 + 8 * 8 + 8 + 8 * 3 + 3
    assert len(problem("deep")[0]) == N_EXAMPLES
    assert [site.name for site in am.find_dropout(net("deep"), problem("deep")[0])] == ["2", "3.2", "4"]
