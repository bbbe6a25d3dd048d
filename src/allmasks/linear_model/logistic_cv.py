"""DropoutLogisticRegression with p and alpha chosen by cross-validation."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Literal

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight

from allmasks.linear_model.checks import check_grid, check_multi_class, check_settings, feature_rates
from allmasks.linear_model.folds import Folds, Scorer, results_table
from allmasks.linear_model.lattice import Axis, Point, best_of, climb, distance
from allmasks.linear_model.logistic import DropoutLogisticRegression
from allmasks.linear_model.logistic_problem import labeled_rows
from allmasks.linear_model.partitions import refuse_lazy

__all__ = ["DropoutLogisticRegressionCV"]

Array = NDArray[np.float64]


class DropoutLogisticRegressionCV(DropoutLogisticRegression):
    """`DropoutLogisticRegression` with p and alpha chosen by k-fold cross-validation.

    The grid is searched from coarse to fine: a few alphas, the ends among them, at a middle rate, a few rates at the
    best of them, then whatever lies around the best pair until nothing there is better. Where that lies at an end of a
    grid the search goes on past it. In each fold every fit starts from the weights of a neighbor. The best pair is
    fitted to all rows.

    Parameters
    ----------
    ps : drop rates to try, each in [0, 1), for all features alike.
    alphas : weights of ½‖w‖² to try, 0 or more.
    cv : number of (stratified) folds, a splitter, or an iterable of splits.
    scoring : a scorer or its name; None is accuracy. A class that a fold has no row of keeps its place in scores of
        probabilities; one that a fold's fit never saw has probability 0.
    refit : whether to fit the best pair to all rows; without, only the choice and its scores are there.
    search : "coarse" as above, or "full": every pair of the grid, then past its ends.
    beyond : steps past each end of `ps` and of `alphas` that the search may go, in the ratio of the grid's last two
        values (of 1 − p at the upper end of p, to .999 at most); 0 keeps to the grids. One value alone is no grid.
    search_tol : `tol` of the fits that are only scored. Of a rougher one beware: a fit that meets it where the weights
        that it starts from lie does not move.
    n_jobs : joblib's, over folds. (One fit uses the processors already.)
    random_state : not used: folds given as a number are not shuffled. There for scikit-learn's conventions.
    fit_intercept, tol, max_iter, class_weight, multi_class, verbose : as in `DropoutLogisticRegression`.

    Attributes
    ----------
    p_, alpha_ : the pair of best mean score; of equals one within the grid, then the smaller rate, then the larger
        alpha.
    best_score_ : its score.
    notes_ : tuple of sentences: where the choice lies past an end of a grid, or at the end of all that was tried. The
        second is warned of too (UserWarning).
    cv_results_ : dict of (candidates,) arrays "p", "alpha", "mean_test_score", "se_test_score" (standard error over
        folds), "rank_test_score", "n_iter" (steps of all fits) and "split0_test_score", … of the pairs tried. As in
        `DropoutRidgeCV`, folds count by the weight that they test.
    classes_, coef_, intercept_, objective_, … : of the final fit, as in `DropoutLogisticRegression`.

    Example
    -------
    >>> import numpy as np
    >>> from allmasks.linear_model import DropoutLogisticRegressionCV
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(60, 5))
    >>> model = DropoutLogisticRegressionCV(ps=(0.1, 0.5), alphas=(0.1, 1.0), scoring="neg_log_loss")
    >>> model = model.fit(X, X[:, 0] + 0.5 * rng.normal(size=60) > 0)
    >>> 0.0 < model.p_ < 1.0, len(model.cv_results_["p"]) == len(model.cv_results_["alpha"])
    (True, True)
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
        search: Literal["coarse", "full"] = "coarse",
        beyond: int = 4,
        tol: float = 1e-6,
        search_tol: float = 1e-3,
        max_iter: int = 200,
        class_weight: Any = None,
        multi_class: Literal["ovr", "softmax", "quadratic"] = "ovr",
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
        self.search = search
        self.beyond = beyond
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
        p_axis, alpha_axis = self._axes()
        X, targets = self._read(X, y, order="C")
        y = np.asarray(targets)
        check_classification_targets(y)
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if len(np.unique(y)) < 2:
            raise ValueError(
                "DropoutLogisticRegressionCV needs samples of at least 2 classes, but the data contains "
                f"only one class: {np.unique(y)}"
            )
        folds = Folds.of(self.cv, X, y, weight, classifier=True)
        score = Scorer.of(DropoutLogisticRegression(), self.scoring, classes=np.unique(y[weight > 0]))
        for number, (train, _) in enumerate(folds.splits):
            if len(np.unique(y[train][weight[train] > 0])) < 2:
                raise ValueError(
                    f"the training rows of fold {number} hold fewer than 2 classes; use fewer folds, or stratified ones"
                )
        more = self._read_more(X_unlabeled, X.dtype)
        rows = _Rows(self, p_axis, alpha_axis, X, y, weight, more, score, sample_weight is not None)
        search = _Search(rows, folds)
        means = climb(p_axis, alpha_axis, search.evaluate, full=self.search == "full")
        best = best_of(means, p_axis, alpha_axis)
        self.cv_results_ = search.table()
        self.p_, self.alpha_ = float(p_axis.values[best[0]]), float(alpha_axis.values[best[1]])
        self.best_score_ = means[best]
        self.notes_ = (*_notes(p_axis, best[0], self.p_), *_notes(alpha_axis, best[1], self.alpha_))
        if self.verbose:
            print(f"[search] best score {self.best_score_:.6g} at p={self.p_:g}, alpha={self.alpha_:g}", flush=True)
            for note in self.notes_:
                print(f"[search] {note}", flush=True)
        ends = [axis.end(place) for axis, place in ((p_axis, best[0]), (alpha_axis, best[1]))]
        if any(ends):
            warnings.warn("DropoutLogisticRegressionCV: " + "; ".join(self.notes_), UserWarning, stacklevel=2)
        if self.refit:
            final = self._single(self.p_, self.alpha_, self.tol)
            final.verbose = self.verbose
            self._adopt(final.fit(X, y, weight, more))
        return self

    def _axes(self) -> tuple[Axis, Axis]:
        if self.search not in ("coarse", "full"):
            raise ValueError(f'search must be "coarse" or "full", got {self.search!r}')
        if isinstance(self.beyond, bool) or not isinstance(self.beyond, Integral) or self.beyond < 0:
            raise ValueError(f"beyond must be a number of steps, 0 or more, got {self.beyond!r}")
        ps = np.unique(check_grid("ps", self.ps, below=1.0))
        alphas = np.unique(check_grid("alphas", self.alphas))
        steps = int(self.beyond)
        return Axis.of("ps", ps, steps, rate=True), Axis.of("alphas", alphas, steps, rate=False)

    def _single(self, p: float, alpha: float, tol: float) -> DropoutLogisticRegression:
        same = ("fit_intercept", "max_iter", "class_weight", "multi_class")
        settings = {name: getattr(self, name) for name in same}
        return DropoutLogisticRegression(p, alpha=float(alpha), tol=tol, **settings)


