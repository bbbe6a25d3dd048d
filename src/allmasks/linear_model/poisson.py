"""Poisson regression that minimises the loss of dropout training exactly: its mean over masks is closed form."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import d2_tweedie_score

from allmasks.dropped_scores import expected_score
from allmasks.linear_model.checks import check_settings, feature_rates
from allmasks.linear_model.estimators import RowsEstimator, row_weights
from allmasks.linear_model.feature_rows import Rows
from allmasks.linear_model.newton import Minimum, finite_start, minimize
from allmasks.linear_model.partitions import chunkwise, is_lazy
from allmasks.linear_model.poisson_objective import ExactPoisson, check_counts, log_of
from allmasks.linear_model.stopping import Yardstick, norm

if TYPE_CHECKING:
    from allmasks.linear_model.lazy_poisson import PoissonOverPartitions

__all__ = ["DropoutPoissonRegressor"]

Array = NDArray[np.float64]


class DropoutPoissonRegressor(RegressorMixin, RowsEstimator):
    """Poisson regression (log link) with dropout on its inputs, fitted to the exact objective.

    Minimises over w and b the mean over all 2^d masks of Σᵢ sᵢ (e^{Sᵢ} − yᵢ Sᵢ), plus α/2 ‖w‖², which is

        Σᵢ sᵢ (e^b Πⱼ (pⱼ + (1 − pⱼ) e^{wⱼxᵢⱼ/(1−pⱼ)}) − yᵢ μᵢ) + α/2 ‖w‖²,   μᵢ = b + Σⱼ wⱼ xᵢⱼ,

    worked out in logs. Convex; Newton's method with the exact Hessian. At p = 0 it is scikit-learn's
    `PoissonRegressor(alpha / Σs)`.

    Parameters
    ----------
    p : drop rate in [0, 1), one or one for each feature.
    alpha : weight of ½‖w‖², 0 or more; the intercept is not penalized.
    fit_intercept : whether there is an intercept b. It is never dropped.
    tol : stop once ‖∇‖₂ is `tol` of its value at w = 0, b = log ȳ (weighted), where the fit begins; without an
        intercept, at w = 0, or of what y adds to it, whichever is smaller. y and the weights may be of any size.
    max_iter : Newton steps at most.
    warm_start : start from the last solution.
    verbose : 1 or more prints a line for each step.
    random_state : not used; the fit is deterministic. There for scikit-learn's conventions.

    Attributes
    ----------
    coef_ : (d,). intercept_ : a number.
    objective_, gradient_norm_ : value and norm of the gradient of the exact objective at the solution;
        objective_error_ bounds its round-off.
    equivalent_penalty_ : (d,) λⱼ = pⱼ/(1−pⱼ) Σᵢ sᵢ e^{μᵢ} xᵢⱼ²: to second order dropout adds ½ Σⱼ λⱼ wⱼ², so λⱼ and
        alpha multiply the same ½wⱼ².
    n_iter_ : Newton steps.

    Raises
    ------
    ValueError : negative y, p outside [0, 1), alpha < 0, NaN.

    References
    ----------
    van der Maaten, Chen, Tyree & Weinberger 2013, "Learning with marginalized corrupted features".

    Example
    -------
    >>> import numpy as np
    >>> from allmasks.linear_model import DropoutPoissonRegressor
    >>> X = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> model = DropoutPoissonRegressor(p=0.1, alpha=0.1).fit(X, [1, 2, 4, 9])
    >>> bool(model.coef_[0] > 0), model.predict([[1.0]]).shape
    (True, (1,))
    """

    coef_: NDArray[Any]
    intercept_: Any

    def __init__(
        self,
        p: ArrayLike = 0.5,
        *,
        alpha: float = 0.1,
        fit_intercept: bool = True,
        tol: float = 1e-8,
        max_iter: int = 200,
        warm_start: bool = False,
        verbose: int = 0,
        random_state: Any = None,
    ) -> None:
        self.p = p
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start
        self.verbose = verbose
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> DropoutPoissonRegressor:
        """Fit to rows X (n, d), dense or CSR, and counts (or rates) y (n,), 0 or more; both may be Dask collections."""
        alpha, tol, max_iter = check_settings(self)
        if is_lazy(X, y, sample_weight):
            from allmasks.linear_model.lazy_poisson import PoissonOverPartitions

            lazy = PoissonOverPartitions.of_data(self, X, y, sample_weight, alpha)
            return self._solve(lazy, np.dtype(lazy.data.dtype), tol, max_iter)
        X, y = self._read(X, y, order="C", y_numeric=True)
        y = check_counts(np.asarray(y, np.float64))
        dtype, rates = X.dtype, feature_rates(self.p, X.shape[1])
        weight = row_weights(sample_weight, X)
        if (weight == 0).any():
            X, y, weight = X[weight > 0], y[weight > 0], weight[weight > 0]
        share = weight / weight.max()
        intercept = bool(self.fit_intercept)
        rest = log_of(float(np.average(y, weights=share)), intercept)
        objective = ExactPoisson(Rows.to_fit(X, alpha, intercept), y, weight, rates, alpha, intercept, rest)
        return self._solve(objective, dtype, tol, max_iter)

    def _solve(
        self, objective: ExactPoisson | PoissonOverPartitions, dtype: Any, tol: float, max_iter: int
    ) -> DropoutPoissonRegressor:
        yard, rates, alpha = Yardstick.of(objective.at_rest()), objective.p, objective.alpha
        rest = objective.join(np.zeros(len(rates)), objective.rest)
        unbounded = objective.unbounded() if alpha == 0.0 else np.zeros(1, bool)
        w = rest
        if self.warm_start and hasattr(self, "coef_") and len(self.coef_) == len(rates):
            w = objective.join(self.coef_.astype(np.float64), float(self.intercept_))
            w = finite_start(objective, w, rest)
        report = None
        if self.verbose:
            report = lambda k, value, size: print(  # noqa: E731
                f"step {k}: objective {value:.10g}, gradient {size:.1e}", flush=True
            )
        futile = np.cbrt(tol) if unbounded.any() else 0.0
        best = minimize(
            objective, w, yard.target(tol), max_iter, forcing=0.01, futile=futile, noise=yard.noise, report=report
        )
        weights, b = objective.split(best.w)
        self.coef_ = weights.astype(dtype)
        self.intercept_ = dtype.type(b)
        self.objective_ = best.value
        self.objective_error_ = objective.rounding(best.w)
        self.gradient_norm_ = norm(best.gradient)
        self.n_iter_ = best.n_iter
        self.equivalent_penalty_ = objective.equivalent_penalty(best.w)
        self._rates = rates
        receding = alpha == 0.0 and not unbounded.any() and (rates == 0.0).any() and objective.receding(best.w)
        self._warn(best, yard.relative(self.gradient_norm_), unbounded, receding, objective.nothing_counted)
        return self

    def _warn(
        self, best: Minimum, relative: float, unbounded: NDArray[np.bool_], receding: bool, nothing_counted: bool
    ) -> None:
        if nothing_counted and self.fit_intercept:
            text = (
                "every y of positive weight is 0, so no finite intercept is best: the fit stopped where the gradient "
                f"was small or max_iter={self.max_iter} was reached"
            )
        elif unbounded.any():
            text = (
                f"{int(unbounded.sum())} of {len(unbounded)} features occur only in rows with y = 0, with one sign: at "
                "alpha=0 no finite weight is best for them. Set alpha > 0 for a definite answer"
            )
        elif receding:
            text = (
                "a combination of the features that are never dropped falls in rows with y = 0 alone: at alpha=0 no "
                "finite weights are best. Set alpha > 0 for a definite answer"
            )
        elif not best.converged:
            text = Yardstick.unfinished(self, relative, self.n_iter_)
        else:
            return
        if best.refused:
            text += ". Steps to weights at which the objective is not finite were refused"
        warnings.warn(text, ConvergenceWarning, stacklevel=4)

    @chunkwise
    def predict(self, X: Any, average: Literal["masks"] | None = None) -> Array:
        """Expected count, (n,): e^μ (weight scaling), or with average="masks" the exact mean of e^S over all masks."""
        if average not in (None, "masks"):
            raise ValueError(f'average must be None (weight scaling) or "masks" (exact mean), got {average!r}')
        X = self._read_new(X)
        if average == "masks":
            return self._said(self._moments(X), "mean")
        return np.exp(np.asarray(X @ self.coef_) + self.intercept_)

    @chunkwise
    def predict_std(self, X: Any) -> Array:
        """Exact standard deviation of e^S over all masks, (n,)."""
        return self._said(self._moments(self._read_new(X)), "std")

    def _said(self, moments: Any, name: str) -> Array:
        """That moment, with a warning where it is beyond the largest double."""
        values = np.asarray(getattr(moments, name))
        if not np.isfinite(values).all():
            row = int(np.argmin(np.isfinite(values)))
            warnings.warn(
                f"the {name} of e^S over all masks is beyond the largest double for row {row}, and given as inf",
                RuntimeWarning,
                stacklevel=3,
            )
        return values

    def _moments(self, X: Any) -> Any:
        return expected_score(self.coef_, X, self._rates, link="log", intercept=float(self.intercept_))

    def score(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """D², the share of the Poisson deviance that is explained, as scikit-learn's PoissonRegressor has it."""
        return float(d2_tweedie_score(y, self.predict(X), sample_weight=sample_weight, power=1))
