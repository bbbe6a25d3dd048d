"""`allmasks sites` says which mode each site acts in, and which ones other tools miss."""

import contextlib
import json

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
