"""deletion_curve against the closed form of the squared loss, and what it says of models in the same terms."""

import json
import warnings

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import ElasticNet, Lasso, LinearRegression, LogisticRegression, Ridge, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from allmasks.linear_model import DropoutLogisticRegression, DropoutPoissonRegressor, DropoutRidge, deletion_curve

RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 6))
TARGET = X.sum(axis=1) + RNG.normal(size=80)
LABELS = np.digitize(TARGET, [-1.0, 1.5])
SHARES = [0.0, 0.3, 0.6, 0.9]


def squared_loss(model, q, rescale):
    """The mean over all ways to lose entries, by row."""
    scale = 1.0 if rescale else 1.0 - q
    apart = scale * X @ model.coef_ + model.intercept_ - TARGET
    return apart**2 + q * (1 - q) * (scale / (1 - q)) ** 2 * (X**2 @ model.coef_**2)


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("rescale", [True, False])
def test_the_mean_over_draws_is_the_closed_form(form, rescale):
    model = DropoutRidge(0.4).fit(X, TARGET)
    curve = deletion_curve(model, form(X), TARGET, shares=SHARES, rescale=rescale, seeds=400)
    for k, q in enumerate(SHARES):
        truth = squared_loss(model, q, rescale)
        error = curve.masks_error[k] + 1e-12
        assert abs(curve.value[k] - truth.mean()) < 4.5 * error
        if q > 0:  # the same test finds the other law
            assert abs(curve.value[k] - squared_loss(model, q, not rescale).mean()) > 4.5 * error
    # With this many draws what is left is the choice of rows.
    truth = squared_loss(model, 0.6, rescale)
    assert curve.error[2] == pytest.approx(truth.std(ddof=1) / np.sqrt(80), rel=0.1)
    assert curve.data_error[2] == pytest.approx(np.sqrt(curve.error[2] ** 2 - curve.masks_error[2] ** 2))


def test_the_error_over_draws_is_their_spread():
    model = DropoutRidge(0.4).fit(X, TARGET)
    values = [deletion_curve(model, X, TARGET, shares=[0.5], seeds=range(5 * k, 5 * k + 5)) for k in range(200)]
    spread = np.std([curve.value[0] for curve in values], ddof=1)
    assert np.sqrt(np.mean([curve.masks_error[0] ** 2 for curve in values])) == pytest.approx(spread, rel=0.15)


@pytest.mark.parametrize(
    "model",
    [
        DropoutRidge(0.3),
        Ridge(),
        LinearRegression(),
        Lasso(0.1),
        ElasticNet(0.1),
        make_pipeline(StandardScaler(), Ridge()),
    ],
)
def test_regressions(model):
    curve = deletion_curve(model.fit(X, TARGET), X, TARGET, shares=SHARES)
    assert curve.metric == "mean squared error"
    assert curve.value[0] == pytest.approx(np.mean((model.predict(X) - TARGET) ** 2))
    assert (np.diff(curve.value) > 0).all()


@pytest.mark.parametrize(
    "model", [DropoutLogisticRegression(0.3), LogisticRegression(), RidgeClassifier(), DropoutLogisticRegression(0.0)]
)
@pytest.mark.parametrize("labels", [LABELS, np.array(["low", "middle", "high"])[LABELS]])
def test_classifications(model, labels):
    curve = deletion_curve(model.fit(X, labels), X, labels, shares=SHARES)
    assert curve.metric == "error rate"
    assert curve.value[0] == pytest.approx(np.mean(model.predict(X) != labels))
    assert ((curve.per_example >= 0) & (curve.per_example <= 1)).all()


def test_counts_several_outputs_and_dataframes():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcdef"))
    counts = np.arange(80) % 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        poisson = deletion_curve(DropoutPoissonRegressor(0.2).fit(frame, counts), frame, counts, shares=SHARES)
        both = np.column_stack([TARGET, -TARGET])
        two = deletion_curve(Ridge().fit(X, both), X, both, shares=SHARES)
    assert poisson.metric == "mean squared error"
    one = deletion_curve(Ridge().fit(X, TARGET), X, TARGET, shares=SHARES)
    np.testing.assert_allclose(two.value, one.value, rtol=1e-9)


