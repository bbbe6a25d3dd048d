"""Moments over all masks of the losses with heavy tails, in closed form: e^S − yS and e^(−yS).

A sample cannot show the tail of e^S: what matters most may be masks that no one draws. But its moments are known, since
E e^{kS} D^j = E[e^{kS}] · E_k[D^j], where D = S − E S and E_k is the mean under masks tilted to
q_k = q e^{ka} / (p + q e^{ka}), whose cumulants are sums over units.
"""

from __future__ import annotations

from math import comb

import numpy as np
from numpy.typing import NDArray

from allmasks.losses import ScoreLoss
from allmasks.reliability import Unseen

__all__ = ["tail_moments"]

Array = NDArray[np.float64]


def tail_moments(loss: ScoreLoss, a: Array, keep_prob: Array, b: float, y: Array) -> Unseen | None:
    """Central moments of each row's loss under one mask, (n,); None for losses without a heavy tail.

    Parameters
    ----------
    a : (n, d) contributions of kept units. y : (n,).
    """
    if loss.name == "exponential":
        a, b_rows, linear = -y[:, None] * a, -y * b, np.zeros_like(y)
    elif loss.name == "poisson":
        b_rows, linear = np.broadcast_to(b, y.shape), y
    else:
        return None
    with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):
        log_mean, tilted = _tilts(a, keep_prob)
        # All in units of E e^S.
        power = [np.exp(log_mean[k] - k * log_mean[1]) for k in range(5)]
        slope = -linear * np.exp(-log_mean[1] - b_rows)
        second, third, fourth = (_central(order, power, tilted, slope) for order in (2, 3, 4))
        # The spread of a loss that hardly varies is lost to round-off here; it has no tail then.
        steady = ~(second > 1e-4 * (1.0 + slope**2 * tilted[0][2]))
        size = np.exp(log_mean[1] + b_rows)
        excess = fourth - 3.0 * second**2
    known = ~steady & np.isfinite(size)
    second, third, excess = (np.where(known, part, 0.0) for part in (second, third, excess))
    return Unseen(second, third, excess, np.where(known, size, 1.0))


def _tilts(a: Array, q: Array) -> tuple[list[Array], list[list[Array]]]:
    """log E e^{k(S − b)} for k = 0 … 4, and the first four raw moments of D under each tilt, (n,)."""
    logs, moments = [], []
    for k in range(5):
        top = np.maximum(k * a, 0.0)
        kept, dropped = q * np.exp(k * a - top), (1.0 - q) * np.exp(-top)
        logs.append((top + np.log(kept + dropped)).sum(axis=1))
        own = kept / (kept + dropped)
        v = own * (1.0 - own)
        c1, c2 = (a * (own - q)).sum(axis=1), (a**2 * v).sum(axis=1)
        c3, c4 = (a**3 * v * (1.0 - 2.0 * own)).sum(axis=1), (a**4 * v * (1.0 - 6.0 * v)).sum(axis=1)
        fourth = c4 + 3.0 * c2**2 + 4.0 * c1 * c3 + 6.0 * c1**2 * c2 + c1**4
        moments.append([np.ones_like(c1), c1, c2 + c1**2, c3 + 3.0 * c1 * c2 + c1**3, fourth])
    return logs, moments


def _central(order: int, power: list[Array], tilted: list[list[Array]], slope: Array) -> Array:
    """E (Z − 1 + slope D)^order, where Z = e^S / E e^S has E Z^i D^j = power[i] · tilted[i][j]."""
    total = np.zeros_like(slope)
    for j in range(order + 1):
        r = order - j
        inner = sum(comb(r, i) * (-1) ** (r - i) * power[i] * tilted[i][j] for i in range(r + 1))
        total = total + comb(order, j) * slope**j * inner
    return total
