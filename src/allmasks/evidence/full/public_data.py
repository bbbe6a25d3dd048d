"""Public data as they are distributed, found in a folder: MNIST's idx files, sentences by polarity, .npz tables."""

from __future__ import annotations

import gzip
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["Rows", "Sources", "find_sources"]

Array = NDArray[np.float32]

_MNIST = {
    "train x": "train-images-idx3-ubyte",
    "train y": "train-labels-idx1-ubyte",
    "test x": "t10k-images-idx3-ubyte",
    "test y": "t10k-labels-idx1-ubyte",
}
_WORDS = 2000
_REGRESSIONS = 2


@dataclass(frozen=True)
class Rows:
    """Inputs (n, d) or (n, 1, h, w) and targets: class numbers, or real values where classes is 0."""

    x: Array
    y: NDArray[np.int64] | NDArray[np.float32]
    classes: int


@dataclass(frozen=True)
class Sources:
    """Files of a folder. mnist : its four, or none. text : (positive, negative). tables : .npz of real targets."""

    mnist: tuple[tuple[str, Path], ...]
    text: tuple[Path, Path] | None
    tables: tuple[tuple[str, Path], ...]


def find_sources(folder: str | Path | None) -> Sources:
    """What a folder, searched with its folders, has of the data that the full run is made for.

    Raises
    ------
    FileNotFoundError : no folder given or there, or nothing of it in it.
    """
    wanted = (
        "MNIST's four idx files (train-images-idx3-ubyte.gz …), sentences as NAME.pos.gz and NAME.neg.gz, "
        "regressions as .npz with X and y"
    )
    if folder is None:
        raise FileNotFoundError(f"--scale full needs data: give --data DIR, a folder with any of {wanted}")
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"--data {folder}: no such folder; it should have any of {wanted}")
    names: dict[str, Path] = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            names.setdefault(path.name.removesuffix(".gz"), path)
    mnist = tuple((part, names[name]) for part, name in _MNIST.items() if name in names)
    text = next(
        (
            (path, names[name.removesuffix(".pos") + ".neg"])
            for name, path in names.items()
            if name.endswith(".pos") and name.removesuffix(".pos") + ".neg" in names
        ),
        None,
    )
    tables = [(path.stem, path) for name, path in names.items() if name.endswith(".npz") and _is_regression(path)]
    if len(mnist) < len(_MNIST):
        mnist = ()
    if not (mnist or text or tables):
        raise FileNotFoundError(f"--data {folder}: no data that the full run is made for; it needs any of {wanted}")
    return Sources(mnist, text, tuple(tables[:_REGRESSIONS]))


def _is_regression(path: Path) -> bool:
    try:
        with np.load(path) as arrays:
            if "X" not in arrays or "y" not in arrays:
                return False
            x, y = arrays["X"], arrays["y"].ravel()
            return bool(x.ndim == 2 and len(x) == len(y) >= 100 and len(np.unique(y)) > 20)
    except (ValueError, OSError):
        return False


def _bytes(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError) as problem:
        raise ValueError(f"{path}: no whole gzip file ({problem}); fetch it again") from None


@lru_cache(maxsize=1)
def mnist(files: tuple[tuple[str, Path], ...]) -> tuple[Rows, Rows]:
    """Training and test images in [0, 1], (n, 784), from idx files.

    Raises
    ------
    ValueError : files that are no idx files of images and labels.
    """
    table = dict(files)

    def read(part: str, dims: int) -> NDArray[np.uint8]:
        path = table[part]
        raw = _bytes(path)
        header = 4 * (1 + dims)
        shape = np.frombuffer(raw[4:header], ">u4") if len(raw) > header else np.zeros(dims, np.uint32)
        if raw[:4] != bytes([0, 0, 8, dims]) or len(raw) != header + int(np.prod(shape)):
            raise ValueError(f"{path}: no idx file of bytes in {dims} dimensions; fetch it again")
        return np.frombuffer(raw, np.uint8, offset=header).reshape([int(n) for n in shape])

    found = []
    for part in ("train", "test"):
        x, y = read(f"{part} x", 3), read(f"{part} y", 1)
        found.append(Rows((x.reshape(len(x), -1) / np.float32(255)).astype(np.float32), y.astype(np.int64), 10))
    return found[0], found[1]


@lru_cache(maxsize=1)
def sentences(files: tuple[Path, Path]) -> Rows:
    """Words of each sentence as 0 and 1, of those that most sentences have."""
    texts, labels = [], []
    for label, path in enumerate(files):
        lines = [line for line in _bytes(path).decode("latin-1").split("\n") if line.strip()]
        texts += [set(line.split()) for line in lines]
        labels += [1 - label] * len(lines)
    counts = Counter(word for words in texts for word in words)
    vocabulary = {
        word: i for i, (word, _) in enumerate(sorted(counts.items(), key=lambda kv: (-kv[1], kv[0]))[:_WORDS])
    }
    x = np.zeros((len(texts), len(vocabulary)), np.float32)
    for row, words in enumerate(texts):
        x[row, [vocabulary[w] for w in words if w in vocabulary]] = 1.0
    return Rows(x, np.array(labels, np.int64), 2)


@lru_cache(maxsize=4)
def table(path: Path) -> Rows:
    """A regression, inputs and target standardized."""
    with np.load(path) as arrays:
        x, y = arrays["X"].astype(np.float64), arrays["y"].astype(np.float64).ravel()
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError(f"{path}: X and y must be finite; remove or impute those rows")
    spread = x.std(axis=0)
    x = (x - x.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return Rows(x.astype(np.float32), ((y - y.mean()) / y.std()).astype(np.float32), 0)
