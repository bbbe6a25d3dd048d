"""Several sites raced: the truth is kept, the answer says what it does not know, and faults of the fit are told."""

import itertools
import math
import time

import numpy as np
import pytest
import torch
from torch import nn

import allmasks as am
from allmasks.diagnose.halving import excluded, moderated, rungs
from allmasks.trials import Trials

GRID = {"a": [0.0, 0.1, 0.2, 0.3], "b": [0.0, 0.3, 0.5, 0.7]}


def noise(rates, seed, size):
    draw = np.random.default_rng([seed, *(round(1000 * v) for v in rates.values())])
    return size * draw.normal() + size * np.random.default_rng(seed).normal()


def bowl(rates, seed, size=0.02, a=0.1, b=0.5):
    return 1 + (rates["a"] - a) ** 2 + (rates["b"] - b) ** 2 + noise(rates, seed, size)


def test_the_truly_best_is_seldom_excluded_and_a_broken_test_would_be_caught():
    """300 races of 20 arms each: equal, or bowls with unequal noise; one-sided 5 %, + 2.6 s.e."""
    rng = np.random.default_rng(0)

    def lost(alpha, runs=300):
        count = 0
        for run in range(runs):
            means = np.zeros(20) if run % 2 else 0.3 * np.linspace(-1, 1, 20) ** 2
            values = means[:, None] + np.linspace(0.5, 2, 20)[:, None] * rng.normal(size=(20, 24))
            out = np.zeros(20, bool)
            for n in rungs(3, 24):
                out |= excluded(values[:, :n], ~out, alpha)
            count += out[0 if run % 2 else int(means.argmin())]
        return count / runs

    assert lost(0.05 / (19 * 4)) <= 0.08
    assert lost(0.05) > 0.15


def test_moderated_variances_are_smyths():
    rng = np.random.default_rng(1)
    prior, scale = 8.0, 2.0
    true = scale * prior / rng.chisquare(prior, 4000)
    seen = true * rng.chisquare(3, 4000) / 3
    drawn, freedom = moderated(seen, 3)
    assert freedom == pytest.approx(prior + 3, rel=0.15)
    assert np.mean((np.log(drawn) - np.log(true)) ** 2) < 0.4 * np.mean((np.log(seen) - np.log(true)) ** 2)
    assert moderated(np.array([1.0, 2.0]), 4)[1] == 4.0


def test_it_finds_the_best_and_says_what_it_does_not_know():
    found = am.rate_curve(bowl, GRID, seeds=24)
    assert isinstance(found, am.RateRace)
    assert {"a": 0.1, "b": 0.5} in found.tied
    assert abs(found.best["b"] - 0.5) < 0.25
    assert found.n_fits < 0.5 * found.grid_fits
    for site, (low, high) in found.ranges.items():
        assert low <= found.best[site] <= high
    truth = bowl(found.baseline, 0, 0.0) - bowl(found.best, 0, 0.0)
    assert abs(found.gain - truth) < 4.5 * found.gain_error
    assert f"best a {found.best['a']:g}, b {found.best['b']:g}" in repr(found)
    assert "of the 384 of a full grid" in repr(found)


def test_gain_is_not_the_luck_of_the_winner():
    """Equal arms: the gain is 0 on average over 60 races, where on the race's own seeds it is not."""
    gains, own = [], []
    for k in range(60):
        found = am.rate_curve(lambda r, s, k=k: noise(r, s + 1000 * k, 1.0), GRID, seeds=12)
        gains.append(found.gain)
        at = found.arms.index({"a": 0.0, "b": 0.5})
        best = found.arms.index(found.best)
        own.append(np.nanmean(found.values[at, :3]) - np.nanmean(found.values[best, :3]))
    assert abs(np.mean(gains)) < 4.5 * np.std(gains, ddof=1) / 60**0.5
    assert np.mean(own) > 4.5 * np.std(own, ddof=1) / 60**0.5


