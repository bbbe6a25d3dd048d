"""The likelihood of a regression's target with the masks before the last Linear integrated over, not sampled."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from allmasks.prediction.round_off import Fit

_TRUSTED = 1e-3
"""Of its largest possible value, an integral below which round-off would show: its largest unit is then split off."""

_SPLITS = 12

_ROWS = 2048
"""Rows whose densities are integrated at once: their complex factors stay in the cache."""

_STEP = 2.0**-10
"""Relative step in τ by which the mean squared distance is taken."""

_QUADRATURE = 1e-11
"""Allowance for the integral: tails and images beyond `_DIGITS`, and round-off where `_TRUSTED` of it is left."""

__all__ = ["gaussian_fit", "log_gaussian_likelihood"]

_DIGITS = 37.0
"""-log of the relative size at which the integrand's tail and its periodic images are dropped: round-off."""


def gaussian_fit(terms: Tensor, bias: float, p: float, y: Tensor, precision: float, off: Tensor) -> Fit:
    """`log_gaussian_likelihood` and its bounds where each score may be off by `off`.

    A score off by e moves the log-likelihood by τ |S − y| e + τ e²/2 under each mask, so by the mean of that over the
    masks given y; and E[(S − y)² | y] = 1/τ − 2 d/dτ log E N(y; S, 1/τ).

    Parameters
    ----------
    terms : (k, n, d). y : (n,). off : (k, n).
    """
    k, n, d = terms.shape
    rows, targets = terms.reshape(k * n, d).split(_ROWS), y.repeat(k).split(_ROWS)

    def logs(tau: float) -> Tensor:
        return torch.cat(
            [log_gaussian_likelihood(a, bias, p, b, tau) for a, b in zip(rows, targets, strict=True)]
        ).reshape(k, n)

    log = logs(precision)
    slope = (logs(precision * (1 + _STEP)) - log) / (precision * _STEP)
    # τ (S − y)² is convex in what else varies: the step's own curvature, of its relative size, is allowed for.
    distance = (1.0 / precision - 2 * slope).clamp(min=0.0).sqrt() * (1 + 16 * _STEP)
    moved = precision * off * (distance + off) + _QUADRATURE + 64 * 2.0**-52 * log.abs()
    return Fit(log, log - moved, log + moved)


def log_gaussian_likelihood(terms: Tensor, bias: float, p: float, y: Tensor, precision: float) -> Tensor:
    r"""log E N(y; S, 1/τ) of S = b + Σⱼ aⱼ Bⱼ, Bⱼ ~ Bernoulli(1 − p), over all masks.

    Parameters
    ----------
    terms : (rows, d) float64, a.
    bias, p, precision : b, p, τ.
    y : (rows,).

    With M the moment generating function of S and any real θ,

        E N(y; S, 1/τ) = 1/2π ∫ M(θ + it) exp(−(θ + it) y + (θ + it)² / 2τ) dt,

    an entire integrand that dies like exp(−t²/2τ), so the trapezoid rule converges faster than exponentially: its only
    error is the tilted density at y ± 2πk/h. θ is the saddle point, K′(θ) + θ/τ = y with K = log M, which makes y the
    mean of that density, so the answer keeps its digits however unlikely y is. Where y still lies in a gap (a single
    large term), the sum over that term is written out.

    Example
    -------
    >>> import torch
    >>> one = log_gaussian_likelihood(torch.tensor([[2.0]]).double(), 1.0, 0.5, torch.tensor([2.0]).double(), 1.0)
    >>> round(float(one), 6), round(-0.5 - 0.5 * math.log(2 * math.pi), 6)
    (-1.418939, -1.418939)
    """
    return _log_density(terms, torch.full_like(y, bias), p, y, precision, _SPLITS)


def _log_density(terms: Tensor, bias: Tensor, p: float, y: Tensor, precision: float, splits: int) -> Tensor:
    low, high = bias + terms.clamp(max=0).sum(dim=1), bias + terms.clamp(min=0).sum(dim=1)
    theta = _saddle(terms, bias, p, y, precision, low, high)
    # Of each factor p + q e^{a(θ + it)} the modulus at t = 0 goes into the exponent; what is left is at most 1.
    total, kept = _tilted(terms, p, theta)
    dropped = 1.0 - kept
    exponent = total.sum(dim=1) + theta * (bias - y) + theta**2 / (2 * precision)
    period = float((high - low).max()) + 2 * math.sqrt(2 * _DIGITS / precision)
    step = 2 * math.pi / period
    nodes = math.ceil(math.sqrt(2 * precision * _DIGITS) / step)
    turn = torch.polar(torch.ones_like(terms), terms * step)
    phase, integral, most = turn.clone(), torch.ones_like(y), 1.0
    for node in range(1, nodes + 1):
        t = node * step
        product, damp = torch.prod(dropped + kept * phase, dim=1), math.exp(-t * t / (2 * precision))
        image = torch.polar(torch.full_like(y, damp), t * (bias - y + theta / precision))
        integral, most = integral + 2 * (product * image).real, most + 2 * damp
        phase = phase * turn
    result = exponent + (integral.clamp(min=1e-16 * most) * step / (2 * math.pi)).log()
    vague = (integral < _TRUSTED * most).nonzero()[:, 0]
    if len(vague) and splits:
        result[vague] = _split(terms[vague], bias[vague], p, y[vague], precision, splits)
    return result


def _split(terms: Tensor, bias: Tensor, p: float, y: Tensor, precision: float, splits: int) -> Tensor:
    """The largest term of each row kept or dropped for certain, and the rest as before."""
    rows, largest = torch.arange(len(y), device=y.device), terms.abs().argmax(dim=1)
    value, rest = terms[rows, largest], terms.clone()
    rest[rows, largest] = 0.0
    kept = _log_density(rest, bias + value, p, y, precision, splits - 1)
    dropped = _log_density(rest, bias, p, y, precision, splits - 1)
    return torch.logaddexp(math.log1p(-p) + kept, math.log(p) + dropped)


def _tilted(terms: Tensor, p: float, theta: Tensor) -> tuple[Tensor, Tensor]:
    """log(p + q e^{aθ}) and the tilted chance of being kept."""
    kept = math.log1p(-p) + theta[:, None] * terms
    total = torch.logaddexp(torch.full_like(kept, math.log(p)), kept)
    return total, (kept - total).exp()


def _saddle(terms: Tensor, bias: Tensor, p: float, y: Tensor, precision: float, low: Tensor, high: Tensor) -> Tensor:
    """The root of K′(θ) + θ/τ = y, increasing in θ: Newton's steps within a bracket that halves where they leave it."""
    left, right = precision * (y - high), precision * (y - low)
    theta = (left + right) / 2
    for _ in range(60):
        _, kept = _tilted(terms, p, theta)
        excess = bias + (kept * terms).sum(dim=1) + theta / precision - y
        left, right = torch.where(excess < 0, theta, left), torch.where(excess > 0, theta, right)
        slope = (kept * (1 - kept) * terms**2).sum(dim=1) + 1.0 / precision
        step = theta - excess / slope
        inside = (step >= left) & (step <= right)
        theta = torch.where(inside, step, (left + right) / 2)
        # Any θ is right; near the saddle is enough.
        if bool((excess**2 <= 1e-2 * slope).all()):
            break
    return theta
