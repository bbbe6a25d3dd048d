"""The likelihood of a regression's target with the masks before the last Linear integrated over, not sampled."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["log_gaussian_likelihood"]

_DIGITS = 37.0
"""-log of the relative size at which the integrand's tail and its periodic images are dropped: round-off."""


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
    error is the tilted density at y ± 2πk/h. θ = τ (y − c) with c about where S lies given y puts y in the middle of
    that density; so the answer keeps its digits however unlikely y is.

    Example
    -------
    >>> import torch
    >>> one = log_gaussian_likelihood(torch.tensor([[2.0]]).double(), 1.0, 0.5, torch.tensor([2.0]).double(), 1.0)
    >>> round(float(one), 6), round(-0.5 - 0.5 * math.log(2 * math.pi), 6)
    (-1.418939, -1.418939)
    """
    q = 1.0 - p
    low, high = bias + terms.clamp(max=0).sum(dim=1), bias + terms.clamp(min=0).sum(dim=1)
    mean, variance = bias + q * terms.sum(dim=1), p * q * (terms**2).sum(dim=1)
    share = variance / (variance + 1.0 / precision)
    theta = precision * (y - torch.minimum(torch.maximum(mean + share * (y - mean), low), high))
    # Of each factor p + q e^{a(θ + it)} the modulus at t = 0 goes into the exponent; what is left is at most 1.
    tilt = theta[:, None] * terms
    dropped, kept = torch.full_like(tilt, math.log(p)), math.log(q) + tilt
    total = torch.logaddexp(dropped, kept)
    dropped, kept = (dropped - total).exp(), (kept - total).exp()
    exponent = total.sum(dim=1) + theta * (bias - y) + theta**2 / (2 * precision)
    period = float((high - low).max()) + 2 * math.sqrt(2 * _DIGITS / precision)
    step = 2 * math.pi / period
    nodes = math.ceil(math.sqrt(2 * precision * _DIGITS) / step)
    turn = torch.polar(torch.ones_like(terms), terms * step)
    phase, integral = turn.clone(), torch.ones_like(mean)
    for node in range(1, nodes + 1):
        t = node * step
        product = torch.prod(dropped + kept * phase, dim=1)
        image = torch.polar(
            torch.full_like(mean, math.exp(-t * t / (2 * precision))), t * (bias - y + theta / precision)
        )
        integral = integral + 2 * (product * image).real
        phase = phase * turn
    # Positive but for round-off: it is a density's value times a positive number.
    return exponent + (integral.clamp(min=torch.finfo(integral.dtype).tiny) * step / (2 * math.pi)).log()