@dataclass(frozen=True)
class _Rows:
    """What a fold is fitted from and scored on; it travels to workers, what they found does not."""

    model: DropoutLogisticRegressionCV
    p_axis: Axis
    alpha_axis: Axis
    X: Any
    y: NDArray[Any]
    weight: Array
    more: Any
    score: Scorer
    weighted: bool

    def fold(
        self, train: Any, test: Any, points: list[Point], held: dict[Point, tuple[Array, Array]]
    ) -> tuple[list[float], list[int], dict[Point, tuple[Array, Array]]]:
        model = self.model._single(0.0, 1.0, self.model.search_tol)
        model.n_features_in_ = self.X.shape[1]
        tol, limit = check_settings(model)[1:]
        rates = feature_rates(0.0, self.X.shape[1])
        weakest = float(self.alpha_axis.values[0])
        problem = labeled_rows(model, self.X[train], self.y[train], self.weight[train], rates, weakest, self.more)
        X, y, weight = self.X[test], self.y[test], self.weight[test] if self.weighted else None
        scores, steps = [], []
        for point in points:
            p, alpha = float(self.p_axis.values[point[0]]), float(self.alpha_axis.values[point[1]])
            near = [at for at in held if p <= _farthest(float(self.p_axis.values[at[0]]))]
            if near:
                # Of neighbors equally near the one of the stronger penalty.
                nearest = min(near, key=lambda at: (distance(at, point), -at[1]))
                model.classes_, (model.coef_, model.intercept_) = problem.classes, held[nearest]
            model.set_params(p=p, alpha=alpha, warm_start=bool(near))
            model._solve(problem.at(feature_rates(p, self.X.shape[1]), alpha), tol, limit, rough=True)
            held[point] = model.coef_, model.intercept_
            scores.append(self.score(model, X, y, weight))
            steps.append(int(model.n_iter_.sum()))
        return scores, steps, held


