"""Errors and biases over masks of functions whose answers are known."""

import numpy as np
import pytest

from allmasks.evaluation.measures import Measure
from allmasks.evaluation.resampling import Masked, Units, measured


def over_replicates(values, function, sizes=None, **kind):
    """A metric that is this function of the mean over replicates of one number."""
    sizes = np.ones(len(values), int) if sizes is None else sizes

    def at(share):
        return function(float((sizes / sizes.sum() if share is None else share) @ values))

    measure = Measure("it", lambda scored, weights: np.array([scored]), lambda scored: np.zeros(4), **kind)
    masked = Masked(at, sizes, 0.0, shared=True)
    return measured(masked, [measure], Units(np.arange(4), np.zeros(4, int)), 0)["it"]


@pytest.mark.parametrize("n", [2, 3, 7, 8, 11, 32, 64, 67])
@pytest.mark.parametrize("kind", [{"smooth": True}, {"corrected": True}, {}])
def test_a_mean_has_no_bias_and_the_error_of_a_mean(n, kind):
    values = np.random.default_rng(n).normal(size=n)
    metric = over_replicates(values, lambda mean: mean, **kind)
    if n % 4 == 0 or n == 2 or "corrected" not in kind:
        assert metric.value == pytest.approx(values.mean(), abs=1e-14)
    # Parts of unlike sizes cancel but for what is theirs alone.
    assert abs(metric.value - values.mean()) < 0.25 * metric.masks_error + 1e-14
    wanted = values.std(ddof=1) / np.sqrt(n)
    assert metric.masks_error == pytest.approx(wanted, rel=1e-9 if "smooth" in kind or n in (8, 32, 64) else 0.5)


@pytest.mark.parametrize("n", [8, 32, 50, 64])
def test_the_bias_of_a_square_is_taken_away(n):
    values = 0.3 + np.random.default_rng(n).normal(size=n)
    bias = values.var(ddof=1) / n
    for kind, rel in (({"smooth": True}, 1e-6), ({"corrected": True}, 0.35)):
        metric = over_replicates(values, np.square, **kind)
        assert metric.plug_in - metric.value == pytest.approx(bias, rel=rel), kind
    # Where it stays it is part of the error.
    kept, taken = over_replicates(values, np.square), over_replicates(values, np.square, corrected=True)
    assert kept.value == kept.plug_in
    assert kept.masks_error > 0.98 * taken.masks_error


def test_one_replicate_has_no_error():
    assert np.isnan(over_replicates(np.ones(1), np.square, corrected=True).masks_error)