def test_without_dividing_a_dropout_model_looks_worse_than_it_is():
    rng = np.random.default_rng(1)
    Z = rng.normal(size=(2000, 6))
    t = Z.sum(axis=1) + rng.normal(size=2000)
    model = DropoutRidge(0.5).fit(Z, t)
    plain, rescaled = (deletion_curve(model, Z, t, shares=[0.5], rescale=r) for r in (False, True))
    difference, error = plain.difference(rescaled)
    assert difference[0] > 4.5 * error[0] > 0
    # Ridge of the same penalty is the same model, and gains as much by the same factor.
    scaled = X / np.sqrt(np.mean(X**2, axis=0))
    ours, theirs = DropoutRidge(0.5).fit(scaled, TARGET), Ridge(alpha=80.0).fit(scaled, TARGET)
    for rescale in (False, True):
        one, two = (deletion_curve(m, scaled, TARGET, shares=SHARES, rescale=rescale) for m in (ours, theirs))
        np.testing.assert_allclose(one.value, two.value, rtol=1e-9)


def test_draws_are_nested_and_the_same_for_every_model():
    ones = np.ones((50, 4))
    model = LinearRegression(fit_intercept=False).fit(np.eye(4), np.ones(4))
    curve = deletion_curve(model, ones, np.zeros(50), shares=[0.2, 0.5, 0.8], rescale=False, seeds=1)
    assert (np.diff(curve.per_example, axis=0) <= 0).all()
    again = deletion_curve(model, ones, np.zeros(50), shares=[0.5], rescale=False, seeds=[0])
    np.testing.assert_array_equal(again.per_example[0], curve.per_example[1])
    assert np.isnan(curve.masks_error).all()
    assert np.isfinite(curve.error).all()


def test_blocks_of_rows_change_nothing(monkeypatch):
    from allmasks.linear_model import centered

    model = Ridge().fit(X, TARGET)
    whole = deletion_curve(model, X, TARGET, shares=SHARES)
    monkeypatch.setattr(centered, "_BLOCK", 30)
    parts = deletion_curve(model, X, TARGET, shares=SHARES)
    np.testing.assert_allclose(parts.per_example, whole.per_example, rtol=1e-12)
    np.testing.assert_allclose(parts.masks_error, whole.masks_error, rtol=1e-9)


def test_what_it_looks_like():
    curve = deletion_curve(Ridge().fit(X, TARGET), X, TARGET, shares=[0.0, 0.5])
    assert "DeletionCurve: mean squared error, what is left divided by 1 − share; 80 rows, 5 draws" in repr(curve)
    assert repr(curve).splitlines()[2].split()[:2] == ["0.5", "deleted"]
    assert curve._repr_html_().startswith("<table>")
    assert set(json.loads(json.dumps(curve.to_dict()))) >= {"shares", "value", "error", "masks_error", "rescale"}
    assert "per_example" not in curve.to_dict()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shares": [0.5, 0.2]}, r"shares must be rising numbers in \[0, 1\), got \[0.5, 0.2\]"),
        ({"shares": [0.0, 1.0]}, r"shares must be rising numbers in \[0, 1\)"),
        ({"shares": [float("nan")]}, r"shares must be rising numbers in \[0, 1\)"),
        ({"shares": []}, "shares must be rising numbers"),
        ({"seeds": 0}, "seeds must be at least one draw, got 0"),
    ],
)
def test_refusals(arguments, message):
    model = Ridge().fit(X, TARGET)
    with pytest.raises(ValueError, match=message):
        deletion_curve(model, X, TARGET, **arguments)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        deletion_curve(model, X, TARGET[:-1])
    other = deletion_curve(model, X, TARGET, shares=[0.5])
    with pytest.raises(ValueError, match="only curves of the same metric, shares, rows and seeds"):
        other.difference(deletion_curve(model, X, TARGET, shares=[0.4]))