@dataclass
class _Search:
    """Scores of candidates over all folds, every fit from the weights of a candidate nearby."""

    rows: _Rows
    folds: Folds
    scores: dict[Point, list[float]] = field(default_factory=dict)
    steps: dict[Point, int] = field(default_factory=dict)
    starts: list[dict[Point, tuple[Array, Array]]] = field(default_factory=list)

    def evaluate(self, points: list[Point], best: Point | None) -> dict[Point, float]:
        """Mean scores of points, in the order given; `best` is the point that they lie around."""
        if not points:
            return {}
        # Weights of all candidates of all folds would be more than the data: those around the best are kept.
        near = [{at: w for at, w in held.items() if best and distance(at, best) <= 2} for held in self.starts]
        near = near or [{} for _ in self.folds.splits]
        one, model = delayed(self.rows.fold), self.rows.model
        found = Parallel(n_jobs=model.n_jobs, verbose=max(model.verbose - 1, 0))(
            one(train, test, points, held) for (train, test), held in zip(self.folds.splits, near, strict=True)
        )
        self.starts = [held for _, _, held in found]
        for k, point in enumerate(points):
            self.scores[point] = [scores[k] for scores, _, _ in found]
            self.steps[point] = sum(steps[k] for _, steps, _ in found)
        means, _ = self.folds.judged(np.array([self.scores[point] for point in points]).T)
        return dict(zip(points, means.tolist(), strict=True))

    def table(self) -> dict[str, NDArray[Any]]:
        """`cv_results_`: rates in increasing order, and of each the strongest penalty first."""
        points = sorted(self.scores, key=lambda point: (point[0], -point[1]))
        scores = np.array([self.scores[point] for point in points]).T
        p = self.rows.p_axis.values[[i for i, _ in points]]
        alpha = self.rows.alpha_axis.values[[j for _, j in points]]
        steps = np.array([self.steps[point] for point in points])
        return results_table(p, alpha, self.folds.judged(scores), scores) | {"n_iter": steps}


def _farthest(p: float) -> float:
    """The rate up to which weights fitted at p are a start: there scores' variance, as p/(1 − p), has tripled.

    Beyond, the steps from them are cut short again and again; those from rest by way of the stand-in are not.
    """
    return 3.0 * p / (1.0 + 2.0 * p)


def _notes(axis: Axis, place: int, value: float) -> list[str]:
    """What there is to say of a choice at, or past, an end."""
    notes = []
    past, end = axis.past(place), axis.end(place)
    if past is not None:
        own = axis.values[axis.first if past == "smallest" else axis.last]
        notes.append(f"the best score lies past the {past} of {axis.name}, {own:g}, at {value:.4g}")
    if end is not None:
        notes.append(
            f"{value:.4g} is the {end} of {axis.name} that was tried: the best may lie farther; widen {axis.name} or "
            "raise beyond"
        )
    return notes
