"""Faults that were put in are found and named; nets that nobody trained raise no alarm."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from allmasks.diagnose import co_adaptation, concentration, unit_penalty
from allmasks.diagnose.co_adaptation import measure_co_adaptation
from allmasks.diagnose.concentration import measure_concentration
from allmasks.diagnose.scaled_units import each_site
from allmasks.diagnose.unit_penalty import measure_unit_penalty
from model_cases import seeded

SITE = "2"


def digits(n=150):
    pixels, labels = load_digits(return_X_y=True)
    x = torch.tensor(pixels[:n])
    return (x - x.mean(0)) / (x.std(0) + 1e-9), torch.tensor(labels[:n])


def net(units=16, seed=0, **changes):
    return seeded(
        lambda: nn.Sequential(nn.Linear(64, units), nn.ReLU(), nn.Dropout(0.5), nn.Linear(units, 10)), seed, **changes
    )


def test_duplicated_units_show_their_co_adaptation():
    x, y = digits()
    twins = net(scale=2)
    with torch.no_grad():
        twins[0].weight[7], twins[0].bias[7] = twins[0].weight[3], twins[0].bias[3]
        twins[3].weight[:, 7] = twins[3].weight[:, 3] = 3 * twins[3].weight[:, 3]
    (found,) = co_adaptation(twins, (x, y), "cross_entropy", sites=SITE)
    assert found.duplicates == ((3, 7),)
    assert found.correlation[3, 7] == pytest.approx(1)
    assert found.pairs[found.order[0]].tolist() == [3, 7]
    (before,) = co_adaptation(net(scale=2), (x, y), "cross_entropy", sites=SITE)
    assert found.effective_rank < before.effective_rank
    assert before.duplicates == ()


def test_a_decisive_unit_is_named():
    x, _ = digits()
    decided = net()
    with torch.no_grad():
        decided[3].weight.mul_(0.01)
        decided[3].weight[0, 5], decided[3].weight[1, 5] = 20.0, -20.0
        h = decided[:2](x)[:, 5]
    y = (h < h.median()).long()
    with torch.no_grad():
        decided[3].bias.fill_(-20.0)
        decided[3].bias[:2] = torch.tensor([0.0, 40 * float(h.median())])
    (found,) = concentration(decided, (x, y), "cross_entropy", sites=SITE)
    assert found.decisive == (5,)
    assert found.order[0] == 5
    assert found.carry_90 == pytest.approx(1, abs=0.2)
    assert found.gini > 0.8


def test_dead_units_are_named():
    x, y = digits()
    half_dead = net()
    with torch.no_grad():
        half_dead[0].weight[[2, 9]] = 0.0
        half_dead[0].bias[[2, 9]] = -1.0
    (found,) = unit_penalty(half_dead, (x, y), "cross_entropy", sites=SITE)
    assert found.dead == [2, 9]
    assert (found.penalty[[2, 9]] == 0).all()
    assert found.penalty[found.order[0]] > 0


@pytest.mark.slow
def test_untrained_nets_raise_no_alarm():
    """Duplicates, decisive units, dead units: over 200 initializations at most 5 % of nets raise any of them."""
    x, y = digits()
    alarms = 0
    for seed in range(200):
        fresh = net(seed=seed)
        (run,) = each_site(fresh, x, y, "cross_entropy", SITE)
        pairs, shares, units = measure_co_adaptation(run), measure_concentration(run, 16), measure_unit_penalty(run)
        alarms += bool(pairs.duplicates or shares.decisive or units.dead)
    assert alarms <= 10
