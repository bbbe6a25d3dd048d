"""`torchrun -m allmasks audit`: the ranks share the examples, the first one speaks, and one that fails ends all."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

NET = """
import os, torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 30), nn.Tanh(), nn.Dropout(0.5), nn.Linear(30, 30), nn.ReLU(), nn.Dropout(0.3),
                         nn.Linear(30, 3))

def unseeded():
    torch.manual_seed(int.from_bytes(os.urandom(6), "little"))
    model = nn.Sequential(nn.Linear(4, 30), nn.BatchNorm1d(30), nn.Dropout(0.5), nn.Linear(30, 3))
    if os.environ.get("RANK", "0") == "0":
        torch.save(model.state_dict(), "first.pt")
    return model

def boom():
    if os.environ.get("RANK") == "1":
        raise RuntimeError("the weights are lost")
    return net()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    (tmp_path / "net.py").write_text(NET)
    np.savez(tmp_path / "data.npz", X=rng.normal(size=(23, 4)).astype(np.float32), y=rng.integers(0, 3, 23))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def audit(factory, *options, ranks=None):
    python = [sys.executable, "-m"]
    if ranks is not None:
        python += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"]
    command = [*python, "allmasks", "audit", "--model", f"net.py:{factory}", "--data", "data.npz", "--masks", "256"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "140"}
    return subprocess.run([*command, *options], capture_output=True, text=True, timeout=240, env=environment)


def close(a, b, path=""):
    """The same structure, and numbers to float rounding."""
    assert type(a) is type(b) or {type(a), type(b)} <= {int, float}, path
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for name in a:
            close(a[name], b[name], f"{path}.{name}")
    elif isinstance(a, list):
        assert len(a) == len(b), path
        for i, (one, other) in enumerate(zip(a, b, strict=True)):
            close(one, other, f"{path}[{i}]")
    elif isinstance(a, float):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6, err_msg=path)
    else:
        assert a == b, path


@pytest.mark.slow
def test_the_ranks_report_what_one_process_reports(folder):
    alone = audit("net", "--json", "one.json")
    assert alone.returncode == 0, alone.stderr
    one = json.loads((folder / "one.json").read_text())
    for ranks in (2, 3):
        name = f"of{ranks}.json"
        run = audit("net", "--json", name, "--out", "page.html", ranks=ranks)
        assert run.returncode == 0, run.stderr
        assert run.stdout.count("How the mean over K masks converges") == 1
        assert run.stderr.count(f"wrote {name}") == 1
        assert (folder / "page.html").read_text().startswith("<!doctype html>")
        (folder / "page.html").unlink()
        many = json.loads((folder / name).read_text())
        # Unit by unit the first rank looks at its own first examples.
        drop = ("seconds", "instruments")
        close(*({k: v for k, v in result.items() if k not in drop} for result in (many, one)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factory", "options", "text"),
    [
        ("boom", (), "the weights are lost"),
        ("nope", (), "error: --model net.py has no name 'nope'"),
        ("net", ("--lang", "xx"), "error: --lang must be en or ko"),
    ],
)
def test_a_rank_that_fails_ends_all_with_one_error(folder, factory, options, text):
    run = audit(factory, "--json", "out.json", *options, ranks=2)
    assert run.returncode != 0
    told = [line for line in run.stderr.splitlines() if line.startswith("error:")]
    assert len(told) == 1, run.stderr
    assert text in told[0]
    assert run.stdout == ""
    assert not (folder / "out.json").exists()


@pytest.mark.slow
def test_a_factory_that_does_not_seed_is_audited_with_the_first_one_s_weights(folder):
    run = audit("unseeded", "--json", "of3.json", ranks=3)
    assert run.returncode == 0, run.stderr
    said = [line for line in run.stderr.splitlines() if "the factory made other weights in each process" in line]
    assert len(said) == 1, run.stderr
    assert "(4 tensors, 0.bias first): the first one's are used in all; seed the factory" in said[0]
    many = json.loads((folder / "of3.json").read_text())
    (folder / "first.pt").rename(folder / "kept.pt")  # the next factory writes its own
    alone = audit("unseeded", "--weights", "kept.pt", "--json", "one.json")
    assert alone.returncode == 0, alone.stderr
    assert "the factory made" not in alone.stderr
    one = json.loads((folder / "one.json").read_text())
    drop = ("seconds", "instruments")
    close(*({k: v for k, v in result.items() if k not in drop} for result in (many, one)))