def test_no_dropout_is_said():
    found = am.rate_curve(lambda r, s: bowl(r, s, 0.001, 0.0, 0.0), GRID, seeds=16)
    assert found.best == {"a": 0.0, "b": 0.0}
    assert "no dropout at any of these sites is best" in found.notes
    near = am.rate_curve(lambda r, s: bowl(r, s, 0.5), GRID, seeds=16)
    assert ("no dropout at all of these sites is not excluded" in near.notes) or not any(near.best.values())


@pytest.mark.parametrize("wrong", [math.nan, math.inf, RuntimeError("diverged")])
def test_rates_at_which_fit_fails_are_left_out(wrong, tmp_path):
    calls = []

    def fit(rates, seed):
        calls.append(rates)
        if rates["b"] == 0.7 and isinstance(wrong, Exception):
            raise wrong
        return wrong if rates["b"] == 0.7 else bowl(rates, seed)

    found = am.rate_curve(fit, GRID, seeds=12, cache=tmp_path, name="fit")
    assert len(found.failed) == 4
    assert all(rates["b"] == 0.7 for rates, _ in found.failed)
    assert found.best["b"] != 0.7
    assert "4 combinations failed and are left out; the first: fit({'a': 0.0, 'b': 0.7}, seed=0) r" in repr(found)
    before = len(calls)
    again = am.rate_curve(fit, GRID, seeds=12, cache=tmp_path, name="fit")
    # What was not finite is known; what raised may have been mended, and is tried once more.
    assert (len(calls) == before) == (not isinstance(wrong, Exception))
    assert again.best == found.best


def test_a_fit_that_never_works_is_refused_early():
    def fit(rates, seed):
        raise KeyError("rate")

    with pytest.raises(ValueError, match=r"combinations of rates tried have failed; the first: .* raised KeyError"):
        am.rate_curve(fit, GRID, seeds=12)
    with pytest.raises(ValueError, match="tried have failed"):
        am.rate_curve(lambda rates, seed: math.nan, {"a": [0.5]}, seeds=12)
    with pytest.raises(TypeError, match="returned str: it must return one number, the validation loss"):
        am.rate_curve(lambda rates, seed: "low", GRID, seeds=12)


def test_a_baseline_that_fails_leaves_the_gain_unknown():
    found = am.rate_curve(lambda r, s: bowl(r, s) if r["a"] < 0.4 else math.nan, GRID, seeds=12)
    assert math.isnan(found.gain)
    assert any(note.startswith("the gain is not known: fit({'a': 0.5, 'b': 0.5}") for note in found.notes)


def test_a_killed_race_goes_on_with_the_same_answer(tmp_path):
    whole = am.rate_curve(bowl, GRID, seeds=12)
    left = itertools.count()

    def killed(rates, seed):
        if next(left) == 20:
            raise KeyboardInterrupt
        return bowl(rates, seed)

    with pytest.raises(KeyboardInterrupt):
        am.rate_curve(killed, GRID, seeds=12, cache=tmp_path, name="bowl")
    assert len(list(tmp_path.glob("*.json"))) == 20
    fits = []

    def counted(rates, seed):
        fits.append(1)
        return bowl(rates, seed)

    found = am.rate_curve(counted, GRID, seeds=12, cache=tmp_path, name="bowl")
    assert len(fits) == len(set(map(str, Trials(tmp_path).folder.glob("*.json")))) - 20
    assert found.best == whole.best
    np.testing.assert_array_equal(found.values, whole.values)
    assert (found.gain, found.tied) == (whole.gain, whole.tied)


