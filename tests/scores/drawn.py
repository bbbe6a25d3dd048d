"""Scores as hypothesis draws them: anything from denormal to huge weights, extreme and mixed rates, dense and CSR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse

MOST_UNITS = 16


@dataclass
class Drawn:
    """One call's worth of cases: rows of X, each a case of its own."""

    weights: np.ndarray
    X: np.ndarray
    p: Any
    intercept: float
    y: np.ndarray
    as_csr: bool

    @property
    def given(self) -> Any:
        return sparse.csr_matrix(self.X) if self.as_csr else self.X


rates = st.one_of(st.floats(0, 0.999), st.sampled_from([0.0, 1e-9, 1e-3, 0.5, 0.9, 0.99, 0.999]))
weight_values = st.one_of(st.floats(-1e3, 1e3), st.floats(-3, 3), st.sampled_from([0.0, 1e3, -1e3, 1e-8, 0.5, np.pi]))


@st.composite
def problems(draw: st.DrawFn, rows: int, most_units: int = MOST_UNITS) -> Drawn:
    d = draw(st.integers(1, most_units))
    p = draw(st.one_of(rates, arrays(np.float64, d, elements=rates)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if draw(st.booleans()):
        weights = draw(arrays(np.float64, d, elements=weight_values))
    else:
        # Arrays of hypothesis repeat their elements; here no two are alike.
        weights = rng.standard_normal(d) * 10.0 ** rng.uniform(*sorted((draw(st.floats(-3, 2.5)), 2.5)), d)
        weights = np.clip(weights, -1e3, 1e3)
    kind = draw(st.sampled_from(["normal", "binary", "counts", "scales"]))
    X = {
        "normal": lambda: rng.standard_normal((rows, d)),
        "binary": lambda: rng.integers(0, 2, (rows, d)).astype(np.float64),
        "counts": lambda: rng.poisson(0.7, (rows, d)).astype(np.float64),
        "scales": lambda: rng.standard_normal((rows, d)) * 10.0 ** rng.uniform(-3, 0, (rows, d)),
    }[kind]()
    # One row is hypothesis's own, so that it can be shrunk and can be as odd as floats get.
    X[0] = draw(arrays(np.float64, d, elements=st.floats(-3, 3)))
    intercept = draw(st.one_of(st.just(0.0), st.floats(-30, 30)))
    return Drawn(weights, X, p, intercept, rng.integers(0, 2, rows).astype(np.float64), draw(st.booleans()))
