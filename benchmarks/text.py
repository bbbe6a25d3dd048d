"""Dropout against L2 on text: accuracy over folds, and fit times. Sampled masks: `text_sampled.py`.

    python benchmarks/text.py --data DIR [--out text.json] [--sets rts subj cr athr books …] [--folds 10]
    python benchmarks/text.py --data DIR --out text.json --times 5
    python benchmarks/text.py --data DIR --surface --sets cr
    python benchmarks/text.py --file DATA … [--out text.json] [--folds 10]

The second, after the first: fit times alone, of the first fold at the settings it chose, the two taking turns. The
third: test accuracy at every point of both grids, the same in all folds, fitted to 1e-4. Its best point is chosen by
the test rows, so it flatters: what no fixed setting reaches is not for want of a better choice among them.

DATA is any set of two classes in a format of `benchmarks/plain.py`: sentences, or columns as they are, in ten folds.
DIR holds text/, amazon/ and wide/ (see the README of the data; nothing of it is shipped). Features: binary, whitespace
tokens and pairs of neighbors. Each outer fold chooses C, or (p, alpha), by 5-fold cross-validation on its training rows
alone. Both grids go as far as the other: C from 1e-4 to 300, alpha from 1/300 to 1e4 besides p from .03 to .97.
--old-grid takes the grids of the earlier figures, which end at C = .01 and alpha = 10, every pair of them. Choices at
an end of a grid are printed; so are accuracy with its standard error, the difference paired over folds, the median fit
time at the chosen setting and at equal tolerance (gradient 1e-6 of its value at zero). With --out, finished folds are
kept and not run again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measure import machine, once
from plain import load, stem
from rich.console import Console
from rich.table import Table
from scipy import io, sparse
from sklearn.datasets import load_svmlight_file
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, StratifiedShuffleSplit
from sklearn.preprocessing import StandardScaler

from allmasks.linear_model import DropoutLogisticRegression, DropoutLogisticRegressionCV

SETS = ["rts", "subj", "cr", "athr", "books", "electronics", "colon", "arcene"]


@dataclass(frozen=True)
class Grids:
    """What both choose from. full : whether every pair of p and alpha is tried."""

    name: str
    C: tuple[float, ...]
    ps: tuple[float, ...]
    alphas: tuple[float, ...]
    full: bool


_OLD_C = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
OLD = Grids("old", _OLD_C, (0.1, 0.3, 0.5, 0.7, 0.9), (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0), full=True)
_WIDE_C = (1e-4, 3e-4, 1e-3, 3e-3, *_OLD_C)
WIDE = Grids("wide", _WIDE_C, (0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97), tuple(1 / C for C in _WIDE_C[::-1]), full=False)
TOL = 1e-6


def lines(path: Path) -> list[str]:
    rows = gzip.decompress(path.read_bytes()).decode("latin-1").split("\n")
    return rows[:-1] if rows[-1] == "" else rows


def bag_of_words() -> CountVectorizer:
    """Binary words and pairs of neighbors."""
    return CountVectorizer(binary=True, ngram_range=(1, 2), token_pattern=r"\S+", lowercase=False, dtype=np.float64)


def file_splits(path: Path) -> Iterator[tuple[Any, np.ndarray, Any, np.ndarray]]:
    """The same of ten folds of a set in a plain format."""
    X, y = load(path)
    if len(np.unique(y)) != 2:
        raise ValueError(f"{path.name} must hold 2 classes, got {len(np.unique(y))}")
    y = (y == np.unique(y)[1]).astype(int)
    for train, test in StratifiedKFold(10, shuffle=True, random_state=0).split(X, y):
        if X.dtype == object:
            words = bag_of_words()
            yield words.fit_transform(X[train]), y[train], words.transform(X[test]), y[test]
        else:
            yield X[train], y[train], X[test], y[test]


def splits(name: str, data: Path, folds: int) -> Iterator[tuple[Any, np.ndarray, Any, np.ndarray]]:
    """Training rows and classes, test rows and classes, of each outer fold."""
    if name in ("rts", "subj", "cr"):
        positive, negative = (lines(data / "text" / f"{name}.{side}.gz") for side in ("pos", "neg"))
        texts = np.array(positive + negative, dtype=object)
        y = np.r_[np.ones(len(positive), int), np.zeros(len(negative), int)]
        for train, test in StratifiedKFold(10, shuffle=True, random_state=0).split(texts, y):
            # The vocabulary is the training rows' own.
            words = bag_of_words()
            yield words.fit_transform(texts[train]), y[train], words.transform(texts[test]), y[test]
    elif name == "athr":
        X = sparse.csr_matrix(sparse.load_npz(data / "text" / "athr_X.npz"), dtype=np.float64)[:, 1:]
        y = (np.load(data / "text" / "athr_y.npy").ravel() > 0).astype(int)
        # Halves both ways, under several splits.
        for seed in range((folds + 1) // 2):
            halves = StratifiedShuffleSplit(1, train_size=0.5, random_state=seed)
            a, b = next(halves.split(np.zeros(len(y)), y))
            for train, test in ((a, b), (b, a)):
                yield X[train], y[train], X[test], y[test]
    elif name in ("books", "electronics"):
        parts = []
        for side in ("train", "test"):
            X, y = load_svmlight_file(
                str(data / "amazon" / f"{name}_{side}.svmlight.gz"), n_features=5000, zero_based=True
            )
            parts += [(X > 0).astype(np.float64).tocsr(), (y > 0).astype(int)]
        yield tuple(parts)
    else:
        raw = io.loadmat(data / "wide" / f"{name}.mat")
        X = np.asarray(raw["X"].toarray() if sparse.issparse(raw["X"]) else raw["X"], np.float64)
        y = (raw["Y"].ravel() > np.unique(raw["Y"])[0]).astype(int)
        for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(X, y):
            scaler = StandardScaler().fit(X[train])
            yield scaler.transform(X[train]), y[train], scaler.transform(X[test]), y[test]


def same_tolerance(X: Any, y: np.ndarray) -> float:
    """scikit-learn's lbfgs stops at max |∇| of the mean loss; this is TOL of its value at zero."""
    r = 0.5 - y
    return TOL * float(max(np.abs(X.T @ r).max(), abs(r.sum()))) / len(y)