def test_a_budget_ends_it_and_more_goes_to_those_not_excluded():
    def slow(rates, seed):
        time.sleep(0.004)
        return bowl(rates, seed, 0.1)

    began = time.monotonic()
    short = am.rate_curve(slow, GRID, seeds=40, budget=0.4, start={"a": 0.1, "b": 0.5})
    assert time.monotonic() - began < 3
    assert 0 < short.n_fits < 200
    assert short.arms[int(np.flatnonzero(short.n_seeds)[0])]
    with pytest.raises(ValueError, match="the budget ended after 0 fits, before any combination had two seeds"):
        am.rate_curve(slow, GRID, seeds=40, budget=1e-9)
    long = am.rate_curve(bowl, GRID, seeds=12, budget=60)
    plain = am.rate_curve(bowl, GRID, seeds=12)
    assert long.n_fits > plain.n_fits
    assert set(map(str, long.tied)) <= set(map(str, plain.tied))
    tied = [long.arms.index(rates) for rates in long.tied]
    assert (long.n_seeds[tied] == 9).all()


def test_it_begins_near_what_an_audit_says():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1))
    audit = am.audit(net, (torch.randn(40, 6), torch.randn(40, 1)), "squared_error", progress=False)
    first = []

    def fit(rates, seed):
        first.append(rates)
        return 1.0 + seed

    am.rate_curve(fit, {"0": [0.0, 0.2, 0.5, 0.8], "3": [0.0, 0.2, 0.5, 0.8]}, seeds=8, start=audit)
    paid = {one.site.name: one.alone for one in audit.per_site}
    dear, cheap = max(paid, key=paid.get), min(paid, key=paid.get)
    assert first[0][dear] <= first[0][cheap]
    assert max(first[0].values()) > 0
    with pytest.raises(ValueError, match="the audit has no site 'x'; its sites are 0, 3"):
        am.rate_curve(fit, {"x": [0.1, 0.2]}, seeds=8, start=audit)


@pytest.mark.parametrize(
    ("p", "options", "said"),
    [
        ({}, {}, "p must name one or more sites"),
        ({"a": []}, {}, r"p\['a'\] must be one or more rates"),
        ({"a": [1.0]}, {}, r"must lie in \[0, 1\), got 1.0"),
        ({"a": [0.1, float("nan")]}, {}, r"must lie in \[0, 1\), got nan"),
        ({f"s{i}": [0.1, 0.2] for i in range(13)}, {}, "8,192 combinations of rates, more than 4,096"),
        (GRID, {"seeds": 4}, "4 seeds are too few for several sites"),
        (GRID, {"budget": 0}, "budget must be seconds above 0"),
        (GRID, {"budget": math.nan}, "budget must be seconds above 0"),
        (GRID, {"baseline": {"a": 0.5}}, "baseline must give a rate for each of a, b"),
        (GRID, {"start": {"c": 0.5}}, "start must give a rate for each of a, b"),
        (GRID, {"first_look": 2}, "first_look must be a whole number of at least 3"),
        ([0.1, 0.2], {"budget": 5}, "start and budget are for several sites"),
    ],
)
def test_what_makes_no_race_is_refused(p, options, said):
    with pytest.raises(ValueError, match=said):
        am.rate_curve(bowl, p, **({"seeds": 12} | options))


def test_one_combination_and_exact_losses():
    one = am.rate_curve(bowl, {"a": [0.1], "b": 0.3}, seeds=8)
    assert one.best == {"a": 0.1, "b": 0.3}
    assert one.tied == (one.best,)
    exact = am.rate_curve(lambda r, s: bowl(r, 0, 0.0), GRID, seeds=8)
    assert exact.tied == ({"a": 0.1, "b": 0.5},)
    flat = am.rate_curve(lambda r, s: 1.0, GRID, seeds=8)
    assert len(flat.tied) == 16


@pytest.mark.slow
def test_two_processes_give_the_same_answer():
    def fit(rates, seed):  # travels whole: a worker finds no module of the tests to import
        return (rates["a"] - 0.1) ** 2 + (rates["b"] - 0.5) ** 2 + 0.02 * np.random.default_rng(seed).normal()

    one = am.rate_curve(fit, GRID, seeds=12)
    two = am.rate_curve(fit, GRID, seeds=12, n_jobs=2)
    np.testing.assert_array_equal(one.values, two.values)
    assert one.gain == two.gain
