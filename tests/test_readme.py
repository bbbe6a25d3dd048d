"""The READMEs' Python runs, and says what it prints."""

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = [
    (name, i, code)
    for name in ("README.md", "README.ko.md")
    for i, code in enumerate(re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.S))
]


@pytest.mark.parametrize(("name", "number", "code"), BLOCKS, ids=[f"{name}-{i}" for name, i, _ in BLOCKS])
def test_every_block_runs(name, number, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, f"{name} block {number}", "exec"), {})
    printed = [line.strip() for line in out.getvalue().splitlines()]
    # What a comment block after `print(result)` shows is what comes out, digits of this platform aside.
    shown = re.findall(r"^#   (.+)$", code, re.M)
    for line in shown:
        label = re.split(r"\s{2,}", line)[0]
        assert any(p.startswith(label) for p in printed), label


def test_numbers_quoted_for_scores():
    import numpy as np

    import allmasks as am

    w, X, y = np.array([1.0, -1.0, 2.0]), np.array([[1.0, 2.0, -1.0]]), np.array([0.0])
    assert am.expected_score_loss(w, X, y, 0.5, loss="squared_error").value == 18.0
    assert am.expected_score_loss(w, X, y, 0.5).value == pytest.approx(0.38913027, abs=5e-9)


def test_both_languages_show_the_same_commands():
    def fenced(name):
        return re.findall(r"```\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.S)

    commands = [fenced(name) for name in ("README.md", "README.ko.md")]

    def plain(blocks):
        return [c.replace(" --lang ko", "").strip() for c in blocks if c.startswith(("pip", "allmasks"))]

    assert plain(commands[0]) == plain(commands[1])