def at_ends(grids: Grids, choice: dict[str, float]) -> list[str]:
    """What of a choice lies at an end of its grid."""
    of = {"C": grids.C, "p": grids.ps, "alpha": grids.alphas}
    return [
        f"{key}={value:.4g} is the {'smallest' if value == min(of[key]) else 'largest'} tried"
        for key, value in choice.items()
        if value in (min(of[key]), max(of[key]))
    ]


def one_fold(X: Any, y: np.ndarray, X_test: Any, y_test: np.ndarray, grids: Grids) -> dict[str, Any]:
    inner = StratifiedKFold(5, shuffle=True, random_state=1)
    l2 = GridSearchCV(LogisticRegression(max_iter=5000), {"C": list(grids.C)}, cv=inner, refit=False)
    l2_search_seconds, _ = once(lambda: l2.fit(X, y))
    search = "full" if grids.full else "coarse"
    ours = DropoutLogisticRegressionCV(grids.ps, grids.alphas, cv=inner, refit=False, search=search, beyond=0)
    with warnings.catch_warnings():
        # Ends of a grid are in the record, and printed.
        warnings.simplefilter("ignore", UserWarning)
        search_seconds, _ = once(lambda: ours.fit(X, y))
    choice = {"p": ours.p_, "alpha": ours.alpha_}
    rival = LogisticRegression(tol=same_tolerance(X, y), max_iter=20000, **l2.best_params_)
    rival_seconds, _ = once(lambda: rival.fit(X, y))
    seconds, model = once(lambda: DropoutLogisticRegression(tol=TOL, **choice).fit(X, y))
    return {
        "l2": float(rival.score(X_test, y_test)),
        "dropout": float(model.score(X_test, y_test)),
        "grid": grids.name,
        "l2_choice": l2.best_params_,
        "dropout_choice": choice,
        "at_ends": at_ends(grids, {**l2.best_params_, **choice}),
        "l2_seconds": rival_seconds,
        "dropout_seconds": seconds,
        "l2_steps": int(rival.n_iter_[0]),
        "dropout_steps": int(model.n_iter_[0]),
        "l2_search_seconds": l2_search_seconds,
        "dropout_search_seconds": search_seconds,
        "relative_gradient_below": TOL,
    }


