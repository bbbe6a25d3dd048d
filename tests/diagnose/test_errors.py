"""The errors of the instruments: round-off where nothing is sampled, in both precisions and at every size of loss, and
intervals that cover where `reliable` says so. The truth is enumeration in extended precision."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from allmasks.diagnose import co_adaptation, concentration, robustness, unit_penalty
from allmasks.diagnose.co_adaptation import _strength, measure_co_adaptation
from allmasks.diagnose.concentration import entropy, gini, measure_concentration, units_for
from allmasks.diagnose.robustness import measure_robustness
from allmasks.diagnose.scaled_units import each_site
from allmasks.replicates import student
from model_cases import generator, seeded
from truth import every_mask

LONG = np.longdouble


def extended(layers, x, y, loss):
    """The mean loss as a function of the first site's multipliers, every step in extended precision."""
    weights = [(m.weight.detach().numpy().astype(LONG), m.bias.detach().numpy().astype(LONG)) for m in layers]

    def value(by):
        z = x.numpy().astype(LONG) * np.asarray(by, LONG)
        for i, (w, b) in enumerate(weights):
            z = z @ w.T + b
            if i + 1 < len(weights):
                z = np.tanh(z)
        t = y.numpy().astype(LONG)
        if loss == "squared_error":
            each = (z - t) ** 2
        elif loss == "logistic":
            each = np.maximum(z, 0) + np.log1p(np.exp(-abs(z))) - t * z
        else:
            each = np.exp(z) - t * z
        return each.sum(axis=1).mean()

    return value


def within(got, truth, error):
    got, truth, error = (np.asarray(v, LONG) for v in (got, truth, error))
    assert np.isfinite(error).all()
    assert (np.abs(got - truth) <= error).all(), (got, truth, error)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("loss", ["squared_error", "logistic", "poisson"])
@pytest.mark.parametrize("size", [0.02, 1.0, 300.0])
@pytest.mark.parametrize("p", [0.5, 0.999])
def test_exact_instruments_are_off_by_no_more_than_their_errors(dtype, loss, size, p):
    rng = np.random.default_rng([int(10 * size), int(1000 * p), len(loss)])
    scale = {"squared_error": 1.0, "logistic": 0.2, "poisson": 0.01}[loss] if p == 0.5 else 0.001
    layers = [nn.Linear(4, 2), nn.Linear(2, 1)] if size <= 1 else [nn.Linear(4, 1)]
    net = nn.Sequential(nn.Dropout(p), *([layers[0], nn.Tanh(), layers[1]] if len(layers) > 1 else layers)).to(dtype)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.tensor(rng.normal(size=parameter.shape) * size * scale))
    x = torch.tensor(rng.normal(size=(7, 4))).to(dtype)
    y = torch.tensor(rng.normal(size=(7, 1)) * size)
    y = y if loss == "squared_error" else (y > 0).double()
    value = extended(layers, x, y, loss)
    table = {bits: value(bits) for bits in (tuple(map(int, mask)) for mask in every_mask([p] * 4)[0])}
    alone = [table[tuple(int(i != j) for i in range(4))] - table[1, 1, 1, 1] for j in range(4)]
    shapley = []
    for j in range(4):
        steps = [(sum(b), table[b] - table[(*b[:j], 1, *b[j + 1 :])]) for b in table if not b[j]]
        shapley.append(sum(step / LONG(4 * math.comb(3, k)) for k, step in steps))
    found = concentration(net, (x, y), loss)[0]
    within(found.shapley, shapley, found.shapley_error)
    within(found.ablation, alone, found.ablation_error)
    exact = np.array(shapley, float)
    if np.isfinite(found.gini_error):
        within(found.gini, gini(exact), found.gini_error)
        within(found.entropy, entropy(exact), found.entropy_error)
        within(found.carry_90, units_for(exact), found.carry_90_error)
    pairs = co_adaptation(net, (x, y), loss)[0]
    both = [table[tuple(int(k not in pair) for k in range(4))] for pair in pairs.pairs.tolist()]
    truth = [b - alone[i] - alone[j] - table[1, 1, 1, 1] for b, (i, j) in zip(both, pairs.pairs, strict=True)]
    within(pairs.interaction, truth, pairs.interaction_error)
    if pairs.guarantee == "exact":
        within(pairs.strength, np.mean(np.abs(truth)) / np.mean(np.abs(alone)), pairs.strength_error)
    units = unit_penalty(net, (x, y), loss)[0]
    q = 1 - LONG(p)
    kept = [value([1 / q if i == j else 1 for i in range(4)]) for j in range(4)]
    penalty = [q * on + LONG(p) * (off + table[1, 1, 1, 1]) for on, off in zip(kept, alone, strict=True)]
    within(units.penalty, np.array(penalty) - table[1, 1, 1, 1], units.penalty_error)
    removed = robustness(net, (x, y), loss, fractions=[0.0, 1.0])[0]
    within(removed.loss, [table[1, 1, 1, 1], table[0, 0, 0, 0]], removed.loss_error)


