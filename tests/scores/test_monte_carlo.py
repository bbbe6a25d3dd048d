"""Sampled masks of scores: right within a standard error that is itself right, and a planted bias is caught."""

import numpy as np
import pytest
from scipy import sparse

import allmasks as am
from allmasks.methods import Enumeration, MonteCarlo
from allmasks.samplers import Antithetic, Independent, LatinHypercube
from truth import Biased, covered, z_score

rng = np.random.default_rng(0)
W, X = rng.standard_normal(7), rng.standard_normal((5, 7))
P = np.array([0.5, 0.2, 0.0, 0.9, 0.5, 0.3, 0.1])
TARGETS = {
    "squared_error": rng.standard_normal(5),
    "logistic": np.array([0.0, 1.0, 1.0, 0.0, 1.0]),
    "poisson": np.array([0.0, 3.0, 1.0, 2.0, 0.0]),
    "exponential": np.array([-1.0, 1.0, 1.0, -1.0, 1.0]),
}


def run(loss, y, method, **kwargs):
    return am.expected_score_loss(W, X, y, P, loss=loss, method=method, **kwargs)


@pytest.mark.parametrize("loss", [*TARGETS, np.tanh], ids=str)
@pytest.mark.parametrize("sampler", [Independent(), Antithetic(), LatinHypercube()], ids=lambda s: type(s).__name__)
def test_it_agrees_with_enumeration(loss, sampler):
    y = TARGETS.get(loss, np.zeros(5)) if isinstance(loss, str) else np.zeros(5)
    exact = run(loss, y, Enumeration())
    result = run(loss, y, MonteCarlo(n_masks=4096, sampler=sampler), seed=3)
    assert (result.guarantee, result.n_masks) == ("statistical", 4096)
    assert result.n_replicates == 4096 // sampler.block
    assert abs(z_score(result.value, exact.value, result.error, result.n_replicates)) < 4.5
    assert abs(z_score(result.penalty, exact.penalty, result.penalty_error, result.n_replicates)) < 4.5
    for i in range(5):
        z = z_score(result.per_example[i], exact.per_example[i], result.per_example_error[i], result.n_replicates)
        assert abs(z) < 4.5


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_a_keep_probability_off_by_one_percent_is_caught(loss):
    # Rows whose loss moves with the keep probability at first order: all inputs push one way.
    w, x, y = np.full(8, 0.25), np.abs(rng.standard_normal((5, 8))), np.zeros(5)

    def call(method):
        return am.expected_score_loss(w, x, y, 0.5, loss=loss, method=method)

    exact = call(Enumeration())
    good, biased = (call(MonteCarlo(n_masks=2**15, sampler=sampler)) for sampler in (LatinHypercube(), Biased()))
    assert abs(z_score(good.value, exact.value, good.error, good.n_replicates)) < 4.5
    assert abs(z_score(biased.value, exact.value, biased.error, biased.n_replicates)) > 4.5


def coverage(sampler) -> float:
    y, method = TARGETS["squared_error"], MonteCarlo(256, sampler=sampler)
    intervals = (run("squared_error", y, method, seed=seed).interval() for seed in range(2000))
    return covered(intervals, run("squared_error", y, None).value)


@pytest.mark.slow
def test_intervals_cover_the_truth():
    assert 0.93 <= coverage(LatinHypercube()) <= 0.97