def over_folds(name: str, values: np.ndarray) -> tuple[float, float]:
    """Mean and standard error over folds. The two halves of a split of AthR share their rows: the split is the unit."""
    if name == "athr" and len(values) % 2 == 0:
        values = values.reshape(-1, 2).mean(axis=1)
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")


def summary(records: dict[str, Any]) -> Table:
    table = Table(title="Dropout − L2, chosen on the training folds")
    for column in (
        "set",
        "folds",
        "L2 %",
        "dropout %",
        "difference",
        "L2 s",
        "dropout s",
        "ratio",
    ):
        table.add_column(column, justify="left" if column == "set" else "right")
    for name in dict.fromkeys(key.split("/")[0] for key in records):
        rows = [r for key, r in sorted(records.items()) if key.startswith(f"{name}/fold")]
        if not rows:
            continue
        a, b = (100 * np.array([r[k] for r in rows]) for k in ("l2", "dropout"))
        l2, dropout, gain = (over_folds(name, values) for values in (a, b, b - a))
        seconds = [statistics.median(r[k] for r in rows) for k in ("l2_seconds", "dropout_seconds")]
        ratio = statistics.median(r["dropout_seconds"] / r["l2_seconds"] for r in rows)
        table.add_row(
            name,
            str(len(rows)),
            f"{l2[0]:.2f} ± {l2[1]:.2f}",
            f"{dropout[0]:.2f} ± {dropout[1]:.2f}",
            f"{gain[0]:+.2f} ± {gain[1]:.2f}",
            f"{seconds[0]:.2f}",
            f"{seconds[1]:.2f}",
            f"{ratio:.1f}",
        )
    return table


def fit_times(X: Any, y: np.ndarray, record: dict[str, Any], repeats: int) -> dict[str, tuple[float, float]]:
    """Medians of (wall, processor) seconds at the fold's choice; processor seconds count both threads."""
    rivals = {
        "L2": lambda: LogisticRegression(tol=same_tolerance(X, y), max_iter=20000, **record["l2_choice"]),
        "dropout": lambda: DropoutLogisticRegression(tol=TOL, **record["dropout_choice"]),
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in rivals}
    for _ in range(repeats):
        for name, make in rivals.items():
            model = make()
            spent, (wall, _) = once(lambda model=model: once(lambda: model.fit(X, y)), time.process_time)
            seconds[name].append((wall, spent))
    return {name: tuple(np.median(values, axis=0)) for name, values in seconds.items()}  # type: ignore[misc]


def times_table(records: dict[str, Any], names: list[str], data: Path, repeats: int, console: Console) -> None:
    for name in names:
        record = records.get(f"{name}/fold00")
        if record is None:
            continue
        X, y, _, _ = next(splits(name, data, 1))
        wall, processor = zip(*fit_times(X, y, record, repeats).values(), strict=True)
        console.print(
            f"{name}: L2 {wall[0]:.3f} s, dropout {wall[1]:.3f} s, ratio {wall[1] / wall[0]:.1f}; "
            f"processor seconds {processor[0]:.3f}, {processor[1]:.3f}, ratio {processor[1] / processor[0]:.1f}"
        )


def surface(X: Any, y: np.ndarray, X_test: Any, y_test: np.ndarray, grids: Grids) -> tuple[np.ndarray, np.ndarray]:
    """Test accuracy in % of L2 at every C, and of dropout at every (p, alpha)."""
    l2 = [LogisticRegression(C=C, max_iter=5000).fit(X, y).score(X_test, y_test) for C in grids.C]
    ours = [
        [DropoutLogisticRegression(p, alpha=alpha, tol=1e-4).fit(X, y).score(X_test, y_test) for alpha in grids.alphas]
        for p in grids.ps
    ]
    return 100 * np.array(l2), 100 * np.array(ours)


