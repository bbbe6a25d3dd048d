"""The trigonometric series of a function, and how well it is that function where it was not sampled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Series", "continued"]

Array = NDArray[np.float64]

_FINER = 4
"""Points of the second grid for each of the first."""

_GOLDEN = 0.6180339887498949
"""Where the second grid begins, in its own steps: it never meets the first, nor any grid of 2^k times as many."""

_STRIDE = 64


def continued(g: Callable[[Array], Array], s: Array, lo: float, hi: float, margin: float) -> Array:
    """g times a smooth window that is 1 on [lo, hi] and 0 from `margin` beyond."""
    outside = np.maximum(np.maximum(lo - s, s - hi), 0.0) / margin
    with np.errstate(all="ignore"):
        # The infinitely smooth step e^{-1/u} / (e^{-1/u} + e^{-1/(1-u)})
        u = np.clip(1.0 - outside, 1e-300, 1.0)
        v = np.clip(outside, 1e-300, 1.0)
        window = np.where(outside <= 0, 1.0, np.where(outside >= 1, 0.0, 1.0 / (1.0 + np.exp(1.0 / u - 1.0 / v))))
        values = g(s)
    return np.where(window > 0, values * window, 0.0)


@dataclass(frozen=True)
class Series:
    """Σ_n Re(cₙ e^{iωₙ (s − start)}), ωₙ = 2πn / period, n = 0 … terms / 2."""

    coefficients: NDArray[np.complex128]
    omega: Array
    start: float
    period: float

    @classmethod
    def of(cls, values: Array, start: float, period: float) -> Series:
        """The series through values at as many equal steps of one period, an even number of them."""
        terms = len(values)
        numbers = np.arange(terms // 2 + 1, dtype=np.float64)
        weight = np.where((numbers == 0) | (numbers == terms // 2), 1.0, 2.0)
        omega = np.asarray(2 * np.pi * numbers / period, np.float64)
        return cls(weight * np.fft.rfft(values) / terms, omega, start, period)

    def at(self, s: Array) -> Array:
        """The series at any points: with n = 64 q + r few powers of e are taken, and the rest is a product."""
        n_blocks = -(-len(self.coefficients) // _STRIDE)
        padded = np.zeros(n_blocks * _STRIDE, np.complex128)
        padded[: len(self.coefficients)] = self.coefficients
        turns = 2j * np.pi * (s - self.start) / self.period
        inner = np.exp(np.outer(turns, np.arange(_STRIDE))) @ padded.reshape(n_blocks, _STRIDE).T
        return np.asarray((np.exp(np.outer(turns, _STRIDE * np.arange(n_blocks))) * inner).real.sum(axis=1))

    def on_second_grid(self) -> tuple[Array, Array]:
        """Points of a finer grid over the period, shifted against the first, and the series there."""
        points = _FINER * 2 * (len(self.coefficients) - 1)
        step = self.period / points
        shifted = self.coefficients * np.exp(1j * self.omega * _GOLDEN * step)
        shifted[1:] /= 2
        grid = self.start + step * (np.arange(points, dtype=np.float64) + _GOLDEN)
        return grid, np.asarray(np.fft.irfft(shifted, points) * points, np.float64)

    def misfit(self, g: Callable[[Array], Array], spots: Array, lo: float, hi: float) -> tuple[Array, float, float]:
        """series − g at `spots`; the largest of |series − g| there and on the second grid in [lo, hi]; that of |g|."""
        s, series = self.on_second_grid()
        inside = (s >= lo) & (s <= hi)
        with np.errstate(all="ignore"):
            here, there = g(spots), g(s[inside])
        off = self.at(spots) - here
        # Where g is not a number, at the very end of where it is defined, it is no measure of the series.
        apart = np.nan_to_num(np.abs(np.concatenate([off, series[inside] - there])), nan=0.0)
        size = np.nan_to_num(np.abs(np.concatenate([here, there])), nan=0.0)
        return np.nan_to_num(off, nan=0.0), float(apart.max()), float(size.max())
