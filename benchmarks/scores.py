"""The logistic loss over all masks beside drawing masks with NumPy: time, error and memory, in one run.

    python benchmarks/scores.py [--rows 10000] [--columns 1000] [--masks 100] [--repeats 3]

Rivals: a fresh mask for every row (what training draws), and masks shared by all rows (one matrix product, the
fastest that NumPy gets, at the price of errors that do not average out over rows). Each mean is held to the exact one.
Memory is the peak resident size of a process of its own, above what it held with its inputs made and kernels compiled.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from measure import Rows, in_turn, machine, median
from numba import get_num_threads
from scipy import sparse

import allmasks as am
from allmasks.methods import Fourier

P = 0.5


def problem(rows: int, columns: int):
    """Weights, inputs, targets: scores of a size that classification gives."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal(columns) / np.sqrt(columns)
    return w, rng.standard_normal((rows, columns)), rng.integers(0, 2, rows).astype(np.float64)


def softplus_mean(scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Loss of scores (masks, rows), averaged over masks."""
    return (np.logaddexp(0.0, scores) - y * scores).mean(axis=0)


def own_masks(w, X, y, n_masks: int, block: int) -> np.ndarray:
    """A fresh mask a row and draw; float32 random numbers, a block of rows at a time so that they stay in the cache."""
    rng = np.random.default_rng(1)
    out = np.zeros(len(X))
    bits = np.empty((block, X.shape[1]), np.float32)
    for lo in range(0, len(X), block):
        a = X[lo : lo + block] * (w / (1 - P))
        scores = np.empty((n_masks, len(a)))
        for m in range(n_masks):
            kept = rng.random(dtype=np.float32, out=bits[: len(a)]) >= P
            scores[m] = np.einsum("ij,ij->i", a, kept)
        out[lo : lo + block] = softplus_mean(scores, y[lo : lo + block])
    return out


def shared_masks(w, X, y, n_masks: int) -> np.ndarray:
    """The same masks for all rows: one matrix product."""
    kept = np.random.default_rng(1).random((X.shape[1], n_masks), dtype=np.float32) >= P
    return softplus_mean((X @ (kept * (w / (1 - P))[:, None])).T, y)


def megabytes_above_inputs(rows: int, columns: int, grad: bool) -> float:
    """Peak resident memory of one call above what the process held before it, in a process of its own."""
    command = [sys.executable, __file__, "--rows", str(rows), "--columns", str(columns), "--child", str(int(grad))]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def child(rows: int, columns: int, grad: bool) -> None:
    """Prints the megabytes of one call."""
    w, X, y = problem(rows, columns)
    am.expected_score_loss(w, X[:8], y[:8], P, return_grad=grad)  # compiles
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak that compiling left behind
    am.expected_score_loss(w, X, y, P, return_grad=grad)
    print((resident("VmHWM") - before) / 1024)


def resident(field: str) -> float:
    """KiB of this process, now (VmRSS) or at its peak (VmHWM); Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(field)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--columns", type=int, default=1_000)
    parser.add_argument("--masks", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        child(options.rows, options.columns, bool(options.child))
        return
    w, X, y = problem(options.rows, options.columns)
    exact = am.expected_score_loss(w, X, y, P)
    print(f"{machine()}, {get_num_threads()} threads; {options.rows:,} rows × {options.columns:,}, p = {P}")
    rows = Rows(("", 62), "seconds", "of the rival's time", ("largest error of a row", 24))
    n, blocks = options.masks, (8, 32, 128, 512)
    few = in_turn({str(b): lambda b=b: own_masks(w, X[:1024], y[:1024], n, b) for b in blocks}, 1)
    quickest = int(min(few, key=lambda block: few[block].seconds))
    rival, values = median(lambda: own_masks(w, X, y, n, quickest), max(1, options.repeats // 2))
    off = float(np.abs(values - exact.per_example).max())
    rows.add(f"NumPy, {n} masks of its own for each row (blocks of {quickest})", f"{rival:.3f}", "1", f"{off:.1e}")
    seconds, values = median(lambda: shared_masks(w, X, y, n), options.repeats)
    off = float(np.abs(values - exact.per_example).max())
    rows.add(f"NumPy, {n} masks shared by all rows", f"{seconds:.3f}", f"{seconds / rival:.3f}", f"{off:.1e}")
    binary, some = (X > 0.5).astype(np.float64), sparse.random(options.rows, options.columns, 0.05, "csr", rng=0)
    cases = {
        "expected_score_loss, tol=1e-4": (Fourier(tol=1e-4), X, False),
        "expected_score_loss, tol=1e-10": (Fourier(tol=1e-10), X, False),
        "expected_score_loss, to round-off": (Fourier(), X, False),
        "the same with the gradient": (Fourier(), X, True),
        "binary features": (Fourier(), binary, False),
        "CSR, 5 % stored": (Fourier(), some, False),
        "CSR, 5 % stored, with the gradient": (Fourier(), some, True),
    }
    for name, (method, inputs, grad) in cases.items():
        seconds, result = median(
            lambda m=method, r=inputs, g=grad: am.expected_score_loss(w, r, y, P, method=m, return_grad=g),
            options.repeats,
        )
        bound = f"{float(result.per_example_error.max()):.1e} ({result.guarantee})"
        rows.add(name, f"{seconds:.3f}", f"{seconds / rival:.3f}", bound)
    for grad in (False, True) if Path("/proc/self/clear_refs").exists() else ():
        used = megabytes_above_inputs(options.rows, options.columns, grad)
        print(f"memory above the inputs{', with the gradient' if grad else ''}: {used:.0f} MiB")


if __name__ == "__main__":
    main()
