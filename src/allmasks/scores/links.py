"""Links' inverses of the score, and their mean and variance over masks by listing every mask, with both errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from allmasks.scores.every_mask import Masks, blocks_of_rows, masks_of
from allmasks.scores.exponentials import exp
from allmasks.scores.score import EPS, LEAST, Moments, ScoreProblem

__all__ = ["INVERSE", "Link", "enumerated_moments"]

Array = NDArray[np.float64]
Link = Literal["logistic", "identity", "log"]

INVERSE: dict[Link, Callable[[Any], Any]] = {"logistic": expit, "identity": np.positive, "log": exp}
"""σ(S), S, e^S."""


def enumerated_moments(problem: ScoreProblem, link: Link, max_masks: int) -> Moments:
    """Of σ(S), S or e^S."""
    out = np.empty((4, problem.n))
    for rows, units in blocks_of_rows(problem, max_masks):
        masks = masks_of(problem, rows, units)
        if link == "log":
            out[:, rows] = _of_powers(problem, masks)
        elif link == "identity":
            out[:, rows] = _of_values(problem, masks, masks.scores, masks.off)
        else:
            values = expit(masks.scores)
            # No slope exceeds ¼; and relative to its own size σ moves no faster than the score.
            off = np.minimum(0.25 * masks.off, values * np.expm1(np.minimum(masks.off, 1.0)))
            out[:, rows] = _of_values(problem, masks, values, off + 4 * EPS * values)
    return Moments(*out)


def _of_values(problem: ScoreProblem, masks: Masks, values: Array, off: Array) -> tuple[Array, Array, Array, Array]:
    """Of values (rows, masks) that may be off by `off`."""
    adding, weight = (problem.d + 24) * EPS, masks.weight
    with np.errstate(over="ignore", under="ignore"):
        mean = (weight * values).sum(axis=1)
        own = weight * (off + adding * np.abs(values)) + masks.lost() * np.abs(values)
        mean_error = own.sum(axis=1) + 4 * LEAST * len(weight)
        apart, moved = values - mean[:, None], off + mean_error[:, None]
        # Squared before they are weighted, and weighted by roots: no square overflows that does not matter.
        root = np.exp(0.5 * masks.log_weight())
        variance = ((root * apart) ** 2).sum(axis=1)
        change = (root * moved * (root * (2 * np.abs(apart) + moved))).sum(axis=1)
    return mean, mean_error, variance, change + adding * variance + 4 * LEAST * len(weight)


def _of_powers(problem: ScoreProblem, masks: Masks) -> tuple[Array, Array, Array, Array]:
    """Of e^S: weights in logs, and each row in units of a power of e, so that only the answer may overflow."""
    log_weight, adding = masks.log_weight(), (problem.d + 24) * EPS
    logs = masks.scores + log_weight
    top = logs.max(axis=1)
    rounding = 8 * EPS * (1.0 + np.abs(masks.scores) + np.abs(log_weight))
    exponent = np.minimum(masks.off + rounding, 1e300)
    # Where a score is not known to within 1, all that is known of its power is an upper end.
    rough, farthest = exponent.max(axis=1) > 1.0, (masks.scores + exponent).max(axis=1)
    off = np.expm1(np.minimum(exponent, 1.0))
    with np.errstate(over="ignore", under="ignore"):
        powers = np.exp(logs - top[:, None])
        total = powers.sum(axis=1)
        mean_error = (powers * off).sum(axis=1) / total + adding + 8 * EPS * np.abs(top)
        log_mean = top + np.log(total)
        # √P e^S and √P E e^S in units of the largest of the former.
        halves = masks.scores + 0.5 * log_weight
        unit = np.maximum(halves.max(axis=1), log_mean - 600.0)
        parts = np.exp(halves - unit[:, None])
        means = np.exp(0.5 * log_weight + (log_mean - unit)[:, None])
        apart = parts - means
        moved = parts * off + means * (mean_error[:, None] + rounding)
        variance = (apart**2).sum(axis=1)
        variance_error = (moved * (2 * np.abs(apart) + moved)).sum(axis=1) + (
            adding + 8 * EPS * np.abs(unit)
        ) * variance
        return (
            exp(log_mean),
            np.where(rough, exp(farthest), _times(mean_error, log_mean)) + 4 * LEAST,
            _times(variance, 2 * unit),
            np.where(rough, exp(2 * farthest), _times(variance_error, 2 * unit)) + 4 * LEAST,
        )


def _times(values: Array, exponent: Array) -> Array:
    """values · e^exponent, where only the product may overflow."""
    with np.errstate(divide="ignore"):
        return exp(np.log(values) + exponent)
