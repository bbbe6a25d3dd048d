"""Nested masks, allotted by a pilot: where the variance arises, unbiased, and the same for every batch size."""

import numpy as np
import pytest
import torch
from torch import nn

import allmasks as am
from allmasks.methods import Enumeration, MonteCarlo
from model_cases import generator, seeded
from truth import z_of_mean

X = torch.randn(4, 3, generator=generator(4), dtype=torch.float64)


def net(below: float, last: float) -> nn.Module:
    def make():
        layers = [nn.Dropout(below), nn.Linear(3, 2000), nn.Tanh(), nn.Linear(2000, 5), nn.Tanh(), nn.Dropout(last)]
        return nn.Sequential(*layers, nn.Linear(5, 3))

    return seeded(make, seed=2, scale=1.5)


def inner(model, batch_size=None):
    from allmasks.over_masks.request import Request
    from allmasks.prediction.allotment import allotted
    from allmasks.prediction.averages import route_of
    from allmasks.prediction.outputs import Asked, outputs_of
    from allmasks.ranks.groups import ALONE

    outputs = outputs_of(model, X, None, Asked("multiclass"), ALONE, batch_size=batch_size)
    with torch.no_grad(), outputs.look.lent():
        plan = outputs.plan(Request(MonteCarlo(n_masks=256)))
        return allotted(outputs, route_of(outputs, plan.chosen, 0), 0).option.inner


def test_the_last_layer_gets_more_masks_where_its_share_is_larger():
    small, large = inner(net(0.5, 0.05)), inner(net(0.02, 0.6))
    assert small < large, (small, large)
    assert inner(net(0.02, 0.6), batch_size=1) == large


@pytest.mark.slow
@pytest.mark.parametrize("rates", [(0.5, 0.05), (0.02, 0.6)])
def test_allotted_masks_are_unbiased(rates):
    model = net(*rates)
    exact = am.predict(model, X, task="multiclass", method=Enumeration())
    x = X[:1].repeat(100, 1)
    many = am.predict(model, x, task="multiclass", method=MonteCarlo(n_masks=256))
    for quantity in ("mean", "expected_entropy"):
        values, truth = getattr(many, quantity), getattr(exact, quantity)[0]
        z = z_of_mean(values, truth)
        assert np.abs(z).max() < 4.5, (quantity, z)
    assert np.abs(z_of_mean(many.mean * 1.02, exact.mean[0])).max() > 4.5
