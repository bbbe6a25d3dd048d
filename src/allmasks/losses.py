"""Losses of one score: values, derivatives, and which targets they take.

A new loss is one subclass and one entry of `LOSSES`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logsumexp, softmax

__all__ = [
    "LOSSES",
    "CallableScoreLoss",
    "ClassCrossEntropy",
    "Exponential",
    "Logistic",
    "Poisson",
    "ScoreLoss",
    "SquaredError",
    "score_loss",
]

Array = NDArray[np.float64]

EPS = float(np.finfo(np.float64).eps)


class ScoreLoss:
    """A loss L(S, y) of a score S; all arguments broadcast."""

    name: str
    sums_outputs = False
    """Whether several scores have a joint loss, the sum of their own."""

    joint = False
    """Whether it is of several scores at once, which are then stacked along the first axis."""

    def value(self, s: Array, y: Array) -> Array:
        """L(S, y)."""
        raise NotImplementedError

    def derivative(self, s: Array, y: Array, order: int = 1) -> Array:
        """The derivative of this order (1, 2 or 3) with respect to the score."""
        raise NotImplementedError

    def check(self, y: Array) -> None:
        """ValueError where a target is none of this loss."""

    def size(self, s: Array, y: Array) -> Array:
        """What the rounding of L(S, y) is a few units in the last place of: the size of its terms."""
        return np.abs(self.value(s, y))

    def change(self, s: Array, y: Array, off: Array) -> Array:
        """A bound on |L(t, y) − L(S, y)| for |t − S| ≤ off.

        The named losses are convex: |L'| is largest at one of the ends.
        """
        with np.errstate(over="ignore", under="ignore"):
            ends = (np.abs(self.derivative(s + sign * off, y)) for sign in (-1.0, 1.0))
            return off * np.maximum(*ends)

    def weighted(self, s: Array, y: Array, log_weight: Array, order: int = 0) -> Array:
        """e^log_weight times L(S, y), or its derivative of order 1, where that of L alone overflows."""
        return np.full(np.broadcast(s, y, log_weight).shape, np.inf)

    def weighted_change(self, s: Array, y: Array, log_weight: Array, off: Array) -> Array:
        """`change` times e^log_weight, and the rounding of `weighted`: of a power of e, that of its exponent."""
        with np.errstate(over="ignore", under="ignore"):
            exponent = off + 16 * EPS * (np.abs(s) + np.abs(log_weight))
            return np.abs(self.weighted(s, y, log_weight)) * np.expm1(exponent)


def power_less_line(log: Array, y: Array, s: Array) -> Array:
    """e^log − y s: `inf` or `−inf` where it is no double, and never NaN."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        power, line = np.exp(log), y * s
        value = power - line
        if np.isfinite(power).all() and np.isfinite(line).all():
            return np.asarray(value)
        # Both by 2^-1100, which makes every product of two doubles a double.
        scaled = np.exp(np.minimum(log, 3000.0) - 1100 * np.log(2.0)) - np.ldexp(y, -550) * np.ldexp(s, -550)
        return np.where(np.isfinite(power) & np.isfinite(line), value, np.ldexp(scaled, 1100))


def _first(y: Array, bad: NDArray[np.bool_]) -> str:
    position = tuple(int(i) for i in np.argwhere(bad)[0])
    return f"{y[position]} at row {position[0]}"


class SquaredError(ScoreLoss):
    """(S − y)²."""

    name = "squared_error"
    sums_outputs = True

    def value(self, s: Array, y: Array) -> Array:
        with np.errstate(over="ignore", under="ignore"):
            return (s - y) ** 2

    def weighted(self, s: Array, y: Array, log_weight: Array, order: int = 0) -> Array:
        root = np.exp(0.5 * log_weight)
        with np.errstate(over="ignore", under="ignore"):
            return 2.0 * root * (root * (s - y)) if order else (root * (s - y)) ** 2

    def weighted_change(self, s: Array, y: Array, log_weight: Array, off: Array) -> Array:
        with np.errstate(over="ignore", under="ignore"):
            root, apart = np.exp(0.5 * log_weight), np.abs(s - y)
            moved = off + 16 * EPS * np.abs(log_weight) * apart
            return root * moved * (root * (2 * apart + moved))

    def derivative(self, s: Array, y: Array, order: int = 1) -> Array:
        if order == 1:
            return 2.0 * (s - y)
        return np.full(np.broadcast(s, y).shape, 2.0 if order == 2 else 0.0)


class Logistic(ScoreLoss):
    """log(1 + e^S) − y S, for y = 0 or 1, or a probability in between."""

    name = "logistic"
    sums_outputs = True

    def value(self, s: Array, y: Array) -> Array:
        return np.logaddexp(0.0, s) - y * s

    def size(self, s: Array, y: Array) -> Array:
        return np.logaddexp(0.0, s) + np.abs(y * s)

    def derivative(self, s: Array, y: Array, order: int = 1) -> Array:
        sigma = expit(s)
        if order == 1:
            return sigma - y
        slope = sigma * expit(-s)
        if order == 2:
            return slope + 0.0 * y
        return slope * (1.0 - 2.0 * sigma) + 0.0 * y

    def check(self, y: Array) -> None:
        bad = ~((y >= 0) & (y <= 1))
        if bad.any():
            raise ValueError(
                f"logistic targets are 0 or 1 (or probabilities in between), got {_first(y, bad)}; relabel −1/+1 "
                "targets as (y + 1) / 2"
            )


