"""Data that worker processes make for themselves, in a module that they can import by its name."""

import os
import signal
from pathlib import Path

import numpy as np
from scipy import sparse

LARGE = (500, 40)
"""Rows and features of each of 20 partitions."""


def block(block_info=None, *, rows=LARGE[0], seed=3, storage="dense", die=None):
    """One partition of features, a function of its number alone."""
    number = block_info[None]["chunk-location"][0]
    if die is not None:
        die_once(die, number)
    x = np.random.default_rng([seed, number]).normal(size=(rows, LARGE[1]))
    return sparse.csr_matrix(np.where(x > 0.8, x, 0.0)) if storage == "csr" else x


def target(x, kind):
    score = np.asarray(x @ np.linspace(-0.5, 0.5, LARGE[1])).ravel()
    rng = np.random.default_rng(int(abs(score[0]) * 1e6))
    return score + rng.normal(size=len(score)) if kind == "ridge" else (score + rng.logistic(size=len(score)) > 0) * 1


def die_once(folder, number):
    """Kill this worker process, as the machine would, in the third pass over partition 11."""
    if number != 11:
        return
    passes = Path(folder) / "passes"
    with passes.open("a") as file:
        file.write("x")
    if passes.stat().st_size == 3:
        os.kill(os.getpid(), signal.SIGKILL)


def pid():
    return os.getpid()


def spilled(dask_worker):
    return len(getattr(dask_worker.data, "slow", ()) or ())
