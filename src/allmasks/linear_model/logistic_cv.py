"""DropoutLogisticRegression with p and alpha chosen by cross-validation."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import check_cv
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, validate_data

from allmasks.linear_model.checks import check_grid, check_multi_class
from allmasks.linear_model.logistic import DropoutLogisticRegression
from allmasks.linear_model.partitions import refuse_lazy
from allmasks.linear_model.scoring import Scorer

__all__ = ["DropoutLogisticRegressionCV"]

Array = NDArray[np.float64]


class DropoutLogisticRegressionCV(DropoutLogisticRegression):
    """`DropoutLogisticRegression` with p and alpha chosen by k-fold cross-validation.

    In each fold and for each p the path over alpha runs from the strongest penalty down, every fit starting from the
    last; then the best pair is fitted to all rows.

    Parameters
    ----------
    ps : drop rates to try, each in [0, 1), for all features alike.
    alphas : weights of ½‖w‖² to try, 0 or more.
    cv : number of (stratified) folds, a splitter, or an iterable of splits.
    scoring : a scorer or its name; None is accuracy. A class that a fold has no row of keeps its place in scores of
        probabilities; one that a fold's fit never saw has probability 0.
    refit : whether to fit the best pair to all rows; without, only the choice and its scores are there.
    search_tol : `tol` of the fits that are only scored. Of a rough one beware: a fit of the path that meets it where
        the last one ended does not move.
    n_jobs : joblib's, over folds and rates. (One fit uses the processors already.)
    random_state : not used: folds given as a number are not shuffled. There for scikit-learn's conventions.
    fit_intercept, tol, max_iter, class_weight, multi_class, verbose : as in `DropoutLogisticRegression`.

    Attributes
    ----------
    p_, alpha_ : the pair of best mean score; of equals, the smaller rate, then the larger alpha.
    best_score_ : its score.
    cv_results_ : dict of (candidates,) arrays "p", "alpha", "mean_test_score", "se_test_score" (standard error over
        folds), "rank_test_score" and "split0_test_score", ….
    classes_, coef_, intercept_, objective_, … : of the final fit, as in `DropoutLogisticRegression`.

    Example
    -------
    >>> import numpy as np
    >>> from allmasks.linear_model import DropoutLogisticRegressionCV
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(60, 5))
    >>> model = DropoutLogisticRegressionCV(ps=(0.1, 0.5), alphas=(0.1, 1.0)).fit(X, X[:, 0] > 0)
    >>> model.p_ in (0.1, 0.5), model.alpha_ in (0.1, 1.0), model.cv_results_["mean_test_score"].shape
    (True, True, (4,))
    """

    def __init__(
        self,
        ps: ArrayLike = (0.1, 0.3, 0.5, 0.7, 0.9),
        alphas: ArrayLike = (0.01, 0.1, 1.0),
        *,
        fit_intercept: bool = True,
        cv: Any = 5,
        scoring: Any = None,
        refit: bool = True,
        tol: float = 1e-6,
        search_tol: float = 1e-4,
        max_iter: int = 200,
        class_weight: Any = None,
        multi_class: Literal["ovr", "quadratic"] = "ovr",
        n_jobs: int | None = None,
        verbose: int = 0,
        random_state: Any = None,
    ) -> None:
        self.ps = ps
        self.alphas = alphas
        self.fit_intercept = fit_intercept
        self.cv = cv
        self.scoring = scoring
        self.refit = refit
        self.tol = tol
        self.search_tol = search_tol
        self.max_iter = max_iter
        self.class_weight = class_weight
        self.multi_class = multi_class
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.random_state = random_state

    def fit(
        self, X: Any, y: Any, sample_weight: ArrayLike | None = None, X_unlabeled: Any = None
    ) -> DropoutLogisticRegressionCV:
        """Choose p and alpha, and fit to rows X (n, d) and their classes y (n,).

        sample_weight : (n,), in the fits and in the scores.
        X_unlabeled : rows without a class that every fit takes, see `DropoutLogisticRegression.fit`.
        """
        refuse_lazy("DropoutLogisticRegressionCV", X, y, sample_weight)
        check_multi_class(self.multi_class)
        rates = np.unique(check_grid("ps", self.ps, below=1.0))
        alphas = np.unique(check_grid("alphas", self.alphas))[::-1]
        X, targets = validate_data(self, X, y, accept_sparse="csr", dtype=[np.float64, np.float32], order="C")
        y = np.asarray(targets)
        check_classification_targets(y)
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if len(np.unique(y)) < 2:
            raise ValueError(
                "DropoutLogisticRegressionCV needs samples of at least 2 classes, but the data contains "
                f"only one class: {np.unique(y)}"
            )
        folds = list(check_cv(self.cv, y, classifier=True).split(X, y))
        score = Scorer.of(DropoutLogisticRegression(), self.scoring, classes=np.unique(y[weight > 0]))
        for number, (train, _) in enumerate(folds):
            if len(np.unique(y[train][weight[train] > 0])) < 2:
                raise ValueError(
                    f"the training rows of fold {number} hold fewer than 2 classes; use fewer folds, or stratified ones"
                )
        more = None
        if X_unlabeled is not None:
            more = validate_data(self, X_unlabeled, accept_sparse="csr", dtype=X.dtype, reset=False)
        weighted = sample_weight is not None

        def path(train: Any, test: Any, p: float) -> list[float]:
            model = self._single(p, alphas[0], self.search_tol)
            model.warm_start = True
            scores = []
            for alpha in alphas:
                with warnings.catch_warnings():
                    # Of a fit that is only scored; the final one warns.
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    model.set_params(alpha=float(alpha)).fit(X[train], y[train], weight[train], more)
                scores.append(score(model, X[test], y[test], weight[test] if weighted else None))
            return scores

        jobs = [(train, test, float(p)) for p in rates for train, test in folds]
        flat = Parallel(n_jobs=self.n_jobs, verbose=max(self.verbose - 1, 0))(delayed(path)(*job) for job in jobs)
        # (rates, folds, alphas) -> (candidates, folds)
        scores = np.array(flat).reshape(len(rates), len(folds), len(alphas)).transpose(0, 2, 1).reshape(-1, len(folds))
        mean = scores.mean(axis=1)
        se = scores.std(axis=1, ddof=1) / np.sqrt(len(folds)) if len(folds) > 1 else np.full(len(mean), np.nan)
        best = int(np.argmax(np.where(np.isnan(mean), -np.inf, mean)))
        self.cv_results_ = {
            "p": np.repeat(rates, len(alphas)),
            "alpha": np.tile(alphas, len(rates)),
            "mean_test_score": mean,
            "se_test_score": se,
            "rank_test_score": rankdata(-mean, method="min").astype(int),
        } | {f"split{k}_test_score": scores[:, k] for k in range(len(folds))}
        self.p_ = float(self.cv_results_["p"][best])
        self.alpha_ = float(self.cv_results_["alpha"][best])
        self.best_score_ = float(mean[best])
        if self.verbose:
            print(f"[search] best score {self.best_score_:.6g} at p={self.p_:g}, alpha={self.alpha_:g}", flush=True)
        if self.refit:
            final = self._single(self.p_, self.alpha_, self.tol)
            final.verbose = self.verbose
            final.fit(X, y, weight, more)
            names = (
                "classes_ coef_ intercept_ equivalent_penalty_ objective_ objective_error_ guarantee_ gradient_norm_"
            )
            for name in [*names.split(), "n_iter_", "_rates"]:
                setattr(self, name, getattr(final, name))
        return self

    def _single(self, p: float, alpha: float, tol: float) -> DropoutLogisticRegression:
        return DropoutLogisticRegression(
            p,
            alpha=float(alpha),
            fit_intercept=self.fit_intercept,
            tol=tol,
            max_iter=self.max_iter,
            class_weight=self.class_weight,
            multi_class=self.multi_class,
        )
