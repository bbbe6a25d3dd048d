"""Ridge regression by input dropout: the exact minimiser over all masks, in closed form."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.base import MultiOutputMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning

from allmasks.linear_model.centered import Centered, canonical, second_moments
from allmasks.linear_model.checks import check_number, check_squares, feature_rates
from allmasks.linear_model.estimators import RowsEstimator, row_weights
from allmasks.linear_model.partitions import Partitions, chunkwise, is_lazy, refuse_lazy
from allmasks.linear_model.quadratic import LeastSquares, solve_penalized
from allmasks.linear_model.stopping import norm
from allmasks.linear_model.sufficient import Sufficient, squares_over_partitions

__all__ = ["DropoutRidge", "RidgePrediction"]

Array = NDArray[np.float64]


class RidgePrediction(MultiOutputMixin, RegressorMixin, RowsEstimator):
    """What a fitted coef_, intercept_ and the rates they were fitted under predict."""

    coef_: NDArray[Any]
    intercept_: Any
    _rates: Array
    _seen: Sufficient | None

    @chunkwise
    def predict(self, X: Any) -> NDArray[Any]:
        """X w + b, (n,) or (n, k): for this model both the weight-scaling prediction and the exact mean over masks."""
        return np.asarray(self._read_new(X) @ self.coef_.T + self.intercept_)

    @chunkwise
    def predict_std(self, X: Any) -> NDArray[Any]:
        """The exact standard deviation of the prediction over all masks, √(Σⱼ pⱼ/(1 − pⱼ) wⱼ² xⱼ²): (n,) or (n, k)."""
        X = self._read_new(X)
        strength = np.sqrt(self._rates / (1.0 - self._rates)) * np.abs(self.coef_, dtype=np.float64)
        # Weights and inputs meet before they are squared: of a column of 1e200 and a weight of 1e-200 neither square is
        # a double, and their product is.
        most = strength.reshape(-1, X.shape[1]).max(axis=0)
        share = strength / np.where(most > 0, most, 1.0)
        if sparse.issparse(X):
            X = canonical(X)
            squares = sparse.csr_matrix((np.square(X.data * most[X.indices]), X.indices, X.indptr), X.shape)
        else:
            squares = np.square(X * most)
        return np.sqrt(np.asarray(squares @ np.square(share).T)).astype(self.coef_.dtype)


class DropoutRidge(RidgePrediction):
    """Linear regression that minimises the squared loss over all dropout masks of its inputs, exactly.

    With a mask mᵢ on each row, the mean over all 2^d masks is a ridge penalty that knows the data:

        Σᵢ sᵢ E(b + Σⱼ wⱼ xᵢⱼ mᵢⱼ/(1 − pⱼ) − yᵢ)² + α‖w‖² = Σᵢ sᵢ (b + xᵢ·w − yᵢ)² + Σⱼ (λⱼ + α) wⱼ²,
        λⱼ = pⱼ/(1 − pⱼ) · Σᵢ sᵢ xᵢⱼ²

    so the penalty takes the *raw* second moment of each column, while the data term sees it centered.

    Parameters
    ----------
    p : drop rate, one number or one for each feature, in [0, 1); a feature with 0 is never dropped.
    alpha : strength of an L2 penalty besides, 0 or more.
    fit_intercept : whether to fit b, which is neither dropped nor penalised.
    tol, max_iter : of the iterative solver, which runs where n and d are both beyond 8192.
    random_state : not used; the fit is deterministic. There for scikit-learn's conventions.

    Attributes
    ----------
    coef_ : (d,), or (k, d) for y of shape (n, k), in X's dtype.
    intercept_ : number, or (k,).
    objective_ : the exact total above at the solution, summed over outputs; `objective_error_` bounds its round-off.
    gradient_norm_ : Euclidean norm of the objective's gradient there.
    equivalent_penalty_ : (d,) λⱼ: what dropout amounts to; it multiplies the same wⱼ² as α.
    n_iter_ : iterations; 1 where the solution is direct.
    n_features_in_, feature_names_in_ : as in scikit-learn.

    See Also
    --------
    sklearn.linear_model.Ridge : the same where every column has second moment 1 and alpha = n p/(1 − p).

    References
    ----------
    Srivastava et al. 2014, "Dropout", section 9.1; Wager, Wang & Liang 2013 for unlabelled rows.

    Examples
    --------
    >>> import numpy as np
    >>> from allmasks.linear_model import DropoutRidge
    >>> X, y = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), np.array([1.0, 2.0, 3.0])
    >>> model = DropoutRidge(p=0.5, fit_intercept=False).fit(X, y)
    >>> model.coef_.round(4), model.equivalent_penalty_
    (array([0.7333, 1.0667]), array([2., 2.]))
    >>> model.predict_std(X).round(4)
    array([0.7333, 1.0667, 1.2944])
    """

    def __init__(
        self,
        p: ArrayLike = 0.5,
        alpha: float = 0.0,
        *,
        fit_intercept: bool = True,
        tol: float = 1e-12,
        max_iter: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.p = p
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, X_unlabeled: Any = None) -> DropoutRidge:
        """Fit to rows X (n, d), dense or sparse, and targets y (n,) or (n, k); both may be Dask collections.

        Parameters
        ----------
        sample_weight : (n,) sᵢ ≥ 0.
        X_unlabeled : (m, d) rows without targets. The penalty needs no labels, so λⱼ becomes p/(1−p) · Σsᵢ times the
            mean of xⱼ² over all rows, labelled (by weight) and unlabelled: a better estimate of the same expectation
            where both come from one distribution (Wager et al. 2013). The objective is then no longer that of the
            labelled rows alone.

        Raises
        ------
        ValueError : p outside [0, 1) or of the wrong length, alpha below 0, and what scikit-learn refuses.
        """
        if is_lazy(X, y, sample_weight):
            return self._fit_lazy(X, y, sample_weight, X_unlabeled)
        X, y = self._read(X, y, multi_output=True, y_numeric=True)
        rates, alpha = feature_rates(self.p, X.shape[1]), check_number("alpha", self.alpha, lowest=0.0)
        weight = row_weights(sample_weight, X)
        targets = np.asarray(y, np.float64).reshape(len(y), -1)
        squares = second_moments(X, weight)
        check_squares(squares, X, vanishing=alpha == 0.0)
        if X_unlabeled is not None:
            rest = self._read_more(X_unlabeled)
            total = weight.sum()
            squares = (squares + second_moments(rest)) * (total / (total + rest.shape[0]))
        data = Centered.of(X, targets, weight, center=self.fit_intercept)
        self._rates = rates
        self.equivalent_penalty_ = _equivalent_penalty(rates, squares)
        penalty = self.equivalent_penalty_ + alpha
        solution = solve_penalized(data, penalty, tol=self.tol, max_iter=self.max_iter)
        residual = data.targets - data.dot(solution.coef)
        gradient = -2.0 * data.t_dot(residual) + penalty[:, None] * (2.0 * solution.coef)
        with np.errstate(over="ignore"):  # of targets beyond 1e154: an objective that overflows is inf
            error = float(np.square(residual).sum())
            energy = np.square(data.root[:, None] * targets).sum(axis=0)
            size = float(np.square(np.sqrt(squares) @ np.abs(solution.coef) + np.sqrt(energy)).sum())
        self._finish(solution, error, penalty, gradient, size, X.shape[0], X.dtype, y.ndim)
        self._seen = None
        return self

    def _fit_lazy(self, X: Any, y: Any, sample_weight: Any, X_unlabeled: Any) -> DropoutRidge:
        check_number("alpha", self.alpha, lowest=0.0)
        data = Partitions.of(self, X, y, sample_weight)
        feature_rates(self.p, data.n_features)
        total = Sufficient.of_partitions(data)
        squares = total.squares
        if X_unlabeled is not None:
            more, n = squares_over_partitions(Partitions.of(self, X_unlabeled, None, reset=False, labeled=False))
            squares = (squares + more) * (total.weight / (total.weight + n))
        self._fit_seen(total, squares, np.dtype(data.dtype), data.y_ndim)
        self._seen = None
        return self

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> DropoutRidge:
        """Take more rows and fit to all seen so far, from their sufficient statistics (a d × d matrix).

        The result is that of `fit` on all rows together; p and alpha may change between calls. `fit` itself keeps no
        statistics: after it, partial_fit begins anew.

        Raises
        ------
        ValueError : as `fit`; and where the number of features or outputs changes.
        """
        refuse_lazy("partial_fit", X, y, sample_weight)
        seen: Sufficient | None = getattr(self, "_seen", None)
        X, y = self._read(X, y, multi_output=True, y_numeric=True, reset=seen is None)
        feature_rates(self.p, X.shape[1])
        check_number("alpha", self.alpha, lowest=0.0)
        targets = np.asarray(y, np.float64).reshape(len(y), -1)
        batch = Sufficient.of(X, targets, row_weights(sample_weight, X))
        if seen is not None and batch.y_mean.shape != seen.y_mean.shape:
            raise ValueError(
                f"y has {targets.shape[1]} outputs but earlier batches had {len(seen.y_mean)}; give the same"
            )
        total = batch if seen is None else seen + batch
        self._seen = total
        self._fit_seen(total, total.squares, X.dtype, y.ndim)
        return self

    def _fit_seen(self, total: Sufficient, squares: Array, dtype: Any, y_ndim: int) -> None:
        """squares : Σᵢ sᵢ xᵢⱼ² that the penalty takes."""
        rates, alpha = feature_rates(self.p, len(squares)), check_number("alpha", self.alpha, lowest=0.0)
        moments = total if self.fit_intercept else total.raw()
        self._rates = rates
        self.equivalent_penalty_ = _equivalent_penalty(rates, squares)
        penalty = self.equivalent_penalty_ + alpha
        solution = moments.solve(penalty)
        gradient = -2.0 * (moments.cross - moments.gram @ solution.coef) + penalty[:, None] * (2.0 * solution.coef)
        error = moments.residual(solution.coef)
        sizes = np.sqrt(total.squares) @ np.abs(solution.coef) + np.sqrt(np.diag(moments.raw().y_gram))
        size = float(np.square(sizes).sum())
        self._finish(solution, error, penalty, gradient, size, total.n_rows, dtype, y_ndim)

    def _finish(
        self,
        solution: LeastSquares,
        error: float,
        penalty: Array,
        gradient: Array,
        size: float,
        n_rows: int,
        dtype: Any,
        y_ndim: int,
    ) -> None:
        with np.errstate(over="ignore"):
            penalties = np.square(np.where(solution.coef != 0, np.sqrt(penalty)[:, None], 0.0) * solution.coef)
            self.objective_ = float(error + penalties.sum())
        # Squares of sums whose parts add up to `size` at most, each product and sum rounded once.
        eps = float(np.finfo(np.float64).eps)
        self.objective_error_ = eps * ((n_rows + 2 * len(penalty) + 16) * size + 8 * self.objective_)
        self.gradient_norm_ = norm(gradient.ravel())
        self.coef_ = solution.coef.T.astype(dtype) if y_ndim > 1 else solution.coef[:, 0].astype(dtype)
        self.intercept_ = solution.intercept if y_ndim > 1 else float(solution.intercept[0])
        if not self.fit_intercept:
            self.intercept_ = 0.0
        self.n_iter_ = solution.n_iter
        if not solution.converged:
            warnings.warn(
                f"the iterative solver stopped after max_iter={self.max_iter} iterations before its tolerance "
                f"tol={self.tol}; raise max_iter",
                ConvergenceWarning,
                stacklevel=3,
            )


def _equivalent_penalty(rates: Array, squares: Array) -> Array:
    """λⱼ = pⱼ/(1 − pⱼ) Σᵢ sᵢ xᵢⱼ², (d,)."""
    with np.errstate(over="ignore", invalid="ignore"):
        penalty = rates / (1.0 - rates) * squares
    if not np.isfinite(penalty).all():
        j = int(np.flatnonzero(~np.isfinite(penalty))[0])
        raise ValueError(
            f"the penalty of feature {j}, p/(1 − p) times the sum of its squares, is beyond the largest double; scale "
            "the feature or the weights down"
        )
    return penalty
