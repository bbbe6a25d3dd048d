"""`allmasks sites --write/--expect` and `allmasks verify`: what they say, and their exit codes."""

import json

import pytest
import torch

from allmasks.cli import main

MODEL = """
import torch
from torch import nn

def build(p=0.3, q=0.5):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 24), nn.Dropout(p), nn.Tanh(), nn.Dropout(q), nn.Linear(24, 3))

def flipped():
    return build(0.2)

def lost():
    return build(q=0.0)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL)
    torch.save({"X": torch.randn(20, 6), "y": torch.arange(20) % 3}, tmp_path / "data.pt")
    assert main(["sites", "--model", "model.py:build", "--write", "dropout.toml"]) == 0
    return tmp_path


def test_what_is_written_is_what_is_expected(folder, capsys):
    assert main(["sites", "--model", "model.py:build", "--expect", "dropout.toml"]) == 0
    assert "the dropout sites are those of dropout.toml" in capsys.readouterr().err
    assert main(["sites", "--model", "model.py:flipped", "--expect", "dropout.toml"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("rate: 1 drops 0.2 of its units where 0.3 is meant")
    assert main(["sites", "--model", "model.py:lost", "--expect", "dropout.toml", "--json", "-"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [finding["fault"] for finding in told["findings"]] == ["off"]
    assert not told["ok"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[sites]\n1 = 2.0\n", "must lie in"),
        ("sites = 3\n", "has no table"),
        ("[sites\n", "is no TOML"),
        ("[sites]\n1 = {rate = 0.1}\n", "known are p, kind and sharing"),
        ('[sites]\n1 = {sharing = "all"}\n', "must be one of element, time, channel, row, batch"),
    ],
)
def test_a_bad_expectation_is_refused(folder, capsys, text, says):
    (folder / "bad.toml").write_text(text)
    assert main(["sites", "--model", "model.py:build", "--expect", "bad.toml"]) == 2
    assert says in capsys.readouterr().err


def test_verify_says_right_wrong_and_unusable(folder, capsys):
    given = ["--data", "data.pt", "--expect", "dropout.toml", "--passes", "32"]
    assert main(["verify", "--model", "model.py:build", *given, "--out", "page.html"]) == 0
    assert "is what it should be" in capsys.readouterr().out
    assert "is what it should be" in (folder / "page.html").read_text()
    assert main(["verify", "--model", "model.py:flipped", *given, "--json", "-"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], [finding["fault"] for finding in told["findings"]]) == (False, ["rate"])
    assert main(["verify", "--model", "model.py:missing", *given]) == 2
    assert main(["verify", "--model", "model.py:build", "--data", "data.pt", "--passes", "2"]) == 2
    assert "passes must be a whole number of at least 8" in capsys.readouterr().err
