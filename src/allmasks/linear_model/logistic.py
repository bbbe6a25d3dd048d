"""Logistic regression that minimises the loss of dropout training exactly, in the mean over all 2^d masks."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from allmasks.errors import MethodNotApplicable
from allmasks.linear_model.checks import check_multi_class, check_settings
from allmasks.linear_model.logistic_problem import LabeledProblem, labeled_problem
from allmasks.linear_model.logistic_solver import Solution, Task, solve, warn_if_unfinished
from allmasks.linear_model.multinomial import QuadraticMultinomial
from allmasks.linear_model.partitions import chunkwise, is_lazy, refuse_lazy
from allmasks.linear_model.rates import feature_rates
from allmasks.linear_model.rows import Rows
from allmasks.linear_model.stopping import norm
from allmasks.methods import Fourier
from allmasks.scores.characteristic import logistic_moments
from allmasks.scores.score import ScoreProblem

__all__ = ["DropoutLogisticRegression"]

Array = NDArray[np.float64]


class DropoutLogisticRegression(ClassifierMixin, BaseEstimator):
    """Logistic regression with dropout on its inputs, fitted to the exact objective.

    Minimises over w and b

        Σᵢ sᵢ E_m log(1 + exp(−ỹᵢ (b + Σⱼ wⱼ xᵢⱼ mⱼ / (1 − pⱼ)))) + α/2 ‖w‖²,   ỹ = ±1, mⱼ ~ Bernoulli(1 − pⱼ),

    where the mean runs over all 2^d masks: it is computed (by one integral over the score's characteristic function),
    not sampled. Convex. Several classes: one such problem for each class against the rest, or, where you ask for it,
    the multinomial loss, of which only a second-order approximation is to be had.

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
    multi_class : "ovr", one exact problem for each class; or "quadratic", all classes in one softmax, E_m[L] replaced
        by Σᵢ sᵢ (L(zᵢ) + ½ tr(Hᵢ Cov zᵢ)), zᵢ the scores at the mean mask and Hᵢ the loss's curvature there (Wager et
        al.): an approximation whose error is not known (`guarantee_` "uncontrolled", `objective_error_` nan), good
        where the scores spread little, and not convex. Two classes are then fitted in the same form.
    warm_start : start from the last solution.
    verbose : 1 or more prints a line for each step.
    random_state : not used; the fit is deterministic. There for scikit-learn's conventions.

    Attributes
    ----------
    classes_ : (n_classes,) those with a row of positive weight.
    coef_, intercept_ : (1, d) and (1,) for two classes, else (n_classes, d) and (n_classes,).
    objective_ : the exact value of the objective at the solution, summed over the classes' problems; with
        multi_class="quadratic" the value of that form.
    objective_error_ : bound on its numerical error; nan for the quadratic form.
    guarantee_ : "exact", or "uncontrolled" for the quadratic form.
    gradient_norm_ : norm of its gradient.
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
        multi_class: Literal["ovr", "quadratic"] = "ovr",
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

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

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
        if is_lazy(X, y, sample_weight):
            if self.multi_class == "quadratic":
                refuse_lazy('DropoutLogisticRegression(multi_class="quadratic")', X, y, sample_weight)
            return self._fit_lazy(X, y, sample_weight, X_unlabeled, alpha, tol, max_iter)
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=[np.float64, np.float32], order="C")
        check_classification_targets(y)
        rates = feature_rates(self.p, X.shape[1])
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        more = None
        if X_unlabeled is not None:
            more = validate_data(self, X_unlabeled, accept_sparse="csr", dtype=X.dtype, reset=False)
        problem = labeled_problem(self, X, np.asarray(y), weight, rates, alpha, more)
        solutions, one_sided, separated = self._solve_labeled(problem, tol, max_iter)
        warn_if_unfinished(self, solutions, one_sided, separated=separated)
        return self

    def _solve_labeled(
        self, problem: LabeledProblem, tol: float, max_iter: int, *, rough: bool = False
    ) -> tuple[list[Solution], NDArray[np.bool_] | None, bool]:
        """Solutions, features that speak for one class only, and whether never-dropped ones separate classes.

        rough : for weights that are only scored, see `solve`.
        """
        one_sided = problem.one_sided
        if self.multi_class == "quadratic":
            return self._solve_quadratic(problem, tol, max_iter), one_sided, False
        tasks, rates = problem.tasks, problem.rates
        solutions = self._solve(
            tasks, problem.classes, problem.targets, rates, problem.dtype, tol, max_iter, one_sided, rough=rough
        )
        labeled = one_sided is not None and not one_sided.any() and not problem.has_more
        return solutions, one_sided, labeled and not rough and problem.separated(solutions)

    def _fit_lazy(
        self, X: Any, y: Any, sample_weight: Any, X_unlabeled: Any, alpha: float, tol: float, max_iter: int
    ) -> DropoutLogisticRegression:
        from allmasks.linear_model.partitioned import logistic_problem

        rates = functools.partial(feature_rates, self.p)
        problem = logistic_problem(self, X, y, sample_weight, X_unlabeled, rates, alpha)
        one_sided, p = problem.one_sided() if alpha == 0.0 else None, rates(self.n_features_in_)
        solutions = self._solve(
            problem.tasks, problem.classes, problem.targets, p, problem.dtype, tol, max_iter, one_sided
        )
        separated = one_sided is not None and not one_sided.any() and X_unlabeled is None
        separated = separated and problem.separated(solutions, p == 0.0)
        warn_if_unfinished(self, solutions, one_sided, separated=separated, stacklevel=4)
        return self

    def _solve(
        self,
        tasks: Sequence[Task],
        classes: NDArray[Any],
        targets: Sequence[int],
        rates: Array,
        dtype: Any,
        tol: float,
        max_iter: int,
        one_sided: NDArray[np.bool_] | None,
        *,
        rough: bool = False,
    ) -> list[Solution]:
        previous = self._previous(classes, len(rates))
        self.classes_ = classes
        self._rates = rates
        solutions = []
        endless = one_sided is not None and bool(one_sided.any())
        for number, task in enumerate(tasks):
            report = None
            if self.verbose:
                name = classes[list(targets)[number]]
                report = lambda line, name=name: print(f"[class {name}] {line}", flush=True)  # noqa: E731
            start = None if previous is None else previous[number]
            solutions.append(solve(task, start, tol, max_iter, report, endless=endless, rough=rough))
        self._store(tasks, solutions, np.dtype(dtype))
        return solutions

    def _solve_quadratic(self, labeled: LabeledProblem, tol: float, max_iter: int) -> list[Solution]:
        tasks, classes, rates = labeled.tasks, labeled.classes, labeled.rates
        rows = tasks[0].rows
        labels = np.zeros((rows.n, len(classes)))
        labels[np.arange(len(labeled.codes)), labeled.codes] = labeled.weight
        problem = QuadraticMultinomial(
            rows, rates / (1.0 - rates), tasks[0].alpha, bool(self.fit_intercept), labels, tasks[0].noisy
        )
        previous = self._previous(classes, len(rates))
        start = None
        if previous is not None:
            together = np.array(previous)
            start = np.concatenate([together[:, : rows.d].ravel(), together[:, rows.d :].ravel()])
        report = (lambda line: print(f"[quadratic] {line}", flush=True)) if self.verbose else None
        solution = problem.solve(start, tol, max_iter, report)
        coef, intercept = problem.split(solution.w)
        self.classes_ = classes
        self._rates = rates
        self.coef_ = coef[problem.free].astype(labeled.dtype)
        self.intercept_ = intercept[problem.free].astype(labeled.dtype)
        self.equivalent_penalty_ = problem.equivalent_penalty(solution.w)
        self.objective_, self.objective_error_ = solution.value, solution.error
        self.gradient_norm_ = solution.gradient_norm
        self.guarantee_ = "uncontrolled"
        self.n_iter_ = np.array([solution.n_iter], np.int32)
        return [solution]

    def _previous(self, classes: NDArray[Any], d: int) -> list[Array] | None:
        if not self.warm_start or not hasattr(self, "coef_"):
            return None
        if self.coef_.shape[1] != d or not np.array_equal(self.classes_, classes):
            return None
        coef = self.coef_.astype(np.float64)
        if not self.fit_intercept:
            return list(coef)
        return list(np.column_stack([coef, self.intercept_.astype(np.float64)]))

    def _store(self, tasks: Sequence[Task], solutions: list[Solution], dtype: Any) -> None:
        split = [task.split(solution.w) for task, solution in zip(tasks, solutions, strict=True)]
        penalties = [task.equivalent_penalty(solution.w) for task, solution in zip(tasks, solutions, strict=True)]
        self.coef_ = np.array([weights for weights, _ in split], dtype)
        self.intercept_ = np.array([b for _, b in split], dtype)
        self.equivalent_penalty_ = np.array(penalties)
        self.guarantee_ = "exact"
        self.objective_ = float(sum(s.value for s in solutions))
        self.objective_error_ = float(sum(s.error for s in solutions))
        self.gradient_norm_ = norm(np.array([s.gradient_norm for s in solutions]))
        self.n_iter_ = np.array([s.n_iter for s in solutions], np.int32)

    @chunkwise
    def decision_function(self, X: Any) -> Array:
        """The score at the mean mask, μ = b + Σ wⱼ xⱼ: (n,) for two classes, else (n, n_classes)."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=False)
        scores = np.asarray(X @ self.coef_.T) + self.intercept_
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
            moments = self._moments(X)
            if len(moments) == 1:
                return np.column_stack([1.0 - moments[0][:, 2], moments[0][:, 2]])
            probability = np.column_stack([out[:, 2] for out in moments])
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
        variances = [np.maximum(m[:, 2] - m[:, 3] - m[:, 2] ** 2, 0.0) for m in self._moments(X)]
        spread = np.sqrt(np.column_stack(variances))
        return spread.ravel() if spread.shape[1] == 1 else spread

    def _is_softmax(self) -> bool:
        check_is_fitted(self)
        return self.guarantee_ == "uncontrolled" and len(self.coef_) > 1

    def _moments(self, X: Any) -> list[Array]:
        if self._is_softmax():
            raise MethodNotApplicable(
                "Fourier",
                "the mean of a softmax of several classes over all masks has no exact form",
                "multi_class='ovr', whose means and spreads are exact, or am.predict on a torch net with these weights",
            )
        X = Rows(validate_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=False)).X
        share = np.full(X.shape[0], 1.0 / X.shape[0])
        out = []
        for weights, b in zip(self.coef_.astype(np.float64), self.intercept_, strict=True):
            out.append(logistic_moments(ScoreProblem(weights, X, self._rates, float(b), share), Fourier())[0])
        return out
