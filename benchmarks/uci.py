"""Gal & Ghahramani's UCI regressions: test RMSE and log-likelihood, beside what their 2018 result files say.

    python benchmarks/uci.py --data DIR [--out uci.jsonl] [--sets boston concrete energy wine] [--masks 1000]
                            [--no-refit] [--setting P TAU]
    python benchmarks/uci.py --file DATA … [--splits 20] [--out uci.jsonl]

DATA is any set of columns and numbers in a format of `benchmarks/plain.py`: a tenth of the rows, drawn anew for each
split, is tested on, and τ is chosen among 1, 2, 4, 8 and 16 over the variance of y; there is nothing published to
hold it against. --setting leaves the choice out: one p and one τ, as an earlier run chose them.

DIR holds uci/*.npz (nothing of it is shipped). Their experiment: dropout, Linear, ReLU on 50 units, dropout, Linear;
4000 epochs of Adam in batches of 128, L2 of (1e-2)² (1 - p) / (2 N τ) on the weights; of the 12 settings of (p, τ) the
one with the best log-likelihood on a fifth of the training rows is fitted again on all of them and tested. Theirs are
the splits; which training rows are held out for the choice is drawn here. The scales of inputs and targets are those of
the rows fitted.

Training is one compiled loop over a net small enough for the cache, with masks keyed by (net, epoch, row, unit):
about a second a net. Predictions are `am.predict`'s. With --out every finished net is one line of a file, and a run
that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import machine, once
from numba import njit
from plain import load, stem
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from scipy import sparse
from torch import nn

import allmasks as am
from allmasks.samplers import Independent

FILES = {"boston": "bostonHousing", "concrete": "concrete", "energy": "energy", "wine": "wine-quality-red"}
RATES = (0.005, 0.01, 0.05, 0.1)
PRECISIONS = {
    "boston": (0.1, 0.15, 0.2),
    "concrete": (0.025, 0.05, 0.075),
    "energy": (0.25, 0.5, 0.75),
    "wine": (2.5, 3.0, 3.5),
}
PUBLISHED = {
    "boston": ((2.904, 0.177), (-2.402, 0.042)),
    "concrete": ((4.827, 0.161), (-2.937, 0.025)),
    "energy": ((0.539, 0.013), (-1.212, 0.005)),
    "wine": ((0.622, 0.008), (-0.928, 0.013)),
}
ONLY: list[tuple[float, float]] = []
"""The one (p, τ) of --setting; none for a choice."""
PLAIN: dict[str, Path] = {}
"""Sets given as files, by name."""
UNITS, BATCH, EPOCHS, LENGTHSCALE = 50, 128, 4000, 1e-2
_CHUNK = 50
"""Epochs whose masks are drawn at once."""


@njit(fastmath=True, inline="always")
def _add(target, factor, source):  # type: ignore[no-untyped-def]
    for k in range(len(target)):
        target[k] += factor * source[k]


@njit(fastmath=True, inline="always")
def _gated(h, gate, kept, scale, w):  # type: ignore[no-untyped-def]
    """ReLU and dropout of h in place, their slope to `gate`; returns w · h."""
    for k in range(len(h)):
        gate[k] = scale * np.float32(kept[k]) * np.float32(h[k] > 0)
    out = np.float32(0)
    for k in range(len(h)):
        h[k] *= gate[k]
        out += h[k] * w[k]
    return out


@njit(fastmath=True, inline="always")
def _back(h, gate, slope, w, dw, db):  # type: ignore[no-untyped-def]
    for k in range(len(h)):
        dw[k] += slope * h[k]
        gate[k] *= slope * w[k]
        db[k] += gate[k]


@njit(fastmath=True, inline="always")
def _adam(theta, first, second, gradient, rate):  # type: ignore[no-untyped-def]
    for k in range(len(theta)):
        g = gradient[k]
        first[k] = np.float32(0.9) * first[k] + np.float32(0.1) * g
        second[k] = np.float32(0.999) * second[k] + np.float32(0.001) * g * g
        theta[k] -= rate * first[k] / (np.sqrt(second[k]) + np.float32(1e-8))


@njit(cache=True, fastmath=True, nogil=True)
def _epochs(X, y, order, kept_in, kept_hidden, p, reg, state, step):  # type: ignore[no-untyped-def]
    """Adam over epochs: state (3, P) float32 holds the parameters and both moments; returns the steps done.

    Parameters are W (features, 50), b (50), w (50), c, in this order; kept_* are (epochs, rows, units).
    """
    n, d = X.shape
    inner = d * 50
    theta, first, second = state[0], state[1], state[2]
    # Rows are slices: an index that could wrap around keeps the compiler from using whole vectors.
    W, b, w = theta[:inner].reshape(d, 50), theta[inner : inner + 50], theta[inner + 50 : inner + 100]
    gradient = np.empty(len(theta), np.float32)
    dW, db, dw = gradient[:inner].reshape(d, 50), gradient[inner : inner + 50], gradient[inner + 50 : inner + 100]
    h, gate = np.empty(50, np.float32), np.empty(50, np.float32)
    scale = np.float32(1.0 / (1.0 - p))
    decay = np.float32(2 * reg)
    for epoch in range(len(order)):
        for start in range(0, n, 128):
            stop = min(start + 128, n)
            gradient[:] = 0
            share = np.float32(2.0 / (stop - start))
            for at in range(start, stop):
                i = order[epoch, at]
                h[:] = b
                for j in range(d):
                    if kept_in[epoch, i, j]:
                        _add(h, X[i, j] * scale, W[j])
                out = theta[-1] + _gated(h, gate, kept_hidden[epoch, i], scale, w)
                slope = share * (out - y[i])
                gradient[-1] += slope
                _back(h, gate, slope, w, dw, db)
                for j in range(d):
                    if kept_in[epoch, i, j]:
                        _add(dW[j], X[i, j] * scale, gate)
            step += 1
            rate = np.float32(1e-3 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step))
            _add(gradient[:inner], decay, theta[:inner])
            _add(dw, decay, w)
            _adam(theta, first, second, gradient, rate)
    return step


def fit(X: np.ndarray, y: np.ndarray, p: float, tau: float, seed: int, epochs: int = EPOCHS) -> nn.Sequential:
    """A trained net in the units of the data: the scales are folded into its Linears' weights and biases."""
    n, d = X.shape
    center, spread = X.mean(axis=0), X.std(axis=0)
    spread[spread == 0] = 1
    y_center, y_spread = y.mean(), y.std()
    rows, targets = ((X - center) / spread).astype(np.float32), ((y - y_center) / y_spread).astype(np.float32)
    rng = np.random.default_rng(seed)
    bounds = [np.sqrt(6 / (d + UNITS)), np.sqrt(6 / (UNITS + 1))]
    weights = [rng.uniform(-b, b, size) for b, size in zip(bounds, (d * UNITS, UNITS), strict=True)]
    start = np.concatenate([weights[0], np.zeros(UNITS), weights[1], [0.0]])
    state = np.zeros((3, len(start)), np.float32)
    state[0] = start
    reg, step, draw = LENGTHSCALE**2 * (1 - p) / (2 * n * tau), 0, Independent().draw
    for begin in range(0, epochs, _CHUNK):
        numbers = np.arange(begin, min(begin + _CHUNK, epochs))
        order = rng.permuted(np.tile(np.arange(n), (len(numbers), 1)), axis=1)
        # All units of all rows as one mask of an epoch: rows this short would waste most of the words drawn.
        kept = draw(seed, 1, numbers, [0], np.full(n * (d + UNITS), 1 - p)).reshape(len(numbers), n, d + UNITS)
        step = _epochs(rows, targets, order, kept[..., :d], kept[..., d:], p, reg, state, step)
    net = nn.Sequential(nn.Dropout(p), nn.Linear(d, UNITS), nn.ReLU(), nn.Dropout(p), nn.Linear(UNITS, 1))
    theta = torch.from_numpy(state[0].astype(np.float64))
    inner = d * UNITS
    with torch.no_grad():
        net = net.double()
        # The standardized input is what is dropped, so it stays the net's input.
        net[1].weight.copy_(theta[:inner].reshape(d, UNITS).t())
        net[1].bias.copy_(theta[inner : inner + UNITS])
        net[4].weight.copy_(theta[inner + UNITS : inner + 2 * UNITS] * y_spread)
        net[4].bias.copy_(theta[-1] * y_spread + y_center)
    net.center, net.spread = center, spread
    return net


