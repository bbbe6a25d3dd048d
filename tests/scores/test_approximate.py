"""Approximations without an error: the formulas they stand for, near where they must be, and nan for an error."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

import allmasks as am
from allmasks.losses import LOSSES
from allmasks.methods import Delta, GaussianMoments

rng = np.random.default_rng(0)
W, X = rng.standard_normal(6) / 3, rng.standard_normal((4, 6))
TARGETS = {
    "squared_error": rng.standard_normal(4),
    "logistic": np.array([0.0, 1.0, 1.0, 0.0]),
    "poisson": np.array([0.0, 3.0, 1.0, 2.0]),
    "exponential": np.array([-1.0, 1.0, 1.0, -1.0]),
}
MU, SD = X @ W + 0.1, np.sqrt(0.3 / 0.7 * (X**2 @ W**2))


@pytest.mark.parametrize("loss", TARGETS)
@pytest.mark.parametrize("method", [Delta(), GaussianMoments()], ids=repr)
def test_it_claims_no_error(loss, method):
    result = am.expected_score_loss(W, X, TARGETS[loss], 0.3, loss=loss, intercept=0.1, method=method)
    assert (result.guarantee, result.method, result.n_masks) == ("uncontrolled", method, 0)
    for error in (result.error, result.penalty_error, *result.per_example_error, *result.interval()):
        assert np.isnan(error)


@pytest.mark.parametrize("loss", TARGETS)
def test_delta_is_the_second_order_form(loss):
    y = TARGETS[loss]
    result = am.expected_score_loss(W, X, y, 0.3, loss=loss, intercept=0.1, method=Delta())
    value = LOSSES[loss].value
    h = 1e-4
    curvature = (value(MU + h, y) - 2 * value(MU, y) + value(MU - h, y)) / h**2
    np.testing.assert_allclose(result.per_example, value(MU, y) + 0.5 * curvature * SD**2, rtol=1e-6)


@pytest.mark.parametrize("loss", TARGETS)
def test_gaussian_moments_integrate_a_gaussian(loss):
    y = TARGETS[loss]
    result = am.expected_score_loss(W, X, y, 0.3, loss=loss, intercept=0.1, method=GaussianMoments())
    for i in range(4):
        exact, _ = quad(
            lambda z, i=i: LOSSES[loss].value(np.array(MU[i] + SD[i] * z), y[i]) * norm.pdf(z), -12, 12, epsabs=1e-13
        )
        assert result.per_example[i] == pytest.approx(exact, abs=1e-9)


def test_both_are_exact_for_the_squared_error_and_close_for_small_noise():
    y = TARGETS["squared_error"]
    exact = am.expected_score_loss(W, X, y, 0.3, loss="squared_error")
    for method in (Delta(), GaussianMoments()):
        result = am.expected_score_loss(W, X, y, 0.3, loss="squared_error", method=method)
        np.testing.assert_allclose(result.per_example, exact.per_example, rtol=1e-12)
    y = TARGETS["logistic"]
    small = [am.expected_score_loss(W, X, y, 1e-4, method=m) for m in (None, Delta(), GaussianMoments())]
    for approximate in small[1:]:
        assert approximate.penalty == pytest.approx(small[0].penalty, rel=0.01)


def test_callables():
    near = am.expected_score_loss(W, X, np.zeros(4), 0.3, loss=np.tanh, intercept=0.1, method=GaussianMoments())
    assert np.isfinite(near.per_example).all()
    for method, part in ((Delta(), "second derivative"), (GaussianMoments(), None)):
        if part:
            with pytest.raises(am.MethodNotApplicable, match=part):
                am.expected_score_loss(W, X, np.zeros(4), 0.3, loss=np.tanh, method=method)
    with pytest.raises(am.MethodNotApplicable, match=r"return_grad needs the loss's derivative.*Try Fourier\(\), or"):
        am.expected_score_loss(W, X, np.zeros(4), 0.3, loss=np.tanh, method=GaussianMoments(), return_grad=True)
