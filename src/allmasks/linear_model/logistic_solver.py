"""One binary logistic dropout problem, solved: the Gaussian stand-in first, then the exact objective."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from allmasks.linear_model.newton import Objective, minimize
from allmasks.linear_model.rows import Rows

__all__ = ["ExactObjective", "Solution", "Task", "one_sided_features", "solve", "warn_if_unfinished"]

Array = NDArray[np.float64]

_ROUGH = 1e-2
"""Relative gradient at which the stand-in has told what it can: its minimum is about so far from the exact one."""

_PATH = (10.0, 1.0)
"""The stand-in is minimized at ten times alpha first: from w = 0 at a small alpha Newton's steps are cut short."""

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

    def gaussian(self, stronger: float = 1.0) -> Objective: ...

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
            f"{stage} step {k}: objective {value:.10g}, relative gradient {norm / scale if scale else norm:.1e}"
        )

    if scale == 0.0 and start is None:
        final = task.exact(1e-12)
        value, _ = final.value_and_gradient(w)
        return Solution(w, value, final.error, 0.0, 0.0, 0, True)
    taken = 0
    for stronger in _PATH if start is None and max_iter > 0 else ():
        stage = minimize(task.gaussian(stronger), w, max(_ROUGH, tol) * scale, max_iter, report=teller("Gaussian"))
        w, taken = stage.w, taken + stage.n_iter
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


def one_sided_features(rows: Rows, codes: NDArray[Any], targets: Any, weight: Array) -> NDArray[np.bool_]:
    """Features that speak for one class only, in the labelled rows, which come first."""
    one_sided = np.zeros(rows.d, bool)
    used = np.concatenate([weight > 0, np.zeros(rows.n - len(weight), bool)])
    for k in targets:
        sign = np.zeros(len(used))
        sign[: len(codes)] = np.where(codes == k, 1.0, -1.0)
        one_sided |= rows.one_sided(sign, used)
    return one_sided


def warn_if_unfinished(
    estimator: Any, solutions: list[Solution], one_sided: NDArray[np.bool_] | None, *, stacklevel: int = 3
) -> None:
    """ConvergenceWarning for weights without a finite best value, and for a stop before `tol`.

    one_sided : features that speak for one class only, looked for where alpha = 0.
    """
    if one_sided is not None and one_sided.any():
        first = int(np.flatnonzero(one_sided)[0])
        warnings.warn(
            f"{int(one_sided.sum())} of {len(one_sided)} features (the first: {first}) speak "
            f"for one class only, so at alpha=0 no finite weight is best for them: the fit stopped where the "
            f"gradient was small or max_iter={estimator.max_iter} was reached. Set alpha > 0 for a definite answer",
            ConvergenceWarning,
            stacklevel=stacklevel,
        )
        return
    if not all(s.converged for s in solutions):
        worst = max(s.relative_gradient for s in solutions)
        warnings.warn(
            f"{type(estimator).__name__} stopped at a gradient of {worst:.1e} of its value at w = 0, above "
            f"tol={estimator.tol:g}, after {max(s.n_iter for s in solutions)} steps. Raise max_iter, tol or alpha, "
            "or scale the features",
            ConvergenceWarning,
            stacklevel=stacklevel,
        )
