"""DropoutRidge beside scikit-learn's Ridge, and the whole path over p beside RidgeCV: ratios of medians in one run.

python benchmarks/ridge.py [--rows 200000] [--columns 1000] [--repeats 3]
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import Ridge, RidgeCV

from allmasks.linear_model import DropoutRidge, DropoutRidgeCV


def processor() -> str:
    """The processor's name, as the system gives it."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor()


def seconds(fit, repeats: int) -> float:
    """Median seconds of a fit; the first one, not counted, warms up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        fit()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--columns", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    X = rng.standard_normal((options.rows, options.columns))
    y = X[:, :10].sum(axis=1) + rng.standard_normal(options.rows)
    table = Table("fit", "shape", "seconds", "ratio", title=f"{processor()}; medians of {options.repeats}")
    shape = f"{options.rows:,} × {options.columns:,}"
    base = seconds(lambda: Ridge(solver="cholesky").fit(X, y), options.repeats)
    ours = seconds(lambda: DropoutRidge(p=0.5).fit(X, y), options.repeats)
    table.add_row('Ridge(solver="cholesky")', shape, f"{base:.2f}", "1")
    table.add_row("DropoutRidge(p=0.5)", shape, f"{ours:.2f}", f"{ours / base:.2f}")
    del X
    grid = np.linspace(0.01, 0.99, 100)
    for n, d in ((20_000, 500), (400, 5_000)):
        X = rng.standard_normal((n, d))
        y = X[:, :10].sum(axis=1) + rng.standard_normal(n)
        few = seconds(lambda X=X, y=y: RidgeCV().fit(X, y), options.repeats)
        many = seconds(lambda X=X, y=y, a=n * grid / (1 - grid): RidgeCV(alphas=a).fit(X, y), options.repeats)
        path = seconds(lambda X=X, y=y: DropoutRidgeCV(ps=grid).fit(X, y), options.repeats)
        table.add_row("RidgeCV(), 3 alphas", f"{n:,} × {d:,}", f"{few:.2f}", f"{few / many:.2f}")
        table.add_row("RidgeCV, 100 alphas", "", f"{many:.2f}", "1")
        table.add_row("DropoutRidgeCV, 100 values of p", "", f"{path:.2f}", f"{path / many:.2f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
