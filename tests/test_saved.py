"""Results that are written come back bit for bit, whatever they hold, and nothing is run to read them."""

import json
import math
from dataclasses import fields, is_dataclass

import numpy as np
import pytest
import torch
from torch import nn

import allmasks as am
from allmasks.results import Note


def same(a, b):
    """Equal to the last bit, NaN and types included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Note):
        return (str(a), a.template, a.fields) == (str(b), b.template, b.fields)
    if isinstance(a, torch.Tensor):
        return (
            a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.detach().nan_to_num(3e300), b.nan_to_num(3e300))
        )
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, 5), nn.ReLU(), nn.Dropout(), nn.Linear(5, 3)
    )


X, Y = torch.linspace(-1, 1, 30).reshape(10, 3), torch.arange(10) % 3
RESULTS = {
    "score": lambda: am.expected_score_loss([1.0, -2.0], [[1.0, 2.0]], [1.0], 0.5, return_grad=True),
    "moments": lambda: am.expected_score([1.0, -2.0], [[1.0, 2.0]], 0.5),
    "uncontrolled": lambda: am.expected_score_loss(
        [1.0, -2.0], [[1.0, 2.0]], [1.0], 0.5, method=am.methods.GaussianMoments()
    ),
    "model": lambda: am.expected_loss(net(), X, Y, "cross_entropy", n_masks=64),
    "one mask": lambda: am.expected_loss(net(), X, Y, "cross_entropy", method=am.methods.MonteCarlo(n_masks=1)),
    "prediction": lambda: am.predict(net(), X, task="multiclass", n_masks=64, keep_samples=True),
    "audit": lambda: am.audit(net(), (X, Y), "cross_entropy", validation=(X[:4], Y[:4]), n_masks=64, progress=False),
}


@pytest.mark.parametrize("name", RESULTS)
def test_what_is_loaded_is_what_was_saved(name, tmp_path):
    found = RESULTS[name]()
    path = am.save(found, tmp_path / "found.json")
    json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    again = am.load(path)
    assert same(found, again)
    assert repr(again) == repr(found)
    assert am.save(again, tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_a_loaded_audit_makes_the_same_page(tmp_path):
    found = RESULTS["audit"]()
    again = am.load(am.save(found, tmp_path / "found.json"))
    pages = [one.to_html(tmp_path / "page.html", lang="ko").read_bytes() for one in (found, again)]
    assert pages[0] == pages[1]


def test_a_difference_is_noticed():
    """The planted fault: one bit."""
    found = RESULTS["score"]()
    assert not same(found, am.expected_score_loss([1.0, -2.0 + 4e-16], [[1.0, 2.0]], [1.0], 0.5, return_grad=True))


def test_what_cannot_be_written_or_read_says_why(tmp_path):
    with pytest.raises(TypeError, match="save takes a result of allmasks, got dict"):
        am.save({}, tmp_path / "a.json")
    with pytest.raises(FileNotFoundError, match="does not exist; create it first"):
        am.save(RESULTS["score"](), tmp_path / "missing" / "a.json")
    path = tmp_path / "b.json"
    path.write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        am.load(path)
    path.write_text(json.dumps(RESULTS["score"]().to_dict()))
    with pytest.raises(ValueError, match=r"was not written by am\.save"):
        am.load(path)
    for name in ("os:system", "allmasks.files:write_text", "allmasks.nowhere:Thing"):
        path.write_text(json.dumps({"format": "allmasks result 1", "result": {"class": name, "fields": {}}}))
        with pytest.raises(ValueError, match="cannot be read by this version"):
            am.load(path)
    with pytest.raises(FileNotFoundError):
        am.load(tmp_path / "c.json")


def test_frames():
    pd = pytest.importorskip("pandas")
    found = RESULTS["model"]()
    frame = found.to_frame()
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == ["expected_loss", "error"]
    assert np.array_equal(frame["expected_loss"], found.per_example.detach())
    prediction = RESULTS["prediction"]()
    frame = prediction.to_frame()
    assert len(frame) == 10
    assert np.array_equal(frame["mean[2]"], prediction.mean[:, 2].detach())
    assert np.array_equal(frame["entropy_error"], prediction.entropy_error.detach())
    assert "log_likelihood" not in frame


def test_show_versions(capsys):
    am.show_versions()
    out = capsys.readouterr().out
    for name in ("python", "allmasks", "torch", "numba", "cpu", "gpu"):
        assert any(line.startswith(f"{name} ") for line in out.splitlines()), name
