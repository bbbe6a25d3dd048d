"""The drop rate of a linear regression chosen by cross-validation, the whole path from one factorisation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from allmasks.linear_model.centered import Centered, second_moments
from allmasks.linear_model.checks import check_number, feature_rates
from allmasks.linear_model.estimators import row_weights
from allmasks.linear_model.folds import Folds, Scorer, best_candidate, column_lengths, results_table
from allmasks.linear_model.partitions import refuse_lazy
from allmasks.linear_model.rate_path import rate_path
from allmasks.linear_model.ridge import DropoutRidge, RidgePrediction

__all__ = ["DropoutRidgeCV"]

Array = NDArray[np.float64]

DEFAULT_RATES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


class DropoutRidgeCV(RidgePrediction):
    """`DropoutRidge` with p and alpha chosen by leave-one-out or k-fold cross-validation.

    For each alpha one factorisation gives the whole path over p (a singular value decomposition at α = 0, a generalised
    eigenproblem of XᵀX + αI and D = diag(Σ sᵢ xᵢⱼ²) otherwise). Leave-one-out errors are in closed form along it,
    rᵢ/(1 − hᵢᵢ), *with D held fixed*: a refit without row i would also take xᵢⱼ² out of the penalty, which on sparse
    data is a visibly different number; `cv=n` computes that one.

    Parameters
    ----------
    ps : drop rates to try, each in [0, 1), for all features alike.
    alphas : L2 penalties to try besides.
    fit_intercept : as in `DropoutRidge`.
    cv : None for leave-one-out in closed form; else the number of folds, a splitter, or an iterable of splits.
    scoring : a scorer or its name, for k-fold only; None is the (weighted) mean squared error, negated. Where `fit`
        gets sample weights the scorer gets those of the rows it scores.
    tol, max_iter, random_state : as in `DropoutRidge`.

    Attributes
    ----------
    p_, alpha_ : the pair of best score; of equals, the smaller rate, then the larger alpha.
    best_score_ : its score.
    cv_results_ : dict of (candidates,) arrays "p", "alpha", "mean_test_score", "se_test_score" (its standard error over
        rows, or over folds), "rank_test_score" and, of k folds, "split0_test_score", …: folds count by the weight that
        they test, so that a row twice is a row of weight 2.
    coef_, intercept_, objective_, objective_error_, gradient_norm_, equivalent_penalty_, n_iter_ : of the final fit.

    Examples
    --------
    >>> import numpy as np
    >>> from allmasks.linear_model import DropoutRidgeCV
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(60, 40))
    >>> model = DropoutRidgeCV().fit(X, X[:, 0] + rng.normal(size=60))
    >>> model.p_, model.cv_results_["mean_test_score"].shape
    (0.7, (13,))
    """

    def __init__(
        self,
        ps: ArrayLike = DEFAULT_RATES,
        alphas: ArrayLike = (0.0,),
        *,
        fit_intercept: bool = True,
        cv: Any = None,
        scoring: Any = None,
        tol: float = 1e-12,
        max_iter: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.ps = ps
        self.alphas = alphas
        self.fit_intercept = fit_intercept
        self.cv = cv
        self.scoring = scoring
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> DropoutRidgeCV:
        """Choose p and alpha, then fit to all rows.

        Raises
        ------
        ValueError : an empty grid, p outside [0, 1), alpha below 0, and what scikit-learn refuses.
        """
        refuse_lazy("DropoutRidgeCV", X, y, sample_weight)
        X, y = self._read(X, y, multi_output=True, y_numeric=True)
        rates = feature_rates(self.ps, len(np.atleast_1d(np.asarray(self.ps))))
        alphas = [check_number("alpha", a, lowest=0.0) for a in np.atleast_1d(np.asarray(self.alphas, dtype=object))]
        if not len(rates) or not alphas:
            raise ValueError("ps and alphas must each hold at least one value")
        if self.cv is None and self.scoring is not None:
            raise ValueError("scoring is for k-fold cross-validation: pass cv= as well, or leave scoring=None")
        weight = row_weights(sample_weight, X)
        targets = np.asarray(y, np.float64).reshape(len(y), -1)
        table = None
        if self.cv is None:
            judged = self._leave_one_out(X, targets, weight, rates, alphas)
        else:
            folds = Folds.of(self.cv, X, y, weight, classifier=False)
            table = self._fold_scores(folds, X, y, weight, rates, alphas, sample_weight is not None)
            judged = folds.judged(table)
        p, alpha, score = np.tile(rates, len(alphas)), np.repeat(alphas, len(rates)), judged[0]
        self.cv_results_ = results_table(p, alpha, judged, table)
        best = best_candidate(p, alpha, score)
        self.p_, self.alpha_, self.best_score_ = float(p[best]), float(alpha[best]), float(score[best])
        final = DropoutRidge(
            self.p_, self.alpha_, fit_intercept=self.fit_intercept, tol=self.tol, max_iter=self.max_iter
        ).fit(X, y, weight)
        self._adopt(final)
        return self

    def _leave_one_out(
        self, X: Any, targets: Array, weight: Array, rates: Array, alphas: list[float]
    ) -> tuple[Array, Array]:
        squares = second_moments(X, weight)
        data = Centered.of(X, targets, weight, center=self.fit_intercept)
        scores, errors = [], []
        total, k = weight.sum(), targets.shape[1]
        n = int(np.count_nonzero(weight))
        for alpha in alphas:
            losses = rate_path(data, squares, alpha).left_out(rates / (1.0 - rates), self.fit_intercept) / k
            mean = losses.sum(axis=0) / total
            with np.errstate(invalid="ignore"):
                # The error of a weighted mean over rows, which are the independent units here.
                apart = losses - weight[:, None] * mean
                errors.append(column_lengths(apart) * np.sqrt(n / max(n - 1, 1)) / total)
            scores.append(-mean)
        return np.concatenate(scores), np.concatenate(errors)

    def _fold_scores(
        self, folds: Folds, X: Any, y: Any, weight: Array, rates: Array, alphas: list[float], weighted: bool
    ) -> Array:
        targets = np.asarray(y, np.float64).reshape(len(y), -1)
        score = None if self.scoring is None else Scorer.of(DropoutRidge(), self.scoring)
        table = np.empty((len(folds.splits), len(alphas) * len(rates)))
        for f, (train, test) in enumerate(folds.splits):
            mass = weight[test].sum()
            squares = second_moments(X[train], weight[train])
            data = Centered.of(X[train], targets[train], weight[train], center=self.fit_intercept)
            for a, alpha in enumerate(alphas):
                path = rate_path(data, squares, alpha).coefficients(rates / (1.0 - rates))
                for c, coef in enumerate(path):
                    intercept = data.intercept(coef)
                    cell = (f, a * len(rates) + c)
                    if score is None:
                        apart = targets[test] - np.asarray(X[test] @ coef) - intercept
                        losses = np.square(apart).mean(axis=1)
                        table[cell] = -(weight[test] @ losses) / mass if mass > 0 else 0.0
                    else:
                        model = self._fitted(coef, intercept, rates[c], y)
                        table[cell] = score(model, X[test], y[test], weight[test] if weighted else None)
        return table

    def _fitted(self, coef: Array, intercept: Array, rate: float, y: Any) -> DropoutRidge:
        model = DropoutRidge(rate, fit_intercept=self.fit_intercept)
        model.n_features_in_ = len(coef)
        model.coef_ = coef.T if y.ndim > 1 else coef[:, 0]
        model.intercept_ = intercept if y.ndim > 1 else float(intercept[0])
        model._rates = feature_rates(rate, len(coef))
        return model
