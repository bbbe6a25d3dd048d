"""One binary logistic dropout problem, solved: the Gaussian stand-in first, then the exact objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from allmasks.linear_model.logistic_objective import ExactLogistic, GaussianLogistic, LogisticTask
from allmasks.linear_model.newton import minimize

__all__ = ["Solution", "solve"]

Array = NDArray[np.float64]

_ROUGH = 1e-2
"""Relative gradient at which the stand-in has told what it can: its minimum is about so far from the exact one."""


_KEEP = 0.2
"""A step that divides the gradient by five shows a curvature good enough for the next step too."""

_SHARP = 1e-8
"""A gradient from rows of this tolerance is off by a hundredth of it: it need not be computed again."""


@dataclass(frozen=True)
class Solution:
    """Weights and intercept, and the exact objective and gradient there (tolerance 1e-12 of each row)."""

    w: Array
    value: float
    error: float
    gradient_norm: float
    relative_gradient: float
    n_iter: int
    converged: bool


def solve(
    task: LogisticTask,
    start: Array | None,
    tol: float,
    max_iter: int,
    report: Callable[[str], None] | None = None,
) -> Solution:
    """Minimise until ‖∇f‖₂ ≤ tol ‖∇f(0)‖₂; `start` skips the Gaussian stage."""
    scale = float(np.linalg.norm(task.gradient_at_zero()))
    w = np.zeros(task.rows.d + task.fit_intercept) if start is None else start

    def teller(stage: str) -> Callable[[int, float, float], None] | None:
        if report is None:
            return None
        tell = report
        return lambda k, value, norm: tell(
            f"{stage} step {k}: objective {value:.10g}, relative gradient {norm / scale:.1e}"
        )

    if scale == 0.0 and start is None:
        final = ExactLogistic(task, 1e-12)
        value, _ = final.value_and_gradient(w)
        return Solution(w, value, final.error, 0.0, 0.0, 0, True)
    taken = 0
    if start is None and max_iter > 0:
        rough = minimize(GaussianLogistic(task), w, max(_ROUGH, tol) * scale, max_iter, report=teller("Gaussian"))
        w, taken = rough.w, rough.n_iter
    # Each row's loss is off by at most `accuracy` at the end, so neither the line search nor the gradient notices.
    accuracy = min(1e-8, max(1e-3 * tol, 1e-13))
    exact = ExactLogistic(task, accuracy, scale)
    best = minimize(exact, w, tol * scale, max_iter, keep_below=_KEEP, report=teller("exact"))
    final = ExactLogistic(task, 1e-12)
    gradient = best.gradient
    if best.converged and exact.used <= _SHARP:
        value = final.value(best.w)
    else:
        value, gradient = final.value_and_gradient(best.w)
    norm = float(np.linalg.norm(gradient))
    relative = norm / scale if scale > 0 else norm
    taken += best.n_iter
    return Solution(best.w, value, final.error, norm, relative, taken, best.converged)
