"""The evaluation's page, in both languages, in text, in a browser, and from the command line."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import allmasks as am
from allmasks.cli import main
from allmasks.language import translator
from allmasks.report import render_html, render_text, write
from allmasks.report.evaluation_charts import evaluation_charts
from report.chromium import browser, needs_browser, opened, scrolled_through

__all__ = ["browser"]


def net(outputs):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, outputs)
    )


@pytest.fixture(scope="module")
def found():
    torch.manual_seed(1)
    x = torch.randn(90, 4)
    classes = am.evaluate(
        net(3), x, torch.randint(0, 3, (90,)), task="multiclass", ood=4 * torch.randn(40, 4), n_masks=64
    )
    return classes, am.evaluate(net(1), x, torch.randn(90, 1), task="regression", n_masks=64)


KEYS = (
    {"reliability", "risk", "spread", "against-masks", "outside-entropy", "outside-mutual-information"},
    {"pit", "spread", "against-masks"},
)


@pytest.mark.parametrize("which", [0, 1])
def test_every_picture_and_every_metric_is_there(found, which):
    result = found[which]
    charts = evaluation_charts(result, str)
    assert {chart.key for chart in charts} == KEYS[which]
    assert all(chart.rows for chart in charts)
    text, korean = render_text(result), render_text(result, "ko")
    assert len([line for line in text.splitlines() if "±" in line]) >= len(result)
    assert "over masks" in text
    assert "마스크에 대해" in korean
    assert repr(result) == text
    for lang, words in (("en", "Is the uncertainty any good?"), ("ko", "불확실성이 쓸 만한가?")):
        assert words in render_html(result, lang)
    _ = translator("ko")
    for chart in evaluation_charts(result, _):
        assert any("가" <= c <= "힣" for c in chart.title + chart.caption), chart.key
    json.dumps(result.to_dict(), allow_nan=False)


@pytest.mark.parametrize("lang", ["en", "ko"])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1200])
def test_drawn_silent_and_alone(browser, found, tmp_path, lang, which, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        path = write(found[which], tmp_path / "report.html", lang=lang)
        requests, console = opened(browser, path)
        assert (requests, console) == ([path.as_uri()], [])
        scrolled_through(browser, sorted(KEYS[which]))
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert browser.get_log("browser") == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


for mark in needs_browser:
    test_drawn_silent_and_alone = mark(test_drawn_silent_and_alone)

MODEL = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "net.py").write_text(MODEL)
    for name, n in (("test", 80), ("held", 60), ("far", 30)):
        x = rng.normal(size=(n, 4)).astype(np.float32)
        np.savez(tmp_path / f"{name}.npz", X=x, y=rng.integers(0, 3, n))
    return tmp_path


def test_from_the_command_line(files, capsys):
    call = ["evaluate", "--model", "net.py:make", "--test", "test.npz", "--task", "multiclass", "--masks", "64"]
    more = ["--data", "held.npz", "--ood", "far.npz", "--out", "page.html", "--json", "numbers.json"]
    assert main([*call, *more]) == 0
    said = capsys.readouterr()
    assert "log loss" in said.out
    assert "conformal at 0.9: coverage" in said.out
    numbers = json.loads((files / "numbers.json").read_text())
    assert {"log_loss", "ood_entropy_auroc"} <= set(numbers["metrics"])
    assert 0.7 < numbers["afterwards"]["coverage"] <= 1
    assert (files / "page.html").read_text().startswith("<!")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--test", "test.npz"], "--test needs --model"),
        (["--model", "net.py:make"], "--model needs --test FILE"),
        (["--model", "net.py:make", "--test", "test.npz", "--level", "2"], "--level must lie between 0 and 1"),
        (["--model", "net.py:make", "--test", "none.npz"], "none.npz"),
        (["--model", "net.py:make", "--test", "test.npz", "--task", "ranking"], "task must be one of"),
        (["--out", "-"], "--out must be a file name"),
    ],
)
def test_the_command_refuses_in_one_line(files, capsys, arguments, text):
    assert main(["evaluate", *arguments]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert text in said[-1]
    assert not (files / "page.html").exists()
