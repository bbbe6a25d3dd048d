"""Moments over all masks of the losses with heavy tails, in closed form: e^S − yS and e^(−yS).

A sample cannot show the tail of e^S: what matters most may be masks that no one draws. But its moments are known, since
E e^{kS} T^j = E[e^{kS}] · E_k[T^j] for any T that is linear in the mask, where E_k is the mean under masks tilted to
q_k = q e^{ka} / (p + q e^{ka}), whose cumulants are sums over units.
"""

from __future__ import annotations

from math import comb

import numpy as np
from numpy.typing import NDArray

from allmasks.losses import Exponential, Poisson, ScoreLoss
from allmasks.reliability import Unseen

__all__ = ["tail_moments"]

Array = NDArray[np.float64]


def tail_moments(loss: ScoreLoss, a: Array, keep_prob: Array, b: float, y: Array, block: int) -> Unseen | None:
    """Central moments of each row's loss under one mask, (n,); None for losses without a heavy tail.

    Under stratified masks the effects of single units are taken off: blocks hardly differ in them, and the tail is that
    of what is left.

    Parameters
    ----------
    a : (n, d) contributions of kept units. y : (n,). block : masks in a block.
    """
    if isinstance(loss, Exponential):
        a, b_rows, linear = -y[:, None] * a, -y * b, np.zeros_like(y)
    elif isinstance(loss, Poisson):
        b_rows, linear = np.broadcast_to(b, y.shape), y
    else:
        return None
    with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):
        log_mean, chance = _tilts(a, keep_prob)
        # All in units of E e^S, in which a unit's own effect is Δ = (e^a − 1) / (p + q e^a).
        power = [np.exp(log_mean[k] - k * log_mean[1]) for k in range(5)]
        own = -(chance[1] - keep_prob) / np.where(keep_prob < 1.0, keep_prob * (1.0 - keep_prob), 1.0)
        slope = own if block > 1 else -(linear * np.exp(-log_mean[1] - b_rows))[:, None] * a
        sums = [_raw_moments(slope, keep_prob, own) for own in chance]
        second, third, fourth = (_central(order, power, sums) for order in (2, 3, 4))
        size = np.exp(log_mean[1] + b_rows)
        excess = fourth - 3.0 * second**2
    # What hardly varies is lost to round-off here, and has no tail.
    known = (second > 1e-4 * (1.0 + sums[0][2])) & np.isfinite(size)
    known |= ~np.isfinite(second)
    second, third, excess = (np.where(known, part, 0.0) for part in (second, third, excess))
    return Unseen(second, third, excess, np.where(known & np.isfinite(size), size, 1.0))


def _tilts(a: Array, q: Array) -> tuple[list[Array], list[Array]]:
    """For k = 0 … 4: log E e^{k(S − b)}, (n,), and the probabilities (n, d) with which units are kept when tilted."""
    logs, chances = [], []
    for k in range(5):
        top = np.maximum(k * a, 0.0)
        kept, dropped = q * np.exp(k * a - top), (1.0 - q) * np.exp(-top)
        logs.append((top + np.log(kept + dropped)).sum(axis=1))
        chances.append(kept / (kept + dropped))
    return logs, chances


def _raw_moments(c: Array, q: Array, own: Array) -> list[Array]:
    """E T^j, j = 0 … 4, of T = Σ c (m − q) where units are kept with probability `own`."""
    v = own * (1.0 - own)
    c1, c2 = (c * (own - q)).sum(axis=1), (c**2 * v).sum(axis=1)
    c3, c4 = (c**3 * v * (1.0 - 2.0 * own)).sum(axis=1), (c**4 * v * (1.0 - 6.0 * v)).sum(axis=1)
    fourth = c4 + 3.0 * c2**2 + 4.0 * c1 * c3 + 6.0 * c1**2 * c2 + c1**4
    return [np.ones_like(c1), c1, c2 + c1**2, c3 + 3.0 * c1 * c2 + c1**3, fourth]


def _central(order: int, power: list[Array], sums: list[list[Array]]) -> Array:
    """E (Z − 1 + T)^order, where Z = e^S / E e^S has E Z^i T^j = power[i] · sums[i][j]."""
    total = np.zeros_like(power[0])
    for j in range(order + 1):
        r = order - j
        inner = sum(comb(r, i) * (-1) ** (r - i) * power[i] * sums[i][j] for i in range(r + 1))
        total = total + comb(order, j) * inner
    return total
