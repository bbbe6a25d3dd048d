"""Schedules of what drops and is no dropout layer of torch's."""

import torch
from torch import nn

import allmasks as am


class DropPath(nn.Module):
    """With timm's attributes."""

    def __init__(self, drop_prob=0.0, scale_by_keep=True):
        super().__init__()
        self.drop_prob, self.scale_by_keep = drop_prob, scale_by_keep

    def forward(self, x):
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep = 1 - self.drop_prob
        return x * x.new_empty((len(x), *(1,) * (x.ndim - 1))).bernoulli_(keep) / keep


class StochasticDepth(nn.Module):
    """With torchvision's."""

    def __init__(self, p):
        super().__init__()
        self.p, self.mode = p, "row"

    def forward(self, x):
        return x


class Holds(nn.Module):
    """Not a layer that drops: it has parts of its own, and its rate is theirs."""

    def __init__(self):
        super().__init__()
        self.drop_prob, self.path = 0.2, DropPath(0.2)

    def forward(self, x):
        return self.path(x)


def test_a_schedule_reaches_drop_path():
    path, depth, holds, drop = DropPath(0.4), StochasticDepth(0.1), Holds(), nn.Dropout(0.5)
    net = nn.Sequential(nn.Linear(3, 3), drop, path, depth, holds)
    schedule = am.nn.RateScheduler(net, "linear", steps=4)
    assert schedule.rates == {"1": 0.5, "2": 0.4, "3": 0.1, "4.path": 0.2}
    schedule.step()
    assert (drop.p, path.drop_prob, depth.p, holds.path.drop_prob) == (0.375, 0.4 * 0.75, 0.1 * 0.75, 0.2 * 0.75)
    assert holds.drop_prob == 0.2
    found = {site.name: site.p for site in am.find_dropout(net, torch.randn(4, 3))}
    assert abs(found["2:bernoulli"] - 0.3) < 1e-12
    again = am.nn.RateScheduler(net, "late", steps=2)
    assert again.rates == schedule.rates
    assert path.drop_prob == 0.0
    again.load_state_dict({**again.state_dict(), "t": 2})
    assert path.drop_prob == 0.4


def test_timms_own():
    import pytest

    layers = pytest.importorskip("timm.layers", reason="timm needs a torchvision that loads")
    net = nn.Sequential(nn.Linear(3, 3), layers.DropPath(0.3))
    am.nn.RateScheduler(net, "linear", steps=3).step()
    assert abs(net[1].drop_prob - 0.2) < 1e-12
