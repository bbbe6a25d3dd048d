"""`allmasks sites` says which mode each site acts in, and which ones other tools miss."""

import contextlib
import json
import sys

import pytest

from allmasks.cli import main

MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(4, 2)
        self.rnn = nn.LSTM(4, 4, 2, dropout=0.3, batch_first=True)

    def forward(self, x):
        h, _ = self.rnn(self.drop(x))
        h = nn.functional.dropout(h[:, -1], 0.2, self.training)
        if self.training:
            h = h * torch.bernoulli(torch.full_like(h, 0.5)) / 0.5
        return self.head(h)

def net():
    return Net()
"""


def test_modes_and_what_others_miss(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL)
    for flag in ([], ["--json", "-"]):
        with contextlib.suppress(SystemExit):
            main(["sites", "--model", "model.py:net", "--shape", "5,4", *flag])
        out = capsys.readouterr().out
        if not flag:
            assert "Missed by tools that switch nn.Dropout modules" in out
            assert "rnn: it is inside one fused call" in out
            assert "(root):bernoulli: it is not even called in eval mode" in out
            continue
        rows = {row["name"]: row for row in json.loads(out)["sites"]}
        assert rows["drop"]["missed_by_others"] is None
        assert {name for name, row in rows.items() if row["missed_by_others"]} == {
            "rnn", "(root):dropout", "(root):bernoulli",
        }  # fmt: skip
        assert all(row["acts_in_train"] and not row["acts_in_eval"] for row in rows.values())


def test_what_is_left_off_is_not_listed_and_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL)
    given = ["--model", "model.py:net", "--shape", "5,4", "--leave-off", "rnn", "--leave-off", "*:bern*", "--json", "-"]
    with contextlib.suppress(SystemExit):
        main(["sites", *given])
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found["sites"]] == ["drop", "(root):dropout"]
    assert found["notes"] == ["Left off, as leave_off asks, and so as in eval mode: (root):bernoulli, rnn."]
    with contextlib.suppress(SystemExit):
        main(["sites", "--model", "model.py:net", "--shape", "5,4", "--leave-off", "drip"])
    assert "leave_off names 'drip', which matches no dropout site" in capsys.readouterr().err


LOUD = """
import ctypes, os, sys
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.add_module("a" + chr(27) + "[31m" + chr(0x9B) + "31m" + chr(0x202E), nn.Dropout(0.5))

    def forward(self, x):
        print("by print")
        sys.__stdout__.write("by the first stdout ")
        os.write(1, b"by number")
        ctypes.CDLL(None).printf(b"by C")
        return [*self.children()][1](self.head(x))

def net():
    return Net()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a library's C runtime has buffers of its own there")
def test_stdout_is_strict_json_whatever_the_model_prints_by_whatever_way(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loud.py").write_text(LOUD)
    assert main(["sites", "--model", "loud.py:net", "--json", "-"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["sites"][0]["name"] == "a\x1b[31m\x9b31m\u202e"
    assert all(c.isprintable() or c == "\n" for c in out)
    for way in ("print", "the first stdout", "number", "C"):
        assert f"by {way}" in err
    assert main(["sites", "--model", "loud.py:net"]) == 0
    out = capfd.readouterr().out
    assert r"a\x1b" in out
    assert all(c.isprintable() or c == "\n" for c in out)
