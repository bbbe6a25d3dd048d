"""Gradients of every method and loss, dense and CSR, one output and several, against finite differences."""

import numpy as np
import pytest
from scipy import sparse

import allmasks as am
from allmasks.methods import ClosedForm, Delta, Enumeration, Fourier, GaussianMoments, MonteCarlo

rng = np.random.default_rng(0)
D, N = 5, 4
W, X = rng.standard_normal(D) / 2, rng.standard_normal((N, D)) * (rng.random((N, D)) < 0.8)
P = np.array([0.5, 0.2, 0.0, 0.9, 0.5])
SHARE = np.array([1.0, 0.0, 2.0, 0.5])
TARGETS = {
    "squared_error": rng.standard_normal(N),
    "logistic": np.array([0.0, 1.0, 0.25, 1.0]),
    "poisson": np.array([0.0, 3.0, 1.0, 2.0]),
    "exponential": np.array([-1.0, 1.0, 1.0, -1.0]),
}
METHODS = [ClosedForm(), Fourier(), Enumeration(), GaussianMoments(), Delta(), MonteCarlo(256)]
CASES = [
    (loss, method)
    for loss in TARGETS
    for method in METHODS
    if not (isinstance(method, ClosedForm) and loss == "logistic")
    and not (isinstance(method, Fourier) and loss != "logistic")
]


def finite_differences(value, at, step=1e-6):
    """Central differences in every entry."""
    grad = np.empty(np.shape(at))
    for index in np.ndindex(grad.shape):
        shift = np.zeros(grad.shape)
        shift[index] = step
        grad[index] = (value(at + shift) - value(at - shift)) / (2 * step)
    return grad


@pytest.mark.parametrize(("loss", "method"), CASES, ids=lambda v: str(v))
@pytest.mark.parametrize("as_csr", [False, True])
def test_one_output(loss, method, as_csr):
    def call(w=W, x=X, b=0.3, **kwargs):
        given = sparse.csr_matrix(x) if as_csr else x
        y = TARGETS[loss]
        return am.expected_score_loss(
            w, given, y, P, loss=loss, intercept=b, method=method, sample_weight=SHARE, **kwargs
        )

    grad = call(return_grad=True).grad
    scale = 1 + np.abs(grad["weights"]).max()
    close = {"rtol": 2e-6, "atol": 2e-8 * scale}
    np.testing.assert_allclose(grad["weights"], finite_differences(lambda w: call(w=w).value, W), **close)
    np.testing.assert_allclose(grad["intercept"], finite_differences(lambda b: call(b=b).value, 0.3), **close)
    assert isinstance(grad["intercept"], float)
    by_entry = finite_differences(lambda x: call(x=x).value, X)
    if as_csr:
        assert sparse.issparse(grad["X"])
        np.testing.assert_array_equal(grad["X"].indices, sparse.csr_matrix(X).indices)
        by_entry[X == 0] = 0  # no entry, no gradient
    np.testing.assert_allclose(grad["X"].toarray() if as_csr else grad["X"], by_entry, **close)


@pytest.mark.parametrize("loss", ["squared_error", "logistic"])
@pytest.mark.parametrize("method", [None, Enumeration(), GaussianMoments(), Delta(), MonteCarlo(256)], ids=repr)
@pytest.mark.parametrize("b", [0.3, np.array([0.3]), np.array([0.3, -0.2, 0.0])], ids=["scalar", "shared", "each"])
def test_several_outputs(loss, method, b):
    weights = np.stack([W, -2 * W, rng.standard_normal(D)], axis=1)
    y = np.stack([TARGETS[loss]] * 3, axis=1)

    def call(w=weights, x=X, b=b, **kwargs):
        return am.expected_score_loss(w, x, y, P, loss=loss, intercept=b, method=method, sample_weight=SHARE, **kwargs)

    result = call(return_grad=True)
    alone = [
        am.expected_score_loss(
            weights[:, c],
            X,
            y[:, c],
            P,
            loss=loss,
            intercept=np.broadcast_to(b, 3)[c],
            method=method,
            sample_weight=SHARE,
        )
        for c in range(3)
    ]
    np.testing.assert_allclose(result.per_example, sum(r.per_example for r in alone), rtol=1e-12)
    assert result.weight_scaling_loss == pytest.approx(sum(r.weight_scaling_loss for r in alone), rel=1e-12)
    if result.guarantee == "exact":
        np.testing.assert_allclose(result.per_example_error, sum(r.per_example_error for r in alone), rtol=1e-9)
    close = {"rtol": 2e-6, "atol": 1e-7}
    assert result.grad["weights"].shape == weights.shape
    assert np.shape(result.grad["intercept"]) == np.shape(b)
    np.testing.assert_allclose(result.grad["weights"], finite_differences(lambda w: call(w=w).value, weights), **close)
    np.testing.assert_allclose(result.grad["intercept"], finite_differences(lambda b: call(b=b).value, b), **close)
    np.testing.assert_allclose(result.grad["X"], finite_differences(lambda x: call(x=x).value, X), **close)


def test_a_column_of_one_output_keeps_its_shape():
    result = am.expected_score_loss(W[:, None], X, TARGETS["logistic"], P, intercept=[0.1], return_grad=True)
    assert result.grad["weights"].shape == (D, 1)
    assert result.grad["intercept"].shape == (1,)


def test_gradients_are_only_made_when_asked_for():
    assert am.expected_score_loss(W, X, TARGETS["logistic"], P).grad is None


def test_outputs_whose_gradients_are_infinite_either_way_add_up_in_silence():
    weights = [[1e150, -1e150], [1e160, 1e160]]
    result = am.expected_score_loss(weights, [[1.0, 1.0]], [[0.0, 0.0]], 0.5, loss="squared_error", return_grad=True)
    assert result.value == result.grad["X"][0, 1] == np.inf
    assert np.isnan(result.grad["X"][0, 0])  # inf from one output and −inf from the other