class Poisson(ScoreLoss):
    """e^S − y S (log link, without the constant log y!), for y = 0, 1, 2, … or any y ≥ 0."""

    name = "poisson"

    def value(self, s: Array, y: Array) -> Array:
        return power_less_line(s, y, s)

    def size(self, s: Array, y: Array) -> Array:
        with np.errstate(over="ignore", under="ignore"):
            return np.exp(s) + np.abs(y * s)

    def derivative(self, s: Array, y: Array, order: int = 1) -> Array:
        with np.errstate(over="ignore", under="ignore"):
            return np.exp(s) - (y if order == 1 else 0.0 * y)

    def weighted(self, s: Array, y: Array, log_weight: Array, order: int = 0) -> Array:
        share = np.exp(log_weight)
        return power_less_line(s + log_weight, y * share, s if order == 0 else np.ones_like(s))

    def check(self, y: Array) -> None:
        bad = ~(y >= 0)
        if bad.any():
            raise ValueError(f"Poisson targets are counts, 0 or more, got {_first(y, bad)}")


class Exponential(ScoreLoss):
    """e^(−y S), for y = −1 or +1."""

    name = "exponential"

    def value(self, s: Array, y: Array) -> Array:
        with np.errstate(over="ignore", under="ignore"):
            return np.exp(-y * s)

    def derivative(self, s: Array, y: Array, order: int = 1) -> Array:
        return (-y) ** order * self.value(s, y)

    def weighted(self, s: Array, y: Array, log_weight: Array, order: int = 0) -> Array:
        with np.errstate(over="ignore", under="ignore"):
            return (-y) ** order * np.exp(log_weight - y * s)

    def check(self, y: Array) -> None:
        bad = np.abs(y) != 1
        if bad.any():
            raise ValueError(f"exponential-loss targets are −1 or +1, got {_first(y, bad)}; 0/1 targets are 2 * y - 1")


class ClassCrossEntropy(ScoreLoss):
    """Σ_k t_k (log Σ_l e^{S_l} − S_k) of all classes together: scores and shares t have a leading axis of classes."""

    name = "cross_entropy"
    joint = True

    def value(self, s: Array, y: Array) -> Array:
        return np.asarray((y * (logsumexp(s, axis=0) - s)).sum(axis=0))

    def derivative(self, s: Array, y: Array, order: int = 1) -> Array:
        if order != 1:
            raise NotImplementedError("of several classes there is a first derivative")
        return np.asarray(softmax(s, axis=0) * y.sum(axis=0) - y)


@dataclass(frozen=True)
class CallableScoreLoss(ScoreLoss):
    """A loss given as a function of the score, or of (score, y), that works on arrays."""

    function: Callable[..., Any]
    takes_target: bool

    @property
    def name(self) -> str:  # type: ignore[override]
        return getattr(self.function, "__name__", type(self.function).__name__)

    def value(self, s: Array, y: Array) -> Array:
        # What is not finite is refused by name; a warning without a name says nothing more.
        with np.errstate(all="ignore"):
            result = np.asarray(
                self.function(s, np.broadcast_to(y, s.shape)) if self.takes_target else self.function(s)
            )
        if result.shape != s.shape:
            raise ValueError(
                f"the loss {self.name} must return one value for each score: given shape {s.shape}, it returned "
                f"{result.shape}"
            )
        return result.astype(np.float64)

    def change(self, s: Array, y: Array, off: Array) -> Array:
        # No derivative: what the function itself changes by, to either end, doubled for a bend in between. Beyond the
        # end of where it is defined it says nothing.
        here = self.value(s, y)
        with np.errstate(all="ignore"):
            apart = (np.abs(self.value(s + sign * off, y) - here) for sign in (-1.0, 1.0))
            return 2.0 * np.fmax(np.fmax(*apart), 0.0)


LOSSES: dict[str, ScoreLoss] = {loss.name: loss for loss in (SquaredError(), Logistic(), Poisson(), Exponential())}
"""The named losses."""


def score_loss(loss: Any) -> ScoreLoss:
    """The loss meant by a name or a callable.

    >>> score_loss("logistic").value(np.array([0.0]), np.array([1.0])).round(4)
    array([0.6931])
    >>> score_loss("hinge")
    Traceback (most recent call last):
    ...
    ValueError: unknown loss 'hinge': use one of squared_error, logistic, poisson, exponential, or a smooth callable
    """
    if isinstance(loss, ScoreLoss):
        return loss
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise ValueError(f"unknown loss {loss!r}: use one of {', '.join(LOSSES)}, or a smooth callable")
        return LOSSES[loss]
    if callable(loss):
        return CallableScoreLoss(loss, _takes_two(loss))
    raise TypeError(f"loss must be a name or a callable of the score, got {loss!r}")


def _takes_two(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # NumPy's own functions have no signature; they take the score
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(q.kind in positional and q.default is q.empty for q in parameters) >= 2
