"""Probabilities of what was seen if nothing is wrong: tests whose level needs no normal numbers.

Two samples of one law are exchangeable, whatever the law: their difference is judged against all ways of dealing the
pooled
values out, by a saddlepoint that stays right at 1e-12. Bits are judged by exact binomial and hypergeometric tails.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

__all__ = ["agreement", "binomial", "both_zero", "larger_spread", "repeats", "serial", "two_means", "z_of"]


def z_of(p_value: float) -> float:
    """The normal deviate of a two-sided p-value."""
    return float(stats.norm.isf(min(max(p_value, 1e-300), 1.0) / 2))


def two_means(one: ArrayLike, other: ArrayLike, resolution: float = 0.0) -> float:
    """Two-sided p-value of the difference of two samples' means, under all ways of dealing the pooled values out.

    Parameters
    ----------
    resolution : a difference that round-off explains; it is taken off before.

    >>> two_means([0, 1, 0, 1], [0, 1, 1, 0])
    1.0
    >>> two_means(range(40), range(100, 140)) < 1e-20
    True
    """
    a, b = np.asarray(one, float), np.asarray(other, float)
    gap = a.mean() - b.mean()
    a = a - math.copysign(min(abs(gap), resolution), gap)
    gap = a.mean() - b.mean()
    pooled = np.concatenate((a, b))
    scale = float(pooled.std())
    if abs(gap) <= 1e-12 * (scale + float(np.abs(pooled).max()) * 1e-3) or scale == 0:
        return 1.0
    values = np.sign(gap) * (pooled - pooled.mean()) / scale
    deviate = abs(gap) / (scale * math.sqrt(1 / len(a) + 1 / len(b)))
    if deviate < 2.5:  # far from any level that is tested, where the normal law will do
        return float(2 * stats.norm.sf(deviate))
    return min(1.0, 2.0 * _tail(values, len(a), float(values[: len(a)].sum())))


def _tail(values: NDArray[np.float64], m: int, total: float) -> float:
    """P(sum of m of these values, drawn without replacement, >= total), for a total above its mean of 0.

    Skovgaard's conditional saddlepoint of independent indicators given their number (Robinson 1982 for the two-sample
    problem).
    """
    n = len(values)
    most = float(np.sort(values)[-m:].sum())
    certain = -float(special.gammaln(n + 1) - special.gammaln(m + 1) - special.gammaln(n - m + 1))
    ties = int((values == np.sort(values)[-m]).sum()), int((np.sort(values)[-m:] == np.sort(values)[-m]).sum())
    log_top = certain + float(
        special.gammaln(ties[0] + 1) - special.gammaln(ties[1] + 1) - special.gammaln(ties[0] - ties[1] + 1)
    )
    if total >= most - 1e-9 * (1 + abs(most)):
        return math.exp(max(log_top, -690.0))
    share = m / n
    low, high = 0.0, 1.0
    while high < 1e6 and _tilted(values, share, m, high).total < total:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if _tilted(values, share, m, middle).total < total:
            low = middle
        else:
            high = middle
        if high - low <= 1e-12 * high:
            break
    at = _tilted(values, share, m, high)
    exponent = max(2.0 * (at.tilt * m + high * total - at.cumulant), 0.0)
    w = math.sqrt(exponent)
    if w < 1e-4 or not at.determinant > 0:
        return 0.5
    u = high * math.sqrt(at.determinant / (n * share * (1 - share)))
    plain = float(stats.norm.sf(w))
    tail = plain + math.exp(-exponent / 2) / math.sqrt(2 * math.pi) * (1 / u - 1 / w)
    if len(np.unique(values)) < n // 4:  # few values: a lattice, on which the density is no density
        tail = max(tail, math.exp(-exponent / 2))
    return float(min(max(tail, math.exp(max(log_top, -690.0)), plain / 4), 1.0))


@dataclass(frozen=True)
class _Tilted:
    """Indicators with log odds logit(share) + tilt + t · value, `m` of them expected."""

    tilt: float
    total: float
    cumulant: float
    determinant: float


def _tilted(values: NDArray[np.float64], share: float, m: int, t: float) -> _Tilted:
    logit = math.log(share / (1 - share))
    low, high = -t * float(np.abs(values).max()) - 1.0, t * float(np.abs(values).max()) + 1.0
    for _ in range(100):
        middle = (low + high) / 2
        if special.expit(logit + middle + t * values).sum() < m:
            low = middle
        else:
            high = middle
        if high - low < 1e-13 * (1 + abs(high)):
            break
    tilt = (low + high) / 2
    chance = special.expit(logit + tilt + t * values)
    spread = chance * (1 - chance)
    cumulant = float(np.logaddexp(math.log1p(-share), math.log(share) + tilt + t * values).sum())
    ss, sx, xx = float(spread.sum()), float(spread @ values), float(spread @ values**2)
    return _Tilted(tilt, float(chance @ values), cumulant, ss * xx - sx * sx)


def larger_spread(one: ArrayLike, other: ArrayLike) -> float:
    """Two-sided p-value of a difference of spreads: of the squared deviations from the pooled mean.

    >>> rng = np.random.default_rng(0)
    >>> larger_spread(rng.normal(size=200), 3 * rng.normal(size=200)) < 1e-9
    True
    """
    a, b = np.asarray(one, float), np.asarray(other, float)
    middle = np.concatenate((a, b)).mean()
    return two_means((a - middle) ** 2, (b - middle) ** 2)


def serial(values: ArrayLike) -> tuple[float, float]:
    """(correlation of the ranks of neighbors in time, its two-sided p-value if the order means nothing)."""
    ranks = stats.rankdata(np.asarray(values, float))
    n = len(ranks)
    centered = ranks - ranks.mean()
    square = float((centered**2).sum())
    if n < 8 or square == 0:
        return 0.0, 1.0
    seen = float((centered[1:] * centered[:-1]).sum()) / square
    # Moments of the serial correlation over all orders (Wald and Wolfowitz 1943), of ranks without ties.
    spread = math.sqrt((n - 2) ** 2 / ((n - 1) * n**2) if n > 2 else 1.0)
    z = (seen + 1 / n) / spread
    return seen, float(2 * stats.norm.sf(abs(z)))


def repeats(one: ArrayLike, other: ArrayLike) -> tuple[int, float]:
    """(values of the first sample that come more than once, the probability that all repeats of both lie in the first).

    Exchangeable samples share their repeats out; where the second has none, those of the first are judged.
    """
    a, b = np.asarray(one, float), np.asarray(other, float)
    values, counts = np.unique(a, return_counts=True)
    again = int(counts[counts > 1].sum())
    if not again or len(np.unique(b)) < len(b) or np.isin(values, b).any():
        return again, 1.0
    n, m = len(a) + len(b), len(a)
    log = special.gammaln(m + 1) - special.gammaln(m - again + 1)
    log -= special.gammaln(n + 1) - special.gammaln(n - again + 1)
    return again, float(math.exp(max(log, -690.0)))


def binomial(hits: int, trials: int, chance: float) -> float:
    """Exact two-sided p-value of so many hits: twice the smaller tail.

    >>> binomial(500, 1000, 0.5), binomial(0, 100, 0.5) < 1e-29
    (1.0, True)
    """
    if not trials:
        return 1.0
    below, above = stats.binom.cdf(hits, trials, chance), stats.binom.sf(hits - 1, trials, chance)
    return float(min(1.0, 2.0 * min(below, above)))


def agreement(one: NDArray[np.int8], other: NDArray[np.int8]) -> tuple[float, float]:
    """(share of equal bits, Fisher's exact two-sided p-value that two rows of bits know nothing of each other).

    Bits are 0, 1, or negative where they are not known. Given how many zeros each row has, those in both are
    hypergeometric: the rates do not matter.

    >>> bits = np.tile(np.array([0, 1], np.int8), 50)
    >>> agreement(bits, bits)[1] < 1e-20, agreement(bits, 1 - bits)[0]
    (True, 0.0)
    """
    known = (one >= 0) & (other >= 0)
    a, b = one[known] == 0, other[known] == 0
    n = len(a)
    if n < 8:
        return math.nan, 1.0
    both, first, second = int((a & b).sum()), int(a.sum()), int(b.sum())
    return (n - first - second + 2 * both) / n, float(both_zero(n, first, second, both))


def both_zero(n: ArrayLike, first: ArrayLike, second: ArrayLike, both: ArrayLike) -> NDArray[np.float64]:
    """Fisher's exact two-sided p-values of so many zeros in both rows of n bits, given how many each row has.

    >>> both_zero([10, 10], 5, 5, [5, 3]).round(4).tolist()
    [0.0079, 1.0]
    """
    law = n, first, second
    lower, upper = stats.hypergeom.cdf(both, *law), stats.hypergeom.sf(np.asarray(both) - 1, *law)
    return np.minimum(1.0, 2.0 * np.minimum(lower, upper))
