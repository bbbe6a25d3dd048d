"""Every instrument against brute force on nets small enough to take apart by hand."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from allmasks.diagnose import co_adaptation, concentration, robustness, unit_penalty
from allmasks.diagnose.co_adaptation import measure_co_adaptation
from allmasks.diagnose.concentration import entropy, gini, measure_concentration, units_for
from allmasks.diagnose.scaled_units import each_site
from allmasks.replicates import half_width
from diagnose.brute import opened, shapley
from model_cases import CASES, cross_entropy, generator, seeded
from truth import covered, z_of_mean

PLACES = [(case, i) for case in CASES for i, layer in enumerate(case.build()) if isinstance(layer, nn.Dropout)]
IDS = [f"{case.name}, site {i}" for case, i in PLACES]


def place(case, index):
    net = case.build()
    loss = opened(net, index)
    ones = torch.ones(case.widths[[i for c, i in PLACES if c is case].index(index)], dtype=torch.float64)

    def value(by):
        with torch.no_grad():
            return float(loss(case.reference, case.x, case.y, by))

    return net, loss, ones, value


def without(ones, *units):
    by = ones.clone()
    by[list(units)] = 0.0
    return by


@pytest.mark.parametrize(("case", "index"), PLACES, ids=IDS)
def test_unit_penalty_and_its_second_order(case, index):
    net, loss, ones, value = place(case, index)
    p = net[index].p
    (found,) = unit_penalty(net, (case.x, case.y), case.loss, sites=str(index))
    for j in range(len(ones)):
        kept = ones.clone()
        kept[j] = 1 / (1 - p)
        truth = (1 - p) * value(kept) + p * value(without(ones, j)) - value(ones)
        assert abs(found.penalty[j] - truth) <= found.penalty_error[j] + 1e-14
        assert found.penalty_error[j] < 1e-10
    by = ones.clone().requires_grad_()
    hessian = torch.autograd.functional.hessian(lambda m: loss(case.reference, case.x, case.y, m), by)
    np.testing.assert_allclose(found.second_order, 0.5 * p / (1 - p) * hessian.diagonal(), rtol=1e-9, atol=1e-13)
    value(ones)
    h = loss.layer.seen
    np.testing.assert_allclose(found.mean, h.mean(0), atol=1e-14)
    np.testing.assert_allclose(found.variance, h.var(0, correction=0), atol=1e-14)
    np.testing.assert_allclose(found.noise_variance, p / (1 - p) * (h**2).mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.dead_fraction, (h == 0).double().mean(0))
    assert found.guarantee == "exact"
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(("case", "index"), PLACES, ids=IDS)
def test_interactions_of_all_pairs(case, index):
    net, loss, ones, value = place(case, index)
    (found,) = co_adaptation(net, (case.x, case.y), case.loss, sites=[str(index)])
    d = len(ones)
    assert (len(found.pairs), found.guarantee) == (d * (d - 1) // 2, "exact")
    sizes = []
    for (i, j), got, error in zip(found.pairs, found.interaction, found.interaction_error, strict=True):
        truth = value(without(ones, i, j)) - value(without(ones, i)) - value(without(ones, j)) + value(ones)
        sizes.append(abs(truth))
        assert abs(got - truth) <= error + 1e-14
        assert error < 1e-10
    alone = [value(without(ones, j)) - value(ones) for j in range(d)]
    np.testing.assert_allclose(found.ablation, alone, atol=1e-12)
    assert found.strength == pytest.approx(np.mean(sizes) / np.mean(np.abs(alone)), rel=1e-9)
    value(ones)
    h = loss.layer.seen.numpy()
    varies = h.std(axis=0) > 0
    np.testing.assert_allclose(
        found.correlation[np.ix_(varies, varies)], np.atleast_2d(np.corrcoef(h[:, varies].T)), atol=1e-12
    )
    eigenvalues = np.linalg.eigvalsh(np.cov(h.T, bias=True))
    share = eigenvalues[eigenvalues > 1e-13 * eigenvalues.sum()] / eigenvalues.sum()
    assert found.effective_rank == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-8)
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(("case", "index"), PLACES, ids=IDS)
def test_shapley_values_of_all_coalitions(case, index):
    net, _, ones, value = place(case, index)
    (found,) = concentration(net, (case.x, case.y), case.loss, sites=[str(index)])
    truth = np.array(shapley(value, len(ones)))
    np.testing.assert_array_less(np.abs(found.shapley - truth), found.shapley_error + 1e-13)
    assert found.shapley_error.max() < 1e-9
    assert found.shapley.sum() == pytest.approx(value(torch.zeros_like(ones)) - value(ones), abs=1e-11)
    np.testing.assert_allclose(
        found.ablation, [value(without(ones, j)) - value(ones) for j in range(len(ones))], atol=1e-12
    )
    assert (found.guarantee, found.n_orders) == ("exact", 0)
    assert found.gini == pytest.approx(gini(truth), rel=1e-9)
    assert found.entropy == pytest.approx(entropy(truth), rel=1e-9)
    assert found.carry_90 == units_for(truth)
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(("case", "index"), PLACES, ids=IDS)
def test_robustness_curves(case, index):
    net, _, ones, value = place(case, index)
    d = len(ones)
    fractions = [k / d for k in range(d + 1)]
    (found,) = robustness(net, (case.x, case.y), case.loss, sites=[str(index)], fractions=fractions, n_orders=4)
    assert found.loss[0] == pytest.approx(value(ones), abs=1e-12)
    assert found.loss[-1] == pytest.approx(value(torch.zeros_like(ones)), abs=1e-12)
    assert np.all(
        np.abs(found.loss[[0, -1]] - [value(ones), value(torch.zeros_like(ones))]) <= found.loss_error[[0, -1]]
    )
    assert 0 < found.loss_error[0] < 1e-10
    order = np.argsort([-(value(without(ones, j)) - value(ones)) for j in range(d)], kind="stable")
    truth = [value(without(ones, *order[:k])) for k in range(d + 1)]
    np.testing.assert_allclose(found.worst_loss, truth, atol=1e-12)
    assert (found.accuracy is None) == (case.loss in ("squared_error", "poisson"))
    if case.loss == "cross_entropy":
        outputs = net.eval()(case.x)
        assert found.accuracy[0] == pytest.approx(float((outputs.argmax(1) == case.y).double().mean()))
    json.dumps(found.to_dict(), allow_nan=False)


def wide(units=14, seed=0):
    net = seeded(lambda: nn.Sequential(nn.Linear(4, units), nn.Tanh(), nn.Dropout(0.5), nn.Linear(units, 3)), seed, 2.0)
    x = torch.randn(20, 4, generator=generator(5), dtype=torch.float64)
    return net, x, torch.arange(20) % 3


def runner():
    """A site of 14 units: too many for the exact way, few enough for brute force."""
    net, x, y = wide()
    (run,) = each_site(net, (x, y), None, "cross_entropy", None)
    return net, x, y, run


@pytest.mark.slow
def test_sampled_shapley_values_are_unbiased_and_their_intervals_cover():
    """60 seeds of 16 pairs of orders, 14 units: 840 intervals."""
    net, x, y, run = runner()
    loss = opened(net, 2)

    def value(by):
        with torch.no_grad():
            return float(loss(cross_entropy, x, y, by))

    truth = np.array(shapley(value, 14))
    found = [measure_concentration(run, n_orders=32, seed=seed) for seed in range(60)]
    values = np.array([one.shapley for one in found])
    assert found[0].guarantee == "statistical"
    assert np.abs(z_of_mean(values, truth)).max() < 4.5
    # The planted bias: importance by ablation alone is not the Shapley value, and the same test sees it.
    assert np.abs(z_of_mean(values, found[0].ablation)).max() > 4.5
    assert 0.93 < covered([one.interval() for one in found], truth) < 0.97
    # Half the orders taken for all of them: errors too small by √2, and the same test sees it.
    narrow = [(one.shapley - half, one.shapley + half) for one in found for half in [1.5 * one.shapley_error]]
    assert covered(narrow, truth) < 0.93
    summaries = np.array([[one.gini, one.gini_error] for one in found])
    assert abs(summaries[:, 0].mean() - gini(truth)) < 0.1 * summaries[:, 1].mean() * 3
    assert summaries[:, 1].mean() == pytest.approx(summaries[:, 0].std(ddof=1), rel=0.35)


@pytest.mark.slow
def test_sampled_interactions_are_unbiased_and_their_intervals_cover():
    """60 of 91 pairs, 2000 seeds: a coverage of 95 % is known to half a point."""
    *_, run = runner()
    exact = measure_co_adaptation(run)
    found = [measure_co_adaptation(run, max_pairs=60, seed=seed) for seed in range(2000)]
    assert {one.guarantee for one in found} == {"statistical"}
    strength = np.array([one.strength for one in found])
    error = np.array([one.strength_error for one in found])
    assert abs(z_of_mean(strength, exact.strength)) < 4.5
    share = covered([one.interval() for one in found], exact.strength)
    assert 0.93 < share < 0.97, share
    # Three planted mistakes, each of which one of the same two tests sees: one of the pairs is always the strongest;
    # pairs counted as if drawn with replacement; every value off by a standard error.
    largest = np.abs(exact.interaction).max() / np.abs(exact.ablation).mean()
    assert abs(z_of_mean(strength + (largest - strength) / 60, exact.strength)) > 4.5
    reach = half_width(error, 0.95, 60)
    wide = reach / math.sqrt(1 - 60 / 91)
    assert covered(zip(strength - wide, strength + wide, strict=True), exact.strength) > 0.97
    assert covered(zip(strength + error - reach, strength + error + reach, strict=True), exact.strength) < 0.93


def test_sampled_interactions_are_those_of_the_pairs_drawn():
    *_, run = runner()
    exact, some = measure_co_adaptation(run), measure_co_adaptation(run, max_pairs=40)
    table = {tuple(pair): value for pair, value in zip(exact.pairs.tolist(), exact.interaction, strict=True)}
    for pair, value in zip(some.pairs.tolist(), some.interaction, strict=True):
        assert value == pytest.approx(table[tuple(pair)], abs=1e-12)
    low, high = exact.interval()
    assert exact.strength - 1e-10 < low < exact.strength < high < exact.strength + 1e-10  # round-off alone
    one = measure_co_adaptation(run, max_pairs=1)
    assert (one.guarantee, len(one.pairs)) == ("uncontrolled", 1)
    assert math.isnan(one.strength_error)
    assert all(map(math.isnan, one.interval()))


def test_random_removal_equals_the_mean_over_all_sets():
    """Half of 6 units: the mean over orders against the mean over all 20 sets, |z| < 4.5."""
    case = next(c for c in CASES if c.name == "last site, three classes")
    net, _, ones, value = place(case, 2)
    from itertools import combinations

    truth = np.mean([value(without(ones, *units)) for units in combinations(range(6), 3)])
    (found,) = robustness(net, (case.x, case.y), case.loss, fractions=[0.5], n_orders=400)
    assert abs(found.loss[0] - truth) < 4.5 * found.loss_error[0]
    assert found.loss_low[0] <= found.loss[0] <= found.loss_high[0]


def test_a_channel_is_one_unit():
    net = seeded(lambda: nn.Sequential(nn.Conv2d(1, 3, 2), nn.Dropout2d(0.4), nn.Flatten(), nn.Linear(27, 2)))
    x = torch.randn(6, 1, 4, 4, generator=generator(7), dtype=torch.float64)
    y = torch.arange(6) % 2
    (found,) = unit_penalty(net, (x, y), "cross_entropy")
    loss = opened(net, 1)

    def value(by):
        with torch.no_grad():
            return float(loss(cross_entropy, x, y, by[None, :, None, None]))

    ones = torch.ones(3, dtype=torch.float64)
    for j in range(3):
        kept = ones.clone()
        kept[j] = 1 / 0.6
        truth = 0.6 * value(kept) + 0.4 * value(without(ones, j)) - value(ones)
        assert found.penalty[j] == pytest.approx(truth, abs=1e-12)
    h = loss.layer.seen
    np.testing.assert_allclose(found.mean, h.mean(dim=(0, 2, 3)), atol=1e-14)


def test_a_model_that_vmap_cannot_run_gives_the_same(monkeypatch):
    case = CASES[3]
    batched = unit_penalty(case.build(), (case.x, case.y), case.loss)
    monkeypatch.setattr(torch.func, "vmap", None)
    looped = unit_penalty(case.build(), (case.x, case.y), case.loss)
    for a, b in zip(batched, looped, strict=True):
        np.testing.assert_allclose(a.penalty, b.penalty, atol=1e-13)


def test_summaries_of_importance():
    assert gini(np.array([0.0, 0.0, 0.0, -2.0])) == 0.75
    assert entropy(np.array([1.0, 1.0, 1.0, 1.0])) == pytest.approx(math.log(4))
    assert units_for(np.array([9.0, 1.0])) == 1
    assert units_for(np.array([8.9, 1.1])) == 2
    assert all(math.isnan(f(np.zeros(3))) for f in (gini, entropy, units_for))


def test_refusals_say_what_is_needed():
    net, x, y = wide()
    with pytest.raises(ValueError, match="no dropout site is called 'x'; the sites are 2"):
        unit_penalty(net, (x, y), "cross_entropy", sites="x")
    with pytest.raises(ValueError, match="no site whose units can be removed"):
        unit_penalty(nn.Linear(4, 3).double(), (x, y), "cross_entropy")
    alpha = nn.Sequential(nn.AlphaDropout(0.5), nn.Linear(4, 3)).double()
    with pytest.raises(ValueError, match="alpha dropout puts a constant in a dropped unit's place"):
        concentration(alpha, (x, y), "cross_entropy", sites="0")
    with pytest.raises(ValueError, match="n_orders must be an even number of at least 8, got 7"):
        concentration(net, (x, y), "cross_entropy", n_orders=7)
    with pytest.raises(ValueError, match="max_pairs must be at least 1, got 0"):
        co_adaptation(net, (x, y), "cross_entropy", max_pairs=0)
    with pytest.raises(ValueError, match=r"fractions must be rising numbers in \[0, 1\], got \[0.5, 0.2\]"):
        robustness(net, (x, y), "cross_entropy", fractions=[0.5, 0.2])
    with pytest.raises(TypeError, match=r"data must be a pair \(x, y\) or a DataLoader, got int"):
        unit_penalty(net, 3, "cross_entropy")


def test_units_left_can_be_divided_by_their_share():
    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1.0, 3.0]]))
    data = torch.tensor([[1.0, 1.0]]).double(), torch.tensor([[4.0]]).double()
    (plain,) = robustness(net, data, "squared_error", fractions=[0, 0.5, 1])
    (found,) = robustness(net, data, "squared_error", fractions=[0, 0.5, 1], rescale=True)
    assert (plain.rescale, found.rescale) == (False, True)
    # The unit of weight 3 goes first: what is left scores 1, and 2 with the factor.
    assert plain.worst_loss.tolist() == [0.0, 9.0, 16.0]
    assert found.worst_loss.tolist() == [0.0, 4.0, 16.0]
    # The other way round 3 is left, or 6.
    assert set(np.round(np.array([found.loss_low[1], found.loss_high[1]]), 9)) <= {4.0}
