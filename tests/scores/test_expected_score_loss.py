"""What expected_score_loss promises whatever the method: weights, choice of method, and an answer to bad input."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import allmasks as am
from allmasks.losses import LOSSES
from allmasks.methods import ClosedForm, Enumeration, Fourier, MonteCarlo

rng = np.random.default_rng(0)
W, X, Y = rng.standard_normal(4), rng.standard_normal((6, 4)), np.array([0.0, 1, 1, 0, 1, 0])


def test_the_strongest_guarantee_is_chosen():
    chosen = {
        "squared_error": ClosedForm(),
        "poisson": ClosedForm(),
        "logistic": Fourier(),
    }
    for loss, method in chosen.items():
        assert am.expected_score_loss(W, X, Y, 0.3, loss=loss).method == method


@pytest.mark.parametrize("name", [*LOSSES, "another"])
@pytest.mark.parametrize("method", [None, Fourier(), MonteCarlo(n_masks=4096)], ids=repr)
def test_a_function_is_itself_whatever_its_name(name, method):
    """One called poisson or logistic was taken for that loss, by its formula."""

    def loss(s):
        return np.tanh(s) ** 2

    loss.__name__ = name
    exact = am.expected_score_loss(W, X, Y, 0.3, loss=loss, method=Enumeration()).value
    result = am.expected_score_loss(W, X, Y, 0.3, loss=loss, method=method)
    assert abs(result.value - exact) <= 4.5 * result.error + 1e-12
    with pytest.raises(am.MethodNotApplicable, match=f"the {name} loss has no formula"):
        am.expected_score_loss(W, X, Y, 0.3, loss=loss, method=ClosedForm())


@given(st.lists(st.floats(0, 5), min_size=6, max_size=6).filter(lambda w: sum(w) > 0.1))
def test_sample_weight_weighs_values_and_errors(weight):
    result = am.expected_score_loss(W, X, Y, 0.3, sample_weight=weight)
    share = np.array(weight) / sum(weight)
    assert result.value == pytest.approx(share @ result.per_example, rel=1e-12)
    assert result.weight_scaling_loss == pytest.approx(result.value - result.penalty, abs=1e-12)
    assert result.error >= share @ result.per_example_error


def test_a_row_of_weight_zero_is_as_good_as_absent():
    weight = np.array([1.0, 1, 1, 1, 1, 0])
    with_row = am.expected_score_loss(W, X, Y, 0.3, sample_weight=weight, return_grad=True)
    without = am.expected_score_loss(W, X[:5], Y[:5], 0.3, return_grad=True)
    assert with_row.value == pytest.approx(without.value, rel=1e-14)
    np.testing.assert_allclose(with_row.grad["weights"], without.grad["weights"], rtol=1e-12)


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(6)))
def test_rows_are_independent_of_their_neighbours(order):
    whole = am.expected_score_loss(W, X, Y, 0.3)
    moved = am.expected_score_loss(W, X[order], Y[order], 0.3)
    np.testing.assert_array_equal(moved.per_example, whole.per_example[order])


def test_inputs_are_taken_as_they_come():
    plain = am.expected_score_loss(W, X, Y, 0.3)
    for w, x, y in (
        (W.tolist(), X.tolist(), Y.tolist()),
        (W, np.asfortranarray(X), Y.astype(int)),
        (W, sparse.coo_matrix(X), Y.astype(bool)),
        (W, sparse.csc_array(X), Y[:, None]),
        (W[:, None], X, Y),
    ):
        np.testing.assert_allclose(am.expected_score_loss(w, x, y, 0.3).per_example, plain.per_example, rtol=1e-12)
    single = am.expected_score_loss(W, X.astype(np.float32), Y, 0.3)
    np.testing.assert_allclose(single.per_example, plain.per_example, rtol=1e-5)


def test_duplicate_entries_of_a_sparse_matrix_add_up_and_the_input_is_left_alone():
    rows, columns, data = [0, 0, 0], [1, 1, 2], [1.0, 2.0, -1.0]
    matrix = sparse.csr_matrix((3, 4))
    matrix = sparse.coo_matrix((data, (rows, columns)), shape=(1, 4)).tocsr()
    raw = sparse.csr_matrix((np.array(data), np.array(columns), np.array([0, 3])), shape=(1, 4))
    assert raw.nnz == 3
    a = am.expected_score_loss(W, raw, [0.0], 0.5)
    b = am.expected_score_loss(W, matrix.toarray(), [0.0], 0.5)
    assert a.value == pytest.approx(b.value, abs=1e-14)
    assert raw.nnz == 3


def test_the_result_prints_and_serialises():
    result = am.expected_score_loss(W, X, Y, 0.3, return_grad=True)
    assert "guarantee" in repr(result)
    assert "Fourier" in result._repr_html_()
    numbers = json.loads(json.dumps(result.to_dict()))
    assert numbers["value"] == result.value
    assert len(numbers["per_example"]) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p": 1.0}, r"p is the probability of dropping and must lie in \[0, 1\), got 1\.0"),
        ({"p": -0.1}, r"must lie in \[0, 1\), got -0\.1"),
        ({"p": float("nan")}, r"must lie in \[0, 1\), got nan"),
        ({"p": "half"}, r"p must be a number or an array of numbers in \[0, 1\), got 'half'"),
        ({"p": [0.1, 0.2]}, r"p must be one rate or 4 of them, one a column of X, got shape \(2,\)"),
        (
            {"weights": np.ones(3)},
            r"weights of shape \(3,\) do not fit X with 4 columns: give shape \(4,\), or \(4, k\)",
        ),
        ({"weights": [1.0, np.inf, 0, 0]}, "weights must be finite, got inf at position 1"),
        ({"weights": ["a"] * 4}, "weights must be numbers, got list"),
        ({"X": np.ones(4)}, r"X must have shape \(n, d\), got \(4,\); one row is X\.reshape\(1, -1\)"),
        ({"X": np.ones((0, 4))}, "X has no rows; at least one is needed"),
        ({"X": np.full((6, 4), np.nan)}, "X contains NaN or infinite values; remove or impute those rows"),
        ({"X": sparse.csr_matrix(np.full((6, 4), np.inf))}, "X contains NaN or infinite values"),
        ({"X": [["a"] * 4] * 6}, "X must be a numeric array or a SciPy sparse matrix, got list"),
        ({"y": np.ones(5)}, r"y must have shape \(6,\) for X with 6 rows, got \(5,\)"),
        ({"y": [0, 1, 2, 0, 0, 0]}, r"logistic targets are 0 or 1 .*got 2\.0 at row 2; relabel"),
        ({"y": [0, 1, np.nan, 0, 0, 0]}, "y must be finite, got nan at position 2"),
        ({"y": -np.ones(6), "loss": "poisson"}, "Poisson targets are counts, 0 or more, got -1.0 at row 0"),
        (
            {"loss": "exponential"},
            r"exponential-loss targets are −1 or \+1, got 0\.0 at row 0; 0/1 targets are 2 \* y - 1",
        ),
        ({"loss": "hinge"}, "unknown loss 'hinge': use one of squared_error, logistic, poisson, exponential"),
        ({"loss": 3}, "loss must be a name or a callable of the score, got 3"),
        ({"intercept": [1.0, 2.0]}, r"intercept must be one number or 1, one an output, got shape \(2,\)"),
        ({"intercept": np.nan}, "intercept must be finite, got nan"),
        ({"sample_weight": np.ones(5)}, r"sample_weight must have one weight for each of 6 rows, got shape \(5,\)"),
        ({"sample_weight": -np.ones(6)}, "sample_weight must be 0 or more, and positive for at least one row"),
        ({"sample_weight": np.zeros(6)}, "sample_weight must be 0 or more, and positive for at least one row"),
        ({"seed": -1}, r"seed must be an integer from 0 to 2\*\*64 - 1, got -1"),
        (
            {"method": "fourier"},
            r"method must be a value of am\.methods, such as am\.methods\.Fourier\(\), got 'fourier'",
        ),
        (
            {"method": ClosedForm()},
            r"ClosedForm does not apply here: the logistic loss has no formula. Try Fourier\(\)",
        ),
        ({"n_masks": 0}, "n_masks must be at least 1, got 0"),
        (
            {"weights": np.ones((4, 2)), "y": np.ones((6, 2)), "loss": "poisson"},
            r"several outputs are for squared_error and logistic, got weights of shape \(4, 2\)",
        ),
        ({"weights": np.ones((4, 2))}, r"y must have shape \(6, 2\) for X with 6 rows, got \(6,\)"),
    ],
)
def test_bad_input_is_answered_in_one_sentence(change, message):
    arguments = {"weights": W, "X": X, "y": Y, "p": 0.3, **change}
    with pytest.raises((ValueError, TypeError), match=message):
        am.expected_score_loss(**arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Fourier(tol=0.0), "tol must lie between 0 and 1, got 0.0"),
        (lambda: Fourier(max_nodes=1), "max_nodes must be at least 2, got 1"),
        (lambda: Enumeration(max_masks=0), "max_masks must be at least 1, got 0"),
        (lambda: MonteCarlo(n_masks=1.5), "n_masks must be a whole number, got 1.5"),
        (lambda: MonteCarlo(atol=0.0), "atol must be positive, got 0.0"),
        (lambda: MonteCarlo(control="cubic"), "control must be None or \"quadratic\", got 'cubic'"),
        (lambda: MonteCarlo(sampler="lhs"), "sampler must be one of am.samplers, got 'lhs'"),
    ],
)
def test_methods_check_their_settings(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()
