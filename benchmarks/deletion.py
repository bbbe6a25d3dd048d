"""Inputs lost at test time: dropout beside ridge and logistic regression, each with and without the factor 1/(1 − q).

python benchmarks/deletion.py [--repeats 20] [--seeds 5]

Half of the rows are fitted, the other half loses a share q of its entries. scikit-learn's data (diabetes, columns
standardized; digits, pixels / 16). Strengths are chosen on the fitted half, for whole inputs: alpha and C by
cross-validation, p = .5 as in the published comparisons. Errors are standard errors over splits.
"""

from __future__ import annotations

import argparse
import math
import warnings

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.preprocessing import StandardScaler

from allmasks.linear_model import DropoutLogisticRegression, DropoutRidge, deletion_curve

SHARES = (0.0, 0.25, 0.5, 0.75)


def diabetes(seed: int):
    X, y = load_diabetes(return_X_y=True)
    X, Z, y, t = train_test_split(X, y, test_size=0.5, random_state=seed)
    scaler, size = StandardScaler().fit(X), y.std()
    return scaler.transform(X), y / size, scaler.transform(Z), t / size


def digits(seed: int):
    X, y = load_digits(return_X_y=True)
    X, Z, y, t = train_test_split(X / 16.0, y, test_size=0.5, random_state=seed, stratify=y)
    return X, y, Z, t


def regressors(n: int):
    return {
        "DropoutRidge(p=.5)": DropoutRidge(0.5),
        "RidgeCV": RidgeCV(alphas=np.logspace(-3, 5, 33)),
        "Ridge(alpha=n), the same penalty": Ridge(alpha=float(n)),
    }


def classifiers(n: int):
    return {
        "DropoutLogisticRegression(p=.5)": DropoutLogisticRegression(0.5, alpha=1e-3, tol=1e-4),
        "LogisticRegression, C chosen": GridSearchCV(
            LogisticRegression(max_iter=2000), {"C": np.logspace(-3, 2, 6)}, cv=3
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    tasks = (
        ("diabetes, mean squared error over the target's variance", diabetes, regressors, options.repeats),
        ("digits, error rate", digits, classifiers, max(2, options.repeats // 4)),
    )
    for title, load, models, repeats in tasks:
        found: dict[tuple[str, bool], list] = {}
        for seed in range(repeats):
            X, y, Z, t = load(seed)
            for name, model in models(len(X)).items():
                model.fit(X, y)
                for rescale in (False, True):
                    curve = deletion_curve(model, Z, t, shares=SHARES, rescale=rescale, seeds=options.seeds)
                    found.setdefault((name, rescale), []).append(curve.value)
        table = Table("model", "rescaled", *(f"q = {q:g}" for q in SHARES), title=f"{title}; {repeats} splits")
        for (name, rescale), values in found.items():
            mean, error = np.mean(values, axis=0), np.std(values, axis=0, ddof=1) / math.sqrt(repeats)
            cells = (f"{m:.3f} ± {e:.3f}" for m, e in zip(mean, error, strict=True))
            table.add_row(name, "yes" if rescale else "no", *cells)
        Console(width=140).print(table)


if __name__ == "__main__":
    main()
