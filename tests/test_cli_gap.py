"""`allmasks audit` with training and validation data, its report in the browser, numbers to the terminal."""

import json
import webbrowser
from pathlib import Path

import numpy as np
import pytest

from allmasks.cli import main

NET = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 1))
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    (tmp_path / "net.py").write_text(NET)
    for name, n in (("train.npz", 20), ("val.npz", 9)):
        np.savez(tmp_path / name, X=rng.normal(size=(n, 4)), y=rng.normal(size=n))
    np.savez(tmp_path / "bad.npz", X=rng.normal(size=(9, 4)), y=np.full(9, np.nan))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")

    def command(line):
        code = main(line.split())
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def test_the_gap_in_json_on_the_terminal_and_on_the_page(run, tmp_path):
    line = "audit --model net.py:net --train-data train.npz --val-data val.npz --out r.html"
    code, out, _ = run(f"{line} --json")
    assert code == 0
    gap = json.loads(out)["gap"]
    assert (gap["n_training"], gap["n_validation"], gap["guarantee"]) == (20, 9, "exact")
    assert gap["gap"] == pytest.approx(gap["dropout"] - gap["generalization"])
    assert gap["dropout"] == pytest.approx(json.loads(out)["expected"]["penalty"])
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert 'id="gap"' in page
    assert "2 (after ReLU)" in page
    code, out, _ = run(f"{line} --lang ko")
    assert (code, "드롭아웃의 몫" in out, "2 (ReLU 뒤)" in out) == (0, True, True)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("audit --train-data train.npz", "--train-data needs --model FILE.py:FACTORY beside it"),
        (
            "audit --model net.py:net --train-data train.npz",
            "--train-data needs --val-data FILE beside it; to look at one data set alone, give --data FILE",
        ),
        ("audit --model net.py:net --val-data val.npz", "--val-data needs --train-data FILE beside it"),
        (
            "audit --model net.py:net --data val.npz --train-data train.npz --val-data val.npz",
            "--data and --train-data exclude each other",
        ),
        ("audit --model net.py:net --train-data train.npz --val-data bad.npz", "--val-data bad.npz: y has 9 NaN"),
        ("audit --model net.py:net --train-data no.npz --val-data val.npz", "--train-data no.npz: no such file"),
    ],
)
def test_one_line_says_what_is_missing(run, line, told):
    code, out, err = run(line)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {told}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("opens", [True, False])
def test_open_shows_the_report(run, monkeypatch, opens):
    shown = []

    def browser(address):
        shown.append(address)
        return opens

    monkeypatch.setattr(webbrowser, "open", browser)
    code, _, err = run("audit --model net.py:net --data train.npz --open")
    (address,) = shown
    file = Path(address.removeprefix("file://"))
    try:
        assert (code, file.suffix) == (0, ".html")
        assert "<html" in file.read_text(encoding="utf-8")
        assert ("no browser was found: open" in err) is not opens
    finally:
        file.unlink()
    code, _, err = run("audit --model net.py:net --data train.npz --out r.html --open")
    assert (code, shown[1]) == (0, Path("r.html").resolve().as_uri())