def test_shapley_values_of_a_large_loss_know_their_last_place():
    """166 887.7 ± 1e-15 was said: one unit in its last place is 3e-11."""
    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 1)).double()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[301.7, -122.3, 40.1]]))
    found = concentration(net, (torch.ones(5, 3).double(), torch.full((5, 1), 700.0).double()), "squared_error")[0]
    assert found.shapley_error.min() > np.spacing(np.abs(found.shapley).max())
    assert found.shapley_error.max() < 1e-7


def test_a_strength_without_ablations_claims_nothing():
    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 1)).double()
    with torch.no_grad():
        net[1].weight.zero_()
    found = co_adaptation(net, (torch.ones(5, 3).double(), torch.ones(5, 1).double()), "squared_error")[0]
    assert (found.guarantee, found.reliable) == ("uncontrolled", False)
    assert math.isnan(found.strength_error)


def interactions(seed, units):
    net = seeded(
        lambda: nn.Sequential(
            nn.Linear(4, units), nn.Tanh() if seed % 2 else nn.ReLU(), nn.Dropout(0.5), nn.Linear(units, 3)
        ),
        seed,
        1.0 + seed,
    )
    x = torch.randn(20, 4, generator=generator(5), dtype=torch.float64)
    (run,) = each_site(net, (x, torch.arange(20) % 3), None, "cross_entropy", None)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("units", [13, 24])
def test_the_strength_of_few_pairs_is_flagged_and_of_many_covers(seed, units):
    """max_pairs 10, 20, 50 of 78 covered 74, 82 and 93 %. 2 000 subsets of one exact run."""
    run = interactions(seed, units)
    exact = measure_co_adaptation(run)
    n_pairs, rng = len(exact.pairs), np.random.default_rng(seed)
    for n in (10, 20, 50, 150, 250):
        if n >= n_pairs:
            continue
        covered, reliable = [], []
        for _ in range(2000):
            some = rng.choice(n_pairs, n, replace=False)
            found = _strength(
                exact.interaction[some], exact.interaction_error[some], exact.ablation, np.zeros(units), n_pairs
            )
            covered.append(abs(found.value - exact.strength) <= student(0.95, n) * found.error)
            reliable.append(found.reliable)
        covered, reliable = np.array(covered), np.array(reliable)
        if reliable.sum() >= 400:
            assert covered[reliable].mean() >= 0.92, (n, covered[reliable].mean())
        if covered.mean() < 0.85:
            assert (~reliable)[~covered].mean() >= 0.95, n
        # One of these nets has few strong pairs: 150 of 276 cover 93.2 % there, and are flagged.
        if n == 150 and covered.mean() >= 0.935:
            assert reliable.mean() > 0.85


def test_few_pairs_say_so():
    run = interactions(0, 13)
    few = measure_co_adaptation(run, max_pairs=10)
    assert not few.reliable
    assert "a mean over 10 of 78 pairs, too few" in few.notes[0]
    every = measure_co_adaptation(run)
    assert every.reliable
    assert every.notes == ()


def one_matters(units=20):
    """Only the last of the units left says anything: what each is worth as the first of an order is seldom seen."""

    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.5)
            self.w = nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, x):
            h = self.drop(x)
            return self.w * (h.sum(dim=1, keepdim=True) == h[:, :1]) * h[:, :1]

    net = First()
    x = torch.ones(2, units, dtype=torch.float64)
    (run,) = each_site(net, (x, torch.zeros(2, 1).double()), None, "squared_error", None)
    return run


def test_orders_that_cannot_have_shown_what_matters_are_flagged():
    """The first unit matters only when it stands alone: 2 of 20 pairs of orders put it there."""
    found = measure_concentration(one_matters(), n_orders=16)
    assert not found.reliable[0]
    assert found.decisive == ()
    removed = measure_robustness(one_matters(), fractions=[0.0, 0.5, 0.95, 1.0], n_orders=16)
    assert removed.reliable.tolist() == [True, True, False, True]


def test_units_of_a_site_that_works_in_place():
    x, y = torch.randn(3, 2, generator=generator(1)).double(), torch.tensor([0, 1, 0])
    plain, over = (
        seeded(lambda i=i: nn.Sequential(nn.Dropout(0.5, inplace=i), nn.Linear(2, 2))) for i in (False, True)
    )
    a, b = (unit_penalty(net, (x.clone(), y), "cross_entropy")[0] for net in (plain, over))
    np.testing.assert_array_equal(a.second_order, b.second_order)
    assert np.isfinite(a.second_order).all()
