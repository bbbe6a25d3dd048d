"""Data sets in plain formats, for any of the benchmarks: `load(path)` gives X (n, d) and y (n,).

    NAME.npz                    arrays X and y, as `numpy.savez` writes them; a sparse X as `scipy.sparse.save_npz`'s
                                data, indices, indptr and shape beside y
    NAME.svmlight, NAME.libsvm  "y column:value column:value …" a line; may be compressed (.gz, .bz2)
    NAME.tsv, NAME.txt          "class<TAB>sentence" a line, UTF-8; may be compressed (.gz)

Nothing is scaled. Sentences stay text: what turns them into columns must be fitted on training rows alone.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.datasets import load_svmlight_file

__all__ = ["load", "stem"]


def stem(path: Path) -> str:
    """The name of a data set: that of its file up to the first point."""
    return path.name.split(".")[0]


def load(path: Path) -> tuple[Any, np.ndarray]:
    """X, dense or CSR in float64 or an (n,) array of sentences, and y as the file has it.

    Raises
    ------
    ValueError : a name that is none of the formats, or a line without a tab.
    """
    kinds = [part.lower() for part in path.name.split(".")[1:]]
    if "npz" in kinds:
        with np.load(path) as held:
            y = held["y"]
            if "X" in held:
                return np.asarray(held["X"], np.float64), y
            parts = (held["data"].astype(np.float64), held["indices"], held["indptr"])
            return sparse.csr_matrix(parts, tuple(held["shape"])), y
    if {"svmlight", "libsvm"} & set(kinds):
        X, y = load_svmlight_file(str(path))
        return X.tocsr(), y
    if {"tsv", "txt"} & set(kinds):
        raw = path.read_bytes()
        rows = (gzip.decompress(raw) if kinds[-1] == "gz" else raw).decode().split("\n")
        pairs = [row.rstrip("\r").split("\t", 1) for row in rows if row.strip()]
        bad = [pair for pair in pairs if len(pair) < 2]
        if bad:
            raise ValueError(f"{path.name} must hold 'class<TAB>sentence' a line, got {bad[0][0][:60]!r}")
        return np.array([text for _, text in pairs], dtype=object), np.array([name for name, _ in pairs])
    raise ValueError(f"{path.name} is none of .npz, .svmlight, .libsvm, .tsv, .txt: see benchmarks/plain.py")
