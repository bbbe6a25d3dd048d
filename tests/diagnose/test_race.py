"""What a race may say after it has picked its best: rarely that equals differ, and intervals that hold."""

import numpy as np
import pytest
from scipy.stats import norm, studentized_range, t

import allmasks as am
from allmasks.diagnose.race import Race, chosen_quantiles, measured, threshold

EQUAL = np.zeros(9)
BOWL = 4 * (np.arange(9) / 10 - 0.4) ** 2
ONE_BEST = np.where(np.arange(9) == 3, -1.0, 0.0)


def told_share(means, spread, *, looks, seeds=10, races=4000, alpha=None):
    rates = len(means)
    rng = np.random.default_rng(7)
    values = (
        means[:, None] + rng.normal(size=(races, 1, seeds)) + spread[:, None] * rng.normal(size=(races, rates, seeds))
    )
    first = 4 if looks else None
    return 1 - Race(values, alpha or threshold(rates, seeds, first, 0.95), first).tied.all(axis=1).mean()


def test_two_rates_without_looks_are_the_paired_t_test():
    """The leader is the better of two, so the one-sided p-value that 5 % of null races undercut is .025."""
    assert threshold(2, 10, None, 0.95) == pytest.approx(0.025, abs=0.003)
    assert threshold(2, 10, None, 0.95) < 0.025


def test_many_seeds_are_the_studentized_range():
    """With a common known spread the furthest of R equals is the range: the classical table (Tukey)."""
    quantile = studentized_range.ppf(0.95, 5, 4 * 399) / np.sqrt(2)
    assert threshold(5, 400, None, 0.95) == pytest.approx(norm.sf(quantile), rel=0.15)


@pytest.mark.parametrize("looks", [True, False])
@pytest.mark.parametrize("spread", [np.ones(9), 0.5 + 0.2 * np.arange(9), np.where(np.arange(9) == 0, 5.0, 1.0)])
def test_equal_rates_are_rarely_told_apart(looks, spread):
    """At most 5 %, and 4.5 standard errors of 4 000 races."""
    assert told_share(EQUAL, spread, looks=looks) <= 0.05 + 4.5 * np.sqrt(0.05 * 0.95 / 4000)


def test_student_alone_would_tell_them_apart():
    """The planted mistake: testing each rate as if the leader had been named beforehand."""
    assert told_share(EQUAL, np.ones(9), looks=False, alpha=0.025) > 0.4


def coverage(means, races=400, seeds=10):
    rng = np.random.default_rng(3)
    rates, first = len(means), 4
    alpha = threshold(rates, seeds, first, 0.95)
    values = means[:, None] + rng.normal(size=(races, rates, seeds))
    race = Race(values, alpha, first)
    hits = {"best": [], "behind": [], "student": []}
    for v, n, best in zip(values, race.n_seeds, race.best, strict=True):
        ran = np.where(np.arange(seeds) < n[:, None], v, np.nan)
        mean, error, behind, behind_error = measured(ran, n, best)
        of_best, of_others = chosen_quantiles(ran, n, best, alpha, first, 0.95)
        off = (mean[best] - means[best]) / error[best]
        hits["best"].append(of_best[0] <= off <= of_best[1])
        hits["student"].append(abs(off) <= t.ppf(0.975, n[best] - 1))
        for i in set(range(rates)) - {best}:
            off = (behind[i] - (means[i] - means[best])) / behind_error[i]
            hits["behind"].append(of_others[i, 0] <= off <= of_others[i, 1])
    return {name: np.mean(seen) for name, seen in hits.items()}


@pytest.mark.slow
@pytest.mark.parametrize("means", [EQUAL, BOWL, ONE_BEST], ids=["equal", "bowl", "one best"])
def test_intervals_hold_although_the_best_was_picked(means):
    found = coverage(means)
    assert 0.93 <= found["best"] <= 0.985
    assert 0.93 <= found["behind"] <= 0.985
    if means is EQUAL:
        assert found["student"] < 0.88  # the planted mistake


def test_a_curve_shows_these_intervals():
    curve = am.rate_curve(lambda p, seed: float(np.random.default_rng([seed, int(10 * p)]).normal()), seeds=8)
    best = int(np.flatnonzero(curve.p == curve.best_p)[0])
    assert set(curve.tied) == set(curve.p)
    student = t.ppf(0.975, 7) * curve.error[best]
    assert curve.high[best] - curve.mean[best] > 1.2 * student  # the luck of being picked is allowed for
    assert curve.behind[best] == curve.behind_low[best] == curve.behind_high[best] == 0
    others = curve.p != curve.best_p
    assert (curve.behind_low[others] < 0).all()
    assert curve.threshold == threshold(9, 8, 4, 0.95)


def test_one_rate_and_no_noise():
    one = am.rate_curve(lambda p, seed: float(seed), p=0.3, seeds=3)
    assert (one.best_p, one.tied, one.mean[0]) == (0.3, (0.3,), 1.0)
    assert one.low[0] == pytest.approx(1 - t.ppf(0.975, 2) / np.sqrt(3))
    equal = am.rate_curve(lambda p, seed: float(seed), p=[0.1, 0.2], seeds=5)
    assert equal.tied == (0.1, 0.2)
    exact = am.rate_curve(lambda p, seed: p, p=[0.1, 0.2], seeds=5)
    assert exact.tied == (0.1,)
    assert exact.behind_low[1] == pytest.approx(0.1)


@pytest.mark.parametrize("unit", [2.0**-1015, 2.0**-600, 2.0**600, 2.0**1015])
def test_losses_of_any_size_are_raced_alike(unit):
    """Their squares are no doubles: an error of 0 would tell equal rates apart."""

    def fit(p, seed):
        return 4.0 + p + float(np.random.default_rng([seed, int(10 * p)]).normal())

    plain = am.rate_curve(fit, p=[0.1, 0.2, 0.4], seeds=6)
    other = am.rate_curve(lambda p, seed: unit * fit(p, seed), p=[0.1, 0.2, 0.4], seeds=6)
    assert other.tied == plain.tied == (0.1, 0.2, 0.4)
    for name in ("mean", "error", "low", "high", "behind", "behind_low", "behind_high"):
        np.testing.assert_allclose(getattr(other, name) / unit, getattr(plain, name), rtol=1e-9, err_msg=name)
    assert (other.error > 0).all()


@pytest.mark.parametrize("look", [2, 4.5, "4", True])
def test_a_first_look_is_a_number_of_seeds(look):
    with pytest.raises(ValueError, match="first_look must be a whole number of at least 3 seeds, got"):
        am.rate_curve(lambda p, seed: p, first_look=look)