def test_outputs_share_their_masks_and_the_error_knows():
    # Two opposite outputs: to first order, what one loses by a mask the other gains.
    weights = np.stack([W, -W], axis=1)
    y = np.zeros((5, 2))
    for method in (MonteCarlo(4096), MonteCarlo(atol=2e-3)):
        result = am.expected_score_loss(weights, X, y, P, method=method, seed=1)
        exact = am.expected_score_loss(weights, X, y, P, method=Enumeration())
        assert abs(z_score(result.value, exact.value, result.error, result.n_replicates)) < 4.5
        for i in range(5):
            z = z_score(result.per_example[i], exact.per_example[i], result.per_example_error[i], result.n_replicates)
            assert abs(z) < 4.5
        assert result.n_replicates == result.n_masks // 8
    together, first, second = (
        am.expected_score_loss(w, X, t, P, method=MonteCarlo(4096), seed=1)
        for w, t in ((weights, y), (W, y[:, 0]), (-W, y[:, 0]))
    )
    np.testing.assert_allclose(together.replicates, first.replicates + second.replicates, rtol=1e-12)
    apart = first.per_example_error + second.per_example_error
    assert (together.per_example_error <= apart * (1 + 1e-12)).all()
    assert (together.per_example_error < 0.9 * apart).any()


def test_tolerances_fix_the_number_of_masks_without_peeking():
    y = TARGETS["logistic"]
    result = run("logistic", y, MonteCarlo(atol=1e-3))
    assert result.error < 1.3e-3
    again = run("logistic", y, MonteCarlo(n_masks=result.n_masks))
    assert again.value == result.value
    loose = run("logistic", y, MonteCarlo(atol=1e-3, rtol=0.1))
    assert loose.n_masks <= result.n_masks  # the looser of the two counts, as for models
    with pytest.raises(am.MethodNotApplicable, match=r"a standard error of 1e-09 would take about .* masks"):
        run("logistic", y, MonteCarlo(atol=1e-9))


def test_more_masks_never_change_the_first_and_rows_keep_their_masks():
    y = TARGETS["logistic"]
    few, many = run("logistic", y, MonteCarlo(256)), run("logistic", y, MonteCarlo(512))
    np.testing.assert_allclose(many.replicates[:32], few.replicates, rtol=1e-12)
    first = am.expected_score_loss(W, X[:2], y[:2], P, method=MonteCarlo(256))
    np.testing.assert_allclose(first.per_example, few.per_example[:2], rtol=1e-12)
    csr = am.expected_score_loss(W, sparse.csr_matrix(X), y, P, method=MonteCarlo(256))
    np.testing.assert_allclose(csr.per_example, few.per_example, rtol=1e-12)
    assert run("logistic", y, MonteCarlo(256), seed=1).value != few.value


def test_blocks_of_rows_do_not_change_the_answer(monkeypatch):
    whole = run("logistic", TARGETS["logistic"], MonteCarlo(256), return_grad=True)
    monkeypatch.setattr("allmasks.scores.sampled._BLOCK_ELEMENTS", 100)
    parts = run("logistic", TARGETS["logistic"], MonteCarlo(256), return_grad=True)
    np.testing.assert_allclose(parts.per_example, whole.per_example, rtol=1e-12)
    np.testing.assert_allclose(parts.grad["weights"], whole.grad["weights"], rtol=1e-12)


def test_n_masks_alone_means_monte_carlo():
    result = am.expected_score_loss(W, X, TARGETS["logistic"], P, n_masks=300)
    assert isinstance(result.method, MonteCarlo)
    assert result.n_masks == 300
    assert result.replicate_masks.tolist() == [8] * 37 + [4]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (MonteCarlo(control="quadratic"), "control variates are for models"),
        (MonteCarlo(rtol=1e-3), None),
    ],
)
def test_what_cannot_be_sampled(method, message):
    if message is None:
        assert run("logistic", TARGETS["logistic"], method).error < 1.3e-3
        return
    with pytest.raises(ValueError, match=message):
        run("logistic", TARGETS["logistic"], method)


def test_a_loss_that_overflows_names_row_score_and_mask():
    with pytest.raises(ValueError, match=r"the loss of row 1 is not finite at score \d+, which mask \d+ gives; scale"):
        am.expected_score_loss([900.0], [[0.0], [1.0]], [0.0, 0.0], 0.5, loss="poisson", method=MonteCarlo(256))
