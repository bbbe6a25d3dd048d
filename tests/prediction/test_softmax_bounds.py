"""Predictions of several classes with dropout before the last Linear: proven bounds against every mask."""

import pytest
import torch
from torch import nn

import allmasks as am
from allmasks.methods import Enumeration, SoftmaxBounds
from allmasks.prediction.features import QUANTITIES


def net(scale: float, dtype=torch.float64, p: float = 0.3) -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Dropout(p), nn.Linear(10, 4)).to(dtype)
    made[3].weight.data *= scale
    return made


X = torch.randn(30, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2


@pytest.mark.parametrize("scale", [1e-6, 0.1, 1.0, 4.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_quantity_lies_in_its_interval(scale, dtype):
    model, x = net(scale, dtype), X.to(dtype)
    ours = am.predict(model, x, task="multiclass", method=SoftmaxBounds(tol=1.0))
    every = am.predict(model, x, task="multiclass", method=Enumeration())
    assert (ours.guarantee, ours.n_masks) == ("bounded", 0)
    for name in QUANTITIES:
        value, error = getattr(ours, name), getattr(ours, f"{name}_error")
        truth, own = getattr(every, name), getattr(every, f"{name}_error")
        assert bool(torch.isfinite(error).all())
        assert bool(((value - truth).abs() <= error + own).all()), name
    # What is certain is so.
    assert bool((ours.mean.argmax(1) == every.mean.argmax(1))[ours.certain].all())


def test_bounds_are_narrow_where_scores_hardly_move():
    ours = am.predict(net(0.1), X, task="multiclass", method=SoftmaxBounds())
    assert float(ours.mean_error.max()) < 1e-6
    assert float(ours.expected_entropy_error.max()) < 1e-3
    assert bool(ours.certain.all())
    drawn = am.predict(net(0.1), X, task="multiclass", n_masks=64, budget=1)
    assert drawn.guarantee == "statistical"
    assert not bool(drawn.certain.any())


def test_where_it_does_not_apply_it_says_why():
    with pytest.raises(am.MethodNotApplicable, match=r"rows are wider than tol=1e-09: rows \d"):
        am.predict(net(4.0), X, task="multiclass", method=SoftmaxBounds(tol=1e-9))
    with pytest.raises(am.MethodNotApplicable, match="it is for the softmax of three or more outputs"):
        am.predict(net(1.0), X, task="regression", method=SoftmaxBounds())
    with pytest.raises(am.MethodNotApplicable, match="other sites are random too: 0"):
        am.predict(nn.Sequential(nn.Dropout(0.2), *net(1.0)), X, task="multiclass", method=SoftmaxBounds())
    regression = am.predict(net(1.0), X, task="regression")
    with pytest.raises(ValueError, match="about the largest of several classes, and the task is regression"):
        _ = regression.certain
    plan = am.plan_prediction(net(1.0, p=0.5), X, task="multiclass", budget=1)
    assert "SoftmaxBounds: its width is known afterwards only; used only when asked for" in repr(plan)
