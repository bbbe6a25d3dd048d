"""DropoutRidge beside scikit-learn's Ridge, and the whole path over p beside RidgeCV: ratios of medians in one run.

python benchmarks/ridge.py [--rows 200000] [--columns 1000] [--repeats 3] [--file DATA …]

DATA is any set of columns and numbers in a format of `benchmarks/plain.py`, in place of the rows drawn here; sparse
columns are made dense, as the rivals named need them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from measure import Rows, machine, median
from plain import load
from scipy import sparse
from sklearn.linear_model import Ridge, RidgeCV

from allmasks.linear_model import DropoutRidge, DropoutRidgeCV


def drawn(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d))
    return X, X[:, :10].sum(axis=1) + rng.standard_normal(n)


def regression(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A set of columns and numbers, dense."""
    X, y = load(path)
    if X.dtype == object:
        raise ValueError(f"{path.name} holds sentences; a regression needs columns: .npz or .svmlight")
    return X.toarray() if sparse.issparse(X) else X, np.asarray(y, np.float64)


def fits(table: Rows, X: np.ndarray, y: np.ndarray, repeats: int) -> None:
    shape = f"{len(X):,} × {X.shape[1]:,}"
    base = median(lambda: Ridge(solver="cholesky").fit(X, y), repeats).seconds
    ours = median(lambda: DropoutRidge(p=0.5).fit(X, y), repeats).seconds
    table.add('Ridge(solver="cholesky")', shape, f"{base:.3g}", "1")
    table.add("DropoutRidge(p=0.5)", shape, f"{ours:.3g}", f"{ours / base:.2f}")


def paths(table: Rows, X: np.ndarray, y: np.ndarray, repeats: int) -> None:
    grid = np.linspace(0.01, 0.99, 100)
    alphas = len(X) * grid / (1 - grid)
    many = median(lambda: RidgeCV(alphas=alphas).fit(X, y), repeats).seconds
    table.add("RidgeCV, 100 alphas", f"{len(X):,} × {X.shape[1]:,}", f"{many:.3g}", "1")
    few = median(lambda: RidgeCV().fit(X, y), repeats).seconds
    table.add("RidgeCV(), 3 alphas", "", f"{few:.3g}", f"{few / many:.2f}")
    path = median(lambda: DropoutRidgeCV(ps=grid).fit(X, y), repeats).seconds
    table.add("DropoutRidgeCV, 100 values of p", "", f"{path:.3g}", f"{path / many:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--columns", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--file", type=Path, nargs="+", default=[], help="sets in a plain format, in place of drawn rows"
    )
    options = parser.parse_args()
    print(f"{machine()}; medians of {options.repeats}")
    table = Rows(("fit", 31), ("shape", 15), ("seconds", 8), "ratio")
    if options.file:
        for path in options.file:
            X, y = regression(path)
            fits(table, X, y, options.repeats)
            paths(table, X, y, options.repeats)
    else:
        fits(table, *drawn(options.rows, options.columns), options.repeats)
        for n, d in ((20_000, 500), (400, 5_000)):
            paths(table, *drawn(n, d), options.repeats)


if __name__ == "__main__":
    main()
