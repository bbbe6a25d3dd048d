"""One binary logistic dropout problem, solved: the Gaussian stand-in first, then the exact objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from allmasks.linear_model.newton import Objective, minimize

__all__ = ["ExactObjective", "Solution", "Task", "solve"]

Array = NDArray[np.float64]

_ROUGH = 1e-2
"""Relative gradient at which the stand-in has told what it can: its minimum is about so far from the exact one."""


_KEEP = 0.2
"""A step that divides the gradient by five shows a curvature good enough for the next step too."""

_SHARP = 1e-8
"""A gradient from rows of this tolerance is off by a hundredth of it: it need not be computed again."""


class ExactObjective(Objective, Protocol):
    """An objective that bounds the error of its last value, and says to what tolerance it took each row."""

    error: float
    used: float

    def value(self, w: Array) -> float: ...


class Task(Protocol):
    """One binary problem, wherever its rows are."""

    @property
    def size(self) -> int: ...

    def gradient_at_zero(self) -> Array: ...

    def gaussian(self) -> Objective: ...

    def exact(self, tol: float, scale: float = 0.0) -> ExactObjective: ...

    def split(self, w: Array) -> tuple[Array, float]: ...

    def equivalent_penalty(self, w: Array) -> Array: ...


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
    task: Task,
    start: Array | None,
    tol: float,
    max_iter: int,
    report: Callable[[str], None] | None = None,
) -> Solution:
    """Minimise until ‖∇f‖₂ ≤ tol ‖∇f(0)‖₂; `start` skips the Gaussian stage."""
    scale = float(np.linalg.norm(task.gradient_at_zero()))
    w = np.zeros(task.size) if start is None else start

    def teller(stage: str) -> Callable[[int, float, float], None] | None:
        if report is None:
            return None
        tell = report
        return lambda k, value, norm: tell(
            f"{stage} step {k}: objective {value:.10g}, relative gradient {norm / scale:.1e}"
        )

    if scale == 0.0 and start is None:
        final = task.exact(1e-12)
        value, _ = final.value_and_gradient(w)
        return Solution(w, value, final.error, 0.0, 0.0, 0, True)
    taken = 0
    if start is None and max_iter > 0:
        rough = minimize(task.gaussian(), w, max(_ROUGH, tol) * scale, max_iter, report=teller("Gaussian"))
        w, taken = rough.w, rough.n_iter
    # Each row's loss is off by at most `accuracy` at the end, so neither the line search nor the gradient notices.
    accuracy = min(1e-8, max(1e-3 * tol, 1e-13))
    exact = task.exact(accuracy, scale)
    best = minimize(exact, w, tol * scale, max_iter, keep_below=_KEEP, report=teller("exact"))
    final = task.exact(1e-12)
    gradient = best.gradient
    if best.converged and exact.used <= _SHARP:
        value = final.value(best.w)
    else:
        value, gradient = final.value_and_gradient(best.w)
    norm = float(np.linalg.norm(gradient))
    relative = norm / scale if scale > 0 else norm
    taken += best.n_iter
    return Solution(best.w, value, final.error, norm, relative, taken, best.converged)