def surface_table(name: str, data: Path, folds: int, grids: Grids, console: Console) -> None:
    both = [surface(*split, grids) for _, split in zip(range(folds), splits(name, data, folds), strict=False)]
    l2, ours = (np.stack(values) for values in zip(*both, strict=True))
    table = Table(title=f"{name}: test accuracy % at fixed settings, {len(l2)} folds")
    for column in ("p", *(f"α = {alpha:g}" for alpha in grids.alphas)):
        table.add_column(column)
    for p, row in zip(grids.ps, ours.mean(axis=0), strict=True):
        table.add_row(f"{p:g}", *(f"{value:.2f}" for value in row))
    console.print(table)
    console.print(
        "L2, " + ", ".join(f"C = {C:g}: {value:.2f}" for C, value in zip(grids.C, l2.mean(axis=0), strict=True))
    )
    i, j = np.unravel_index(ours.mean(axis=0).argmax(), ours.shape[1:])
    gain, error = over_folds(name, ours[:, i, j] - l2[:, l2.mean(axis=0).argmax()])
    console.print(f"best by the test rows, p = {grids.ps[i]:g}, α = {grids.alphas[j]:g}: {gain:+.2f} ± {error:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--file", type=Path, nargs="+", default=[], help="sets in a plain format, in place of --data")
    parser.add_argument("--old-grid", action="store_true", help="the grids of the earlier figures")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--folds", type=int, default=10, help="outer folds to run at most")
    parser.add_argument("--times", type=int, default=0, metavar="N", help="only fit times: medians of N, needs --out")
    parser.add_argument("--surface", action="store_true", help="only test accuracy over both grids")
    args = parser.parse_args()
    if (args.data is None) == (not args.file) or (args.file and (args.times or args.surface)):
        parser.error("give --data, or --file without --times and --surface")
    grids = OLD if args.old_grid else WIDE
    records: dict[str, Any] = json.loads(args.out.read_text()) if args.out and args.out.exists() else {}
    others = [key for key, record in records.items() if record.get("grid", "old") != grids.name]
    if others and not args.times:
        parser.error(f"{args.out} holds folds of the other grid ({others[0]}): give another --out")
    console = Console(width=140)

    def keep(key: str, record: Any) -> None:
        records[key] = record
        if args.out:
            scratch = args.out.with_suffix(".part")
            scratch.write_text(json.dumps(records, indent=1))
            scratch.replace(args.out)

    console.print(machine())
    tiny = sparse.csr_matrix(np.eye(3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Compiled once, before anything is timed.
        DropoutLogisticRegression().fit(tiny, [0, 1, 1])
        DropoutLogisticRegression().fit(tiny.toarray(), [0, 1, 1])
    if args.times:
        times_table(records, args.sets, args.data, args.times, console)
        return
    if args.surface:
        for name in args.sets:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                surface_table(name, args.data, args.folds, grids, console)
        return
    sets = [(stem(path), file_splits(path)) for path in args.file]
    for name, outer in sets or [(name, splits(name, args.data, args.folds)) for name in args.sets]:
        for fold, (X, y, X_test, y_test) in enumerate(outer):
            if fold >= args.folds:
                break
            key = f"{name}/fold{fold:02d}"
            if key not in records:
                keep(key, one_fold(X, y, X_test, y_test, grids))
                r = records[key]
                chosen = ", ".join(f"{k}={v:.3g}" for k, v in {**r["l2_choice"], **r["dropout_choice"]}.items())
                ends = f"; at an end: {', '.join(r['at_ends'])}" if r["at_ends"] else ""
                console.print(f"{key}: L2 {r['l2']:.4f}, dropout {r['dropout']:.4f}; {chosen}{ends}")
    console.print(summary(records))
    for key, r in sorted(records.items()):
        if r.get("at_ends"):
            console.print(f"{key}: {', '.join(r['at_ends'])}")


if __name__ == "__main__":
    main()
