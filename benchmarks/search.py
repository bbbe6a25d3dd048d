"""`DropoutLogisticRegressionCV` beside scikit-learn's grid search over ten values of C: processor seconds, one thread.

    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python benchmarks/search.py \\
        [--file DATA …] [--repeats 3] [--full]

DATA is any set of two classes in a format of `benchmarks/plain.py`; sentences become binary words and pairs of
neighbors. Without one: 1 500 rows of 4 000 rare binary columns, drawn here. The same five folds; p × alpha is the grid
of 5 × 7 of `text.py`. Both take turns, and each is held to its least seconds. --full also searches every pair,
and prints what the other search's choice lacks of its best score, with the standard error of the difference over folds.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from measure import once
from plain import load, stem
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from text import OLD, bag_of_words

from allmasks.linear_model import DropoutLogisticRegressionCV


def drawn() -> tuple[Any, np.ndarray]:
    rng = np.random.default_rng(0)
    share = 0.2 / np.arange(1, 4001) ** 0.7
    X = sparse.csr_matrix((rng.random((1500, 4000)) < share).astype(np.float64))
    logits = X @ rng.normal(size=4000) * 2.0
    return X, (logits + rng.logistic(size=1500) > np.median(logits)).astype(int)


def folds() -> StratifiedKFold:
    return StratifiedKFold(5, shuffle=True, random_state=1)


def seconds(search: Any, X: Any, y: np.ndarray) -> float:
    return once(lambda: search.fit(X, y), time.process_time).seconds


def compare(name: str, X: Any, y: np.ndarray, repeats: int, full: bool) -> None:
    rival = GridSearchCV(LogisticRegression(max_iter=5000), {"C": list(OLD.C)}, cv=folds(), refit=False)
    ours = DropoutLogisticRegressionCV(OLD.ps, OLD.alphas, cv=folds(), refit=False)
    seconds(ours, X, y)  # compiled before anything is timed
    times = np.array([[seconds(rival, X, y), seconds(ours, X, y)] for _ in range(repeats)]).min(axis=0)
    tried, steps = len(ours.cv_results_["p"]), int(ours.cv_results_["n_iter"].sum())
    print(
        f"{name} {X.shape}: C {times[0]:.2f} s, {5 * len(OLD.C)} fits; dropout {times[1]:.2f} s, "
        f"{5 * tried} fits, {steps} steps; ratio {times[1] / times[0]:.1f}"
    )
    print(f"  C={rival.best_params_['C']:g}: {rival.best_score_:.4f}; {described(ours)}")
    if full:
        every = DropoutLogisticRegressionCV(OLD.ps, OLD.alphas, cv=folds(), refit=False, search="full", beyond=0)
        spent = seconds(every, X, y)
        gap = best_folds(ours) - best_folds(every)
        print(f"  every pair: {spent:.2f} s, {described(every)}; {gap.mean():+.4f} ± {gap.std(ddof=1) / 5**0.5:.4f}")


def best_folds(search: DropoutLogisticRegressionCV) -> np.ndarray:
    """Each fold's score of the choice."""
    found = search.cv_results_
    best = np.flatnonzero((found["p"] == search.p_) & (found["alpha"] == search.alpha_))[0]
    return np.array([found[f"split{k}_test_score"][best] for k in range(5)])


def described(search: DropoutLogisticRegressionCV) -> str:
    notes = "".join(f"; {note}" for note in search.notes_)
    return f"p={search.p_:.3g}, alpha={search.alpha_:.3g}: {search.best_score_:.4f}{notes}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, nargs="+", default=[])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--full", action="store_true")
    args = parser.parse_args()
    sets = [(stem(path), *load(path)) for path in args.file] or [("drawn", *drawn())]
    for name, X, y in sets:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compare(name, bag_of_words().fit_transform(X) if X.dtype == object else X, y, args.repeats, args.full)


if __name__ == "__main__":
    main()