def inputs(net: nn.Sequential, X: np.ndarray) -> torch.Tensor:
    return torch.from_numpy((X - net.center) / net.spread)


@dataclass(frozen=True)
class Job:
    """One net: a split and a setting; or, without a setting, the test of the split's best."""

    name: str
    split: int
    p: float = 0.0
    tau: float = 0.0

    @property
    def key(self) -> str:
        return f"{self.name}/{self.split:02d}/" + (f"{self.p:g}/{self.tau:g}" if self.p else "test")


def _regression(path: Path) -> tuple[np.ndarray, np.ndarray]:
    X, y = load(path)
    if X.dtype == object:
        raise ValueError(f"{path.name} holds sentences; a regression needs columns: .npz or .svmlight")
    return X.toarray() if sparse.issparse(X) else X, np.asarray(y, np.float64)


def parts(data: Path | None, name: str, split: int) -> tuple[np.ndarray, ...]:
    """X and y of the rows to fit, to choose by, and to test on."""
    if name in FILES:
        held = np.load(data / "uci" / f"{FILES[name]}.npz")
        X, y, test = held["X"], held["y"], held[f"test_{split}"]
    else:
        X, y = _regression(PLAIN[name])
        test = np.random.default_rng(10_000 + split).permutation(len(y))[: max(1, len(y) // 10)]
    rest = np.random.default_rng(split).permutation(np.setdiff1d(np.arange(len(y)), test))
    cut = int(0.8 * len(rest))
    return X[rest[:cut]], y[rest[:cut]], X[rest[cut:]], y[rest[cut:]], X[test], y[test]


def fitted(data: Path | None, job: Job, everything: bool = False) -> nn.Sequential:
    """The net of a split and a setting, fitted on four fifths of the training rows or on everything."""
    X, y, X_held, y_held, *_ = parts(data, job.name, job.split)
    if everything:
        X, y = np.concatenate([X, X_held]), np.concatenate([y, y_held])
    return fit(
        X, y, job.p, job.tau, seed=1000 * job.split + 10 * (RATES.index(job.p) if job.p in RATES else len(RATES))
    )


def predicted(
    net: nn.Sequential, X: np.ndarray, y: np.ndarray, tau: float, masks: int, integrated: bool = False
) -> dict[str, float]:
    """Root mean squared error and mean log-likelihood, by MC dropout or with the last layer's masks integrated."""
    target = torch.from_numpy(y)[:, None]
    found = am.predict(
        net,
        inputs(net, X),
        task="regression",
        y=target,
        noise_precision=tau,
        n_masks=min(masks, 256) if integrated else masks,
        keep_samples=not integrated,  # kept samples are whole passes: nothing is integrated
    )
    return {"rmse": rmse(found.mean, target), "ll": float(found.log_likelihood.mean())}


def rmse(mean: torch.Tensor, y: torch.Tensor) -> float:
    return float(((mean - y) ** 2).mean().sqrt())


def validation(data: Path | None, job: Job, masks: int) -> dict[str, Any]:
    _, _, X, y, _, _ = parts(data, job.name, job.split)
    seconds, net = once(lambda: fitted(data, job))
    return {**predicted(net, X, y, job.tau, masks), "p": job.p, "tau": job.tau, "fit_seconds": seconds}


def tested(data: Path | None, job: Job, records: dict[str, dict[str, Any]], masks: int, refit: bool) -> dict[str, Any]:
    """The best setting, fitted on all training rows (or not again), and tested in three ways."""
    tried = [records[key] for one in settings(job.name, job.split) if (key := one.key) in records]
    best = max(tried, key=lambda r: r["ll"])
    _, _, _, _, X, y = parts(data, job.name, job.split)
    net, tau = fitted(data, Job(job.name, job.split, best["p"], best["tau"]), everything=refit), best["tau"]
    x, target = inputs(net, X), torch.from_numpy(y)[:, None]
    sampled, integrated = (predicted(net, X, y, tau, masks, formula) for formula in (False, True))
    with torch.no_grad():
        scaled = net.eval()(x)
    log = 0.5 * np.log(tau / (2 * np.pi)) - 0.5 * tau * float(((scaled - target) ** 2).mean())
    answer = {"p": best["p"], "tau": tau, "rmse": sampled["rmse"], "ll": sampled["ll"]}
    answer |= {f"integrated_{name}": value for name, value in integrated.items()}
    return answer | {"scaled_rmse": rmse(scaled, target), "scaled_ll": log}


def settings(name: str, split: int) -> Iterator[Job]:
    """What a split chooses from."""
    pairs = ONLY or [(p, tau) for p in RATES for tau in PRECISIONS[name]]
    yield from (Job(name, split, p, tau) for p, tau in pairs)


def jobs(names: list[str], splits: int) -> Iterator[Job]:
    for name in names:
        for split in range(splits):
            yield from settings(name, split)
            yield Job(name, split)


def finished(path: Path | None) -> dict[str, dict[str, Any]]:
    """What a file holds; a last line that was cut off is one net to be done again."""
    records: dict[str, dict[str, Any]] = {}
    if path is None or not path.exists():
        return records
    text = path.read_text()
    if text and not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        path.write_text(text)
    for line in text.splitlines():
        record = json.loads(line)
        records[record.pop("key")] = record
    return records


def summary(records: dict[str, dict[str, Any]], names: list[str]) -> Table:
    table = Table(title="Test RMSE and log-likelihood, mean ± standard error over splits")
    for column in ("set", "splits", "", "MC dropout", "weight scaling", "last layer integrated", "2018", "difference"):
        table.add_column(column, justify="left" if column in ("set", "") else "right")
    for name in names:
        rows = [r for key, r in records.items() if key.startswith(f"{name}/") and key.endswith("/test")]
        if not rows:
            continue
        for i, quantity in enumerate(("rmse", "ll")):
            cells = []
            for kind in ("", "scaled_", "integrated_"):
                values = np.array([r.get(f"{kind}{quantity}", np.nan) for r in rows])
                mean, error = values.mean(), values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
                cells.append((mean, error))
            theirs, their_error = PUBLISHED[name][i] if name in PUBLISHED else (np.nan, np.nan)
            gap = (cells[0][0] - theirs) * (-1 if quantity == "rmse" else 1)
            verdict = f"{gap / np.hypot(cells[0][1], their_error):+.1f} SE"
            shown = [f"{mean:.3f} ± {error:.3f}" for mean, error in [*cells, (theirs, their_error)]]
            label = "RMSE" if quantity == "rmse" else "log-likelihood"
            table.add_row("" if i else name, "" if i else str(len(rows)), label, *shown, verdict)
    table.caption = "difference: MC dropout with the 2018 files, + is better, in standard errors of both"
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--file", type=Path, nargs="+", default=[], help="sets in a plain format, in place of --data")
    parser.add_argument("--setting", type=float, nargs=2, metavar=("P", "TAU"), help="no choice: this one setting")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sets", nargs="+", choices=list(FILES), default=list(FILES))
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--masks", type=int, default=1000, help="masks a prediction, at most 1000")
    parser.add_argument("--no-refit", action="store_true", help="test the net that was chosen, fitted on four fifths")
    args = parser.parse_args()
    if (args.data is None) == (not args.file):
        parser.error("give --data or --file")
    if args.setting:
        ONLY.append(tuple(args.setting))
    for path in args.file:
        PLAIN[stem(path)] = path
        PRECISIONS[stem(path)] = tuple(k / float(np.var(_regression(path)[1])) for k in (1, 2, 4, 8, 16))
    if args.file:
        args.sets = list(PLAIN)
    if not 256 <= args.masks <= 1000:
        parser.error("--masks must lie between 256 and 1000")
    console, records = Console(width=140), finished(args.out)
    console.print(f"{machine()}, {len(records)} done before")
    todo = [job for job in jobs(args.sets, args.splits) if job.key not in records]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=len(todo))
        for job in todo:
            progress.update(bar, description=job.key)
            test = not job.p
            record = (
                tested(args.data, job, records, args.masks, not args.no_refit)
                if test
                else validation(args.data, job, args.masks)
            )
            records[job.key] = record
            if args.out:
                with args.out.open("a") as file:
                    file.write(json.dumps({"key": job.key, **record}) + "\n")
            progress.advance(bar)
    console.print(summary(records, args.sets))


if __name__ == "__main__":
    main()
