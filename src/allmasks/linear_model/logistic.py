"""Logistic regression that minimises the loss of dropout training exactly, in the mean over all 2^d masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, softmax
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from allmasks.errors import MethodNotApplicable
from allmasks.linear_model.checks import check_multi_class, check_settings, feature_rates
from allmasks.linear_model.estimators import RowsEstimator
from allmasks.linear_model.feature_rows import Rows
from allmasks.linear_model.logistic_problem import LabeledProblem, LabeledRows, labeled_rows
from allmasks.linear_model.logistic_solver import LogisticFit, solve, warn_if_unfinished
from allmasks.linear_model.multinomial import BoundedMultinomial, Multinomial, QuadraticMultinomial
from allmasks.linear_model.partitions import chunkwise, is_lazy, refuse_lazy
from allmasks.linear_model.stopping import norm
from allmasks.methods import Fourier
from allmasks.scores.characteristic import logistic_moments
from allmasks.scores.score import ScoreProblem

__all__ = ["DropoutLogisticRegression"]

Array = NDArray[np.float64]


class DropoutLogisticRegression(ClassifierMixin, RowsEstimator):
    """Logistic regression with dropout on its inputs, fitted to the exact objective.

    Minimises over w and b

        Σᵢ sᵢ E_m log(1 + exp(−ỹᵢ (b + Σⱼ wⱼ xᵢⱼ mⱼ / (1 − pⱼ)))) + α/2 ‖w‖²,   ỹ = ±1, mⱼ ~ Bernoulli(1 − pⱼ),

    where the mean runs over all 2^d masks: it is computed (by one integral over the score's characteristic function),
    not sampled. Convex. Several classes: one such problem for each class against the rest, or, where you ask for it,
    the multinomial loss of all in one softmax, from above by a proven bound, or to second order.

    Parameters
    ----------
    p : drop rate in [0, 1), one or one for each feature.
    alpha : weight of ½‖w‖², 0 or more; the intercept is not penalized. scikit-learn's C is 1/alpha.
        At 0 a feature seen in one class only has no finite best weight, nor have features that are never dropped and
        together separate the classes: the fit warns and stops.
    fit_intercept : whether there is an intercept b. It is never dropped.
    tol : stop once ‖∇‖₂ is `tol` of its value at w = 0 and the b that is best with it.
    max_iter : Newton steps at most in each stage: two rough ones, then the exact one.
    class_weight : None, "balanced" (each class's weights then sum to the same), or {class: weight}; multiplies
        `sample_weight`.
    multi_class : "ovr", one exact problem for each class; "softmax", all classes in one softmax, whose objective is
        minimized from above by a proven bound (two classes are the exact problem); or "quadratic", the same softmax
        with E_m[L] replaced by Σᵢ sᵢ (L(zᵢ) + ½ tr(Hᵢ Cov zᵢ)), zᵢ the scores at the mean mask and Hᵢ the loss's
        curvature there (Wager et al.): an approximation whose error is not known (`guarantee_` "uncontrolled",
        `objective_error_` nan), good where the scores spread little, and not convex. Two classes are then fitted in
        the same form.
    warm_start : start from the last solution.
    verbose : 1 or more prints a line for each step.
    random_state : not used; the fit is deterministic. There for scikit-learn's conventions.

    Attributes
    ----------
    classes_ : (n_classes,) those with a row of positive weight.
    coef_, intercept_ : (1, d) and (1,) for two classes, else (n_classes, d) and (n_classes,).
    objective_ : the exact value of the objective at the solution, summed over the classes' problems; with
        multi_class="softmax" the least that is proven not to be exceeded, with "quadratic" the value of that form.
    objective_error_ : how far the exact objective may be from that: bound on the numerical error; of several classes in
        one softmax the width of `objective_bounds_`, and nan for the quadratic form.
    objective_bounds_ : lower and upper bound of the exact objective at the solution; nan for the quadratic form.
    guarantee_ : "exact"; "bounded" for a softmax of several classes, or "uncontrolled" for the quadratic form.
    gradient_norm_ : norm of the gradient of what is minimized.
    equivalent_penalty_ : shaped as `coef_`: λⱼ = pⱼ/(1−pⱼ) Σᵢ sᵢ σ'(μᵢ) xᵢⱼ². To second order dropout adds
        ½ Σⱼ λⱼ wⱼ², so λⱼ and alpha multiply the same ½wⱼ² (Wager, Wang & Liang 2013).
    n_iter_ : Newton steps of each class's problem.
    n_features_in_, feature_names_in_ : as in scikit-learn.

    Raises
    ------
    ValueError : p outside [0, 1), alpha < 0, NaN, fewer than two classes.

    References
    ----------
    Wager, Wang & Liang 2013, "Dropout training as adaptive regularization"; Wang & Manning 2013, "Fast dropout
    training". The exact form is this library's (`allmasks.scores.characteristic`).

    Example
    -------
    >>> import numpy as np
    >>> from allmasks.linear_model import DropoutLogisticRegression
    >>> X = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    >>> model = DropoutLogisticRegression(p=0.5, alpha=0.1).fit(X, [1, 1, 0, 0])
    >>> model.predict([[1.0, 0.5]])
    array([1])
    >>> model.predict_proba([[1.0, 0.5]]).shape, model.predict_std([[1.0, 0.5]]).shape
    ((1, 2), (1,))
    """

    def __init__(
        self,
        p: ArrayLike = 0.5,
        *,
        alpha: float = 0.1,
        fit_intercept: bool = True,
        tol: float = 1e-6,
        max_iter: int = 200,
        class_weight: Any = None,
        multi_class: Literal["ovr", "softmax", "quadratic"] = "ovr",
        warm_start: bool = False,
        verbose: int = 0,
        random_state: Any = None,
    ) -> None:
        self.p = p
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter
        self.class_weight = class_weight
        self.multi_class = multi_class
        self.warm_start = warm_start
        self.verbose = verbose
        self.random_state = random_state

    def fit(
        self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None, X_unlabeled: Any = None
    ) -> DropoutLogisticRegression:
        """Fit to rows X (n, d), dense or CSR, and their classes y (n,); both may be Dask collections.

        Parameters
        ----------
        sample_weight : (n,) the sᵢ above; 1 each by default.
        X_unlabeled : (m, d) rows without a class. What dropout adds to the loss, E log(1 + e^S) − log(1 + e^μ), needs
            no label; its mean is then taken over all n + m rows (times Σs): exact as a statement about the rows
            at hand, an estimate of the penalty over the population. The objective is then no longer convex in general.
        """
        alpha, tol, max_iter = check_settings(self)
        check_multi_class(self.multi_class)
        problem: LabeledProblem
        if is_lazy(X, y, sample_weight):
            from allmasks.linear_model.lazy_logistic import labeled_partitions

            if self.multi_class != "ovr":
                refuse_lazy(f'DropoutLogisticRegression(multi_class="{self.multi_class}")', X, y, sample_weight)
            problem = labeled_partitions(self, X, y, sample_weight, X_unlabeled, alpha)
        else:
            X, y = self._read(X, y, order="C")
            check_classification_targets(y)
            rates = feature_rates(self.p, X.shape[1])
            weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
            more = self._read_more(X_unlabeled, X.dtype)
            problem = labeled_rows(self, X, np.asarray(y), weight, rates, alpha, more)
        fits, one_sided, separated = self._solve(problem, tol, max_iter)
        warn_if_unfinished(self, fits, one_sided, separated=separated)
        return self

    def _solve(
        self, problem: LabeledProblem, tol: float, max_iter: int, *, rough: bool = False
    ) -> tuple[list[LogisticFit], NDArray[np.bool_] | None, bool]:
        """Fits, features that speak for one class only, and whether never-dropped ones separate classes.

        rough : for weights that are only scored, see `solve`.
        """
        one_sided = problem.one_sided
        starts = self._previous(problem.classes, len(problem.rates))
        self.classes_, self._rates = problem.classes, problem.rates
        if self.multi_class == "quadratic" or (self.multi_class == "softmax" and len(problem.classes) > 2):
            assert isinstance(problem, LabeledRows)
            return [self._solve_together(problem, starts, tol, max_iter, rough)], one_sided, False
        fits = []
        endless = one_sided is not None and bool(one_sided.any())
        for number, (binary, target) in enumerate(zip(problem.binaries, problem.targets, strict=True)):
            start = None if starts is None else starts[number]
            report = self._teller(f"class {problem.classes[target]}")
            fits.append(solve(binary, start, tol, max_iter, report, endless=endless, rough=rough))
        ends = [fit.w for fit in fits]
        split = [binary.split(w) for binary, w in zip(problem.binaries, ends, strict=True)]
        self.coef_ = np.array([weights for weights, _ in split], problem.dtype)
        self.intercept_ = np.array([b for _, b in split], problem.dtype)
        self.equivalent_penalty_ = np.array(
            [binary.equivalent_penalty(w) for binary, w in zip(problem.binaries, ends, strict=True)]
        )
        self._store(fits, "exact")
        separated = one_sided is not None and not endless and not problem.has_more and not rough
        return fits, one_sided, separated and problem.separated(ends)

    def _solve_together(
        self, labeled: LabeledRows, starts: list[Array] | None, tol: float, max_iter: int, rough: bool
    ) -> LogisticFit:
        """All classes in one softmax."""
        one = labeled.binaries[0]
        labels = np.zeros((one.rows.n, len(labeled.classes)))
        labels[np.arange(len(labeled.codes)), labeled.codes] = labeled.weight
        given = one.rows, one.spread, one.alpha, one.fit_intercept, labels, one.noisy
        bounded = BoundedMultinomial(*given, labeled.rates) if self.multi_class == "softmax" else None
        problem: Multinomial = bounded or QuadraticMultinomial(*given)
        start = None
        if starts is not None:
            together = np.array(starts)
            start = np.concatenate([together[:, : one.rows.d].ravel(), together[:, one.rows.d :].ravel()])
        fit = problem.solve(start, tol, max_iter, self._teller(self.multi_class))
        if bounded is not None and not rough:
            fit = bounded.refined(fit, tol, max_iter)
        coef, intercept = problem.split(fit.w)
        self.coef_ = coef[problem.free].astype(labeled.dtype)
        self.intercept_ = intercept[problem.free].astype(labeled.dtype)
        self.equivalent_penalty_ = problem.equivalent_penalty(fit.w)
        self._store([fit], "uncontrolled" if bounded is None else "bounded")
        return fit

    def _teller(self, name: str) -> Callable[[str], None] | None:
        return (lambda line: print(f"[{name}] {line}", flush=True)) if self.verbose else None

    def _previous(self, classes: NDArray[Any], d: int) -> list[Array] | None:
        if not self.warm_start or not hasattr(self, "coef_"):
            return None
        if self.coef_.shape[1] != d or not np.array_equal(self.classes_, classes):
            return None
        coef = self.coef_.astype(np.float64)
        if not self.fit_intercept:
            return list(coef)
        return list(np.column_stack([coef, self.intercept_.astype(np.float64)]))

    def _store(self, fits: list[LogisticFit], guarantee: str) -> None:
        self.guarantee_ = guarantee
        self.objective_ = float(sum(fit.value for fit in fits))
        self.objective_error_ = float(sum(fit.error for fit in fits))
        above = self.objective_ + (self.objective_error_ if guarantee == "exact" else 0.0)
        self.objective_bounds_ = (self.objective_ - self.objective_error_, above)
        if guarantee == "uncontrolled":
            self.objective_bounds_ = (np.nan, np.nan)
        self.gradient_norm_ = norm(np.array([fit.gradient_norm for fit in fits]))
        self.n_iter_ = np.array([fit.n_iter for fit in fits], np.int32)

    @chunkwise
    def decision_function(self, X: Any) -> Array:
        """The score at the mean mask, μ = b + Σ wⱼ xⱼ: (n,) for two classes, else (n, n_classes)."""
        scores = np.asarray(self._read_new(X) @ self.coef_.T) + self.intercept_
        return scores.ravel() if scores.shape[1] == 1 else scores

    @chunkwise
    def predict(self, X: Any) -> NDArray[Any]:
        """The class of the largest score, (n,)."""
        scores = self.decision_function(X)
        index = (scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)
        return self.classes_[index]

    @chunkwise
    def predict_proba(self, X: Any, average: Literal["masks"] | None = None) -> Array:
        """Probability of each class, (n, n_classes).

        average : None for the weight-scaling rule, σ at the mean mask; "masks" for the exact mean of σ(S) over all
            2^d thinned models. Of several classes the one-vs-rest probabilities are divided by their sum.
        """
        if average not in (None, "masks"):
            raise ValueError(f'average must be None (weight scaling) or "masks" (exact mean), got {average!r}')
        if average is None and self._is_softmax():
            return np.asarray(softmax(self.decision_function(X), axis=1))
        if average is None:
            probability = expit(self.decision_function(X))
            if probability.ndim == 1:
                return np.column_stack([1.0 - probability, probability])
        else:
            means = [mean for mean, _ in self._moments(X)]
            if len(means) == 1:
                return np.column_stack([1.0 - means[0], means[0]])
            probability = np.column_stack(means)
        total = probability.sum(axis=1, keepdims=True)
        return np.where(total > 0, probability / np.where(total > 0, total, 1.0), 1.0 / probability.shape[1])

    @chunkwise
    def predict_log_proba(self, X: Any, average: Literal["masks"] | None = None) -> Array:
        """Logarithm of `predict_proba`."""
        return np.log(self.predict_proba(X, average))

    @chunkwise
    def predict_std(self, X: Any) -> Array:
        """Exact standard deviation over all masks of σ(S): (n,) for two classes, else (n, n_classes).

        Of several classes: of each one-vs-rest probability before they are divided by their sum.
        """
        # Var σ = E σ − E σ' − (E σ)²; the difference is 0 to within rounding where nothing varies.
        variances = [np.maximum(mean - slope - mean**2, 0.0) for mean, slope in self._moments(X)]
        spread = np.sqrt(np.column_stack(variances))
        return spread.ravel() if spread.shape[1] == 1 else spread

    def _is_softmax(self) -> bool:
        check_is_fitted(self)
        return self.guarantee_ != "exact" and len(self.coef_) > 1

    def _moments(self, X: Any) -> list[tuple[Array, Array]]:
        """E σ(S) and E σ'(S) of each class's score, (n,) each."""
        if self._is_softmax():
            raise MethodNotApplicable(
                "Fourier",
                "the mean of a softmax of several classes over all masks has no exact form",
                "multi_class='ovr', whose means and spreads are exact, or am.expected_score(model.coef_, X, model.p, "
                "link='softmax', intercept=model.intercept_), which says how far its mean and variance may be off",
            )
        X = Rows(self._read_more(X)).X
        share = np.full(X.shape[0], 1.0 / X.shape[0])
        out = []
        for weights, b in zip(self.coef_.astype(np.float64), self.intercept_, strict=True):
            found, _, _ = logistic_moments(ScoreProblem(weights, X, self._rates, float(b), share), Fourier())
            out.append((found.sigma, found.slope))
        return out
