"""The exact dropout objective by sampled masks: the time each way takes to come near its minimum.

    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 \\
        python benchmarks/text_sampled.py --data DIR --out text.json [--sets cr athr …] [--limit 60] [--memory 3]

    python benchmarks/text_sampled.py --data DIR --out text.json --accuracy 10

After `text.py`, whose first fold and chosen (p, alpha) it takes from --out. f is the exact objective over all masks,
f* its minimum, and a level a relative excess (f − f*) / f*. Printed, for each level, are the seconds of the fastest
setting that reached it:

- stacked masks: K thinned copies of the rows, drawn and fitted as one weighted problem by scikit-learn's lbfgs, K = 25,
  100, 400 … and two tolerances each, while the copies take less than --memory GB and a fit less than --limit seconds;
- averaged SGD: scikit-learn's, a fresh mask for each row in each pass, at eight step sizes and starts of the average;
  the best three after 30 passes go on, each for a third of --limit seconds, and are not charged for the others;
- ours: DropoutLogisticRegression, its `tol` lowered until the level is reached.

A level that was not reached is printed as what it had come to and the seconds until then. Nothing is extrapolated.
Computing f is not charged to anyone. Seconds are the processor's: run on one thread, as above. With --accuracy: the
test accuracy of 100 stacked masks at every fold's (p, alpha) instead.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from measure import machine, median, once
from rich.console import Console
from rich.table import Table
from scipy import sparse
from sklearn.linear_model import LogisticRegression, SGDClassifier
from text import same_tolerance, splits

import allmasks as am
from allmasks.linear_model import DropoutLogisticRegression

SETS = ["cr", "athr", "books", "electronics"]
LEVELS = [1e-1, 1e-2, 1e-3, 1e-4]
TOLERANCES = [0.3, 0.1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5, 1e-6]
PASSES = [3, 10, 30, 60, 100, 200]
PILOT = 30


def masked(X: Any, p: float, rng: np.random.Generator) -> Any:
    keep = rng.random(X.data.shape) >= p
    kept = np.concatenate([[0], np.cumsum(keep)])
    return sparse.csr_matrix((X.data[keep] / (1.0 - p), X.indices[keep], kept[X.indptr].astype(np.int32)), X.shape)


def objective(w: np.ndarray, b: float, X: Any, y: np.ndarray, p: float, alpha: float) -> float:
    """The exact dropout objective at any weights."""
    try:
        method = am.methods.Fourier(tol=1e-9, max_nodes=2**16)
        loss = am.expected_score_loss(w, X, y.astype(float), p, intercept=b, method=method)
    except am.MethodNotApplicable:
        # Weights so large that a row's scores spread over thousands: far from any minimum.
        return float("inf")
    return float(loss.value) * len(y) + 0.5 * alpha * float(w @ w)


class Race:
    """The least seconds in which each level was reached."""

    def __init__(self, minimum: float) -> None:
        self.minimum = minimum
        self.reached: dict[str, tuple[float, str]] = {}
        self.nearest = (float("inf"), 0.0, "")
        self.longest = 0.0

    def saw(self, value: float, seconds: float, setting: str) -> None:
        excess = value / self.minimum - 1.0
        self.nearest = min(self.nearest, (excess, seconds, setting))
        self.longest = max(self.longest, seconds)
        for level in LEVELS:
            if excess <= level and seconds < self.reached.get(str(level), (float("inf"), ""))[0]:
                self.reached[str(level)] = seconds, setting

    def record(self) -> dict[str, Any]:
        return {"reached": self.reached, "nearest": self.nearest, "longest": self.longest}


def fit_stacked(model: LogisticRegression, X: Any, y: np.ndarray, p: float, n_masks: int, rng: Any) -> Any:
    """The model fitted to thinned copies of the rows, in one weighted problem."""
    rows = sparse.vstack([masked(X, p, rng) for _ in range(n_masks)], format="csr")
    return model.fit(rows, np.tile(y, n_masks), np.full(n_masks * len(y), 1.0 / n_masks))


def stacked(X: Any, y: np.ndarray, p: float, alpha: float, race: Race, limit: float, memory: float) -> None:
    last = 0.0
    for n_masks in (25 * 4**k for k in range(10)):
        # A copy of the rows takes 12 bytes a kept entry, and as much again while they are put together.
        if 24e-9 * X.nnz * (1 - p) * n_masks > memory or 4.0 * last > limit:
            return
        for share in (1e-2, 1e-4):
            rng = np.random.default_rng(0)
            model = LogisticRegression(C=1.0 / alpha, max_iter=5000, tol=same_tolerance(X, y) / 1e-6 * share)
            last, _ = once(lambda m=model, k=n_masks, rng=rng: fit_stacked(m, X, y, p, k, rng), time.process_time)
            value = objective(model.coef_[0], float(model.intercept_[0]), X, y, p, alpha)
            race.saw(value, last, f"{n_masks} masks")
        if len(race.reached) == len(LEVELS):
            return


class Stream:
    """Averaged SGD of one setting, which can be left and taken up again."""

    def __init__(self, X: Any, y: np.ndarray, p: float, alpha: float, rate: dict[str, Any], first: int) -> None:
        self.data = X, y, p, alpha
        average = first * len(y) + 1 if first else True
        self.model = SGDClassifier(loss="log_loss", alpha=alpha / len(y), average=average, random_state=0, **rate)
        self.name = f"step {rate.get('eta0', 'optimal')}, mean from pass {first}"
        self.rng, self.passes, self.seconds, self.value = np.random.default_rng(0), 0, 0.0, float("inf")

    def run(self, passes: int, limit: float, race: Race) -> None:
        X, y, p, alpha = self.data
        while self.passes < passes and self.seconds < limit:
            one = once(lambda: self.model.partial_fit(masked(X, p, self.rng), y, classes=[0, 1]), time.process_time)
            self.seconds += one.seconds
            self.passes += 1
            if self.passes in PASSES or self.passes % PASSES[-1] == 0:
                self.value = objective(self.model.coef_[0], float(self.model.intercept_[0]), X, y, p, alpha)
                race.saw(self.value, self.seconds, f"{self.passes} passes, {self.name}")


def stream(X: Any, y: np.ndarray, p: float, alpha: float, race: Race, limit: float) -> None:
    rates: list[dict[str, Any]] = [{"learning_rate": "optimal"}]
    rates += [{"learning_rate": "constant", "eta0": eta} for eta in (1e-3, 1e-2, 1e-1)]
    runs = [Stream(X, y, p, alpha, rate, first) for rate, first in itertools.product(rates, (0, 10))]
    for run in runs:
        run.run(PILOT, limit / len(runs), race)
    for run in sorted(runs, key=lambda run: run.value)[:3]:
        run.run(100_000, limit / 3, race)


def ours(X: Any, y: np.ndarray, p: float, alpha: float, race: Race) -> None:
    for tol in TOLERANCES:
        model = DropoutLogisticRegression(p=p, alpha=alpha, tol=tol)
        seconds, _ = median(lambda model=model: model.fit(X, y), 3, clock=time.process_time)
        race.saw(model.objective_, seconds, f"tol {tol:g}")


def one_set(X: Any, y: np.ndarray, choice: dict[str, float], limit: float, memory: float) -> dict[str, Any]:
    p, alpha = choice["p"], choice["alpha"]
    minimum = DropoutLogisticRegression(p=p, alpha=alpha, tol=1e-8).fit(X, y).objective_
    races = {name: Race(minimum) for name in ("stacked", "SGD", "ours")}
    ours(X, y, p, alpha, races["ours"])
    stream(X, y, p, alpha, races["SGD"], limit)
    stacked(X, y, p, alpha, races["stacked"], limit, memory)
    return {"minimum": minimum, "choice": choice} | {name: race.record() for name, race in races.items()}


def table(name: str, record: dict[str, Any]) -> Table:
    choice = record["choice"]
    shown = Table(title=f"{name}, p = {choice['p']:g}, α = {choice['alpha']:g}, f* = {record['minimum']:.6g}")
    for column in ("excess", "ours, s", "stacked, s", "÷ ours", "SGD, s", "÷ ours"):
        shown.add_column(column, justify="right")
    for level in map(str, LEVELS):
        seconds, setting = record["ours"]["reached"][level]
        cells = [f"{float(level):.0e}", f"{seconds:.3f} ({setting})"]
        for rival in ("stacked", "SGD"):
            if level in record[rival]["reached"]:
                theirs, how = record[rival]["reached"][level]
                cells += [f"{theirs:.2f} ({how})", f"{theirs / seconds:.0f}"]
            else:
                excess, _, how = record[rival]["nearest"]
                longest = record[rival]["longest"]
                cells += [f"> {longest:.1f}, came to {excess:.1e} ({how})", f"> {math.floor(longest / seconds)}"]
        shown.add_row(*cells)
    return shown


def accuracy(name: str, data: Path, records: dict[str, Any], folds: int) -> None:
    """Test accuracy of 100 stacked masks at each fold's (p, alpha), and seconds of the fit, into the fold's record."""
    for fold, (X, y, X_test, y_test) in enumerate(splits(name, data, folds)):
        record = records.get(f"{name}/fold{fold:02d}")
        if fold >= folds or record is None:
            return
        if "sampled" in record:
            continue
        p, alpha = record["dropout_choice"]["p"], record["dropout_choice"]["alpha"]
        rng = np.random.default_rng(0)
        model = LogisticRegression(C=1.0 / alpha, max_iter=5000)
        fit = once(lambda m=model, X=X, y=y, p=p, rng=rng: fit_stacked(m, X, y, p, 100, rng), time.process_time)
        record["sampled_seconds"] = fit.seconds
        record["sampled"] = float(model.score(X_test, y_test))


def accuracy_line(name: str, records: dict[str, Any]) -> str:
    rows = [r for key, r in sorted(records.items()) if key.startswith(f"{name}/fold") and "sampled" in r]
    values = np.array([[100 * r["sampled"], 100 * (r["dropout"] - r["sampled"])] for r in rows])
    if name == "athr" and len(rows) % 2 == 0:
        # The two halves of a split share their rows: the split is the unit.
        values = values.reshape(-1, 2, 2).mean(axis=1)
    errors = values.std(axis=0, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.full(2, np.nan)
    seconds = statistics.median(r["sampled_seconds"] for r in rows)
    (sampled, apart), (error, apart_error) = values.mean(axis=0), errors
    return (
        f"{name}, {len(rows)} folds: 100 masks {sampled:.2f} ± {error:.2f} %, exact − sampled {apart:+.2f} ± "
        f"{apart_error:.2f}, median fit {seconds:.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="where text.py keeps its folds; results go there too")
    parser.add_argument("--sets", nargs="+", choices=["rts", "subj", *SETS], default=SETS)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds of one stacked fit, and of all SGD passes")
    parser.add_argument("--memory", type=float, default=3.0, help="GB for stacked rows")
    parser.add_argument("--accuracy", type=int, default=0, metavar="FOLDS", help="only test accuracy of 100 masks")
    args = parser.parse_args()
    records: dict[str, Any] = json.loads(args.out.read_text())
    console = Console(width=200)
    console.print(machine())
    warnings.simplefilter("ignore")

    def keep() -> None:
        scratch = args.out.with_suffix(".part")
        scratch.write_text(json.dumps(records, indent=1))
        scratch.replace(args.out)

    for name in args.sets:
        if args.accuracy:
            accuracy(name, args.data, records, args.accuracy)
            keep()
            console.print(accuracy_line(name, records))
            continue
        X, y, _, _ = next(splits(name, args.data, 1))
        # Compiled, or read from the cache, before anything is timed.
        DropoutLogisticRegression(tol=0.3).fit(X, y)
        choice = records[f"{name}/fold00"]["dropout_choice"]
        records[f"{name}/time to excess"] = one_set(X, y, choice, args.limit, args.memory)
        keep()
        console.print(table(name, records[f"{name}/time to excess"]))


if __name__ == "__main__":
    main()
