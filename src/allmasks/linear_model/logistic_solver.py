"""One binary logistic dropout problem, solved: the Gaussian stand-in first, then the exact objective."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from allmasks.linear_model.newton import Minimum, Objective, finite_start, minimize
from allmasks.linear_model.stopping import AtRest, Yardstick, norm

__all__ = ["Binary", "ExactObjective", "LogisticFit", "solve", "warn_if_unfinished"]

Array = NDArray[np.float64]

_ROUGH = 1e-2
"""Relative gradient at which the stand-in has told what it can: its minimum is about so far from the exact one."""

_PATH = (10.0, 1.0)
"""The stand-in is minimized at ten times alpha first: from w = 0 at a small alpha Newton's steps are cut short."""

_KEEP = 0.2
"""A step that divides the gradient by five shows a curvature good enough for the next step too."""

_SPARED = 1e-4
"""Tolerance of each row where the weights are only scored: what is cut off is a hundredth of it."""

_SHARP = 1e-8
"""A gradient from rows of this tolerance is off by a hundredth of it: it need not be computed again."""


class ExactObjective(Objective, Protocol):
    """An objective that bounds the error of its last value, and says to what tolerance it took each row."""

    error: float
    used: float

    def value(self, w: Array) -> float: ...


class Binary(Protocol):
    """One binary problem, wherever its rows are."""

    @property
    def size(self) -> int: ...

    @property
    def dropped(self) -> bool: ...

    @property
    def rest(self) -> float: ...

    def at_rest(self) -> AtRest: ...

    def gaussian(self, stronger: float = 1.0) -> Objective: ...

    def exact(self, tol: float, scale: float = 0.0, coarse: float = ...) -> ExactObjective: ...

    def split(self, w: Array) -> tuple[Array, float]: ...

    def join(self, of_weights: Array, of_intercept: float) -> Array: ...

    def equivalent_penalty(self, w: Array) -> Array: ...


@dataclass(frozen=True)
class LogisticFit:
    """Weights and intercept, and the exact objective and gradient there (tolerance 1e-12 of each row)."""

    w: Array
    value: float
    error: float
    gradient_norm: float
    relative_gradient: float
    n_iter: int
    converged: bool
    refused: bool = False
    """Whether a step was refused because the objective is not finite there."""


def solve(
    binary: Binary,
    start: Array | None,
    tol: float,
    max_iter: int,
    report: Callable[[str], None] | None = None,
    *,
    endless: bool = False,
    rough: bool = False,
) -> LogisticFit:
    """Minimise until ‖∇f‖₂ ≤ tol times its value at rest (weights 0, the best intercept).

    start : skips the Gaussian stage. endless : no finite weights are best, as is known: stop where the objective no
    longer falls to speak of. rough : the weights are all that is wanted, the value and gradient there only as the last
    step had them.
    """
    yard = Yardstick.of(binary.at_rest())
    rest = binary.join(binary.split(np.zeros(binary.size))[0], binary.rest)
    target = yard.target(tol)
    futile = np.cbrt(tol) if endless else 0.0

    def teller(stage: str) -> Callable[[int, float, float], None]:
        tell = report or (lambda line: None)
        return lambda k, value, size: tell(
            f"{stage} step {k}: objective {value:.10g}, relative gradient {yard.relative(size):.1e}"
        )

    w, taken = rest if start is None else start, 0
    near = rough and start is not None
    path = _PATH if start is None and max_iter > 0 and binary.dropped and yard.scale > yard.floor else ()
    for stronger in path:
        stop = max(_ROUGH * yard.scale, target)
        stage = minimize(binary.gaussian(stronger), w, stop, max_iter, futile=futile, report=teller("Gaussian"))
        w, taken = stage.w, taken + stage.n_iter
    # Each row's loss is off by at most `accuracy` at the end, so neither the line search nor the gradient notices.
    # For weights that are only scored the proof may come out even: the error itself is far smaller than its bound.
    accuracy = max(min(_SPARED, yard.sharp(tol)) if rough else min(1e-8, 1e-3 * tol, 1e-2 * yard.sharp(tol)), 1e-13)
    coarse = 1e-5 * min(1.0, 10.0 * yard.sharp(1.0)) * (_SPARED / 1e-6 if rough else 1.0)
    exact = binary.exact(accuracy, yard.scale, coarse)

    def descend(w: Array) -> Minimum:
        return minimize(
            exact, w, target, max_iter, keep_below=_KEEP, futile=futile, noise=yard.noise, report=teller("exact")
        )

    best = descend(w if near else finite_start(exact, w, rest))
    if near and not np.isfinite(best.value):
        best = descend(finite_start(exact, w, rest))
    value, error, gradient = (best.value, exact.error, best.gradient) if rough else _final(binary, exact, best)
    size, n_iter = norm(gradient), taken + best.n_iter
    return LogisticFit(best.w, value, error, size, yard.relative(size), n_iter, best.converged, best.refused)


def _final(binary: Binary, exact: ExactObjective, best: Minimum) -> tuple[float, float, Array]:
    """Value, its error and gradient with every row to 1e-12; as the last step had them where that is out of reach."""
    final = binary.exact(1e-12)
    if best.converged and exact.used <= _SHARP:
        value, gradient = final.value(best.w), best.gradient
    else:
        value, gradient = final.value_and_gradient(best.w)
    if np.isfinite(value):
        return value, final.error, gradient
    value, gradient = exact.value_and_gradient(best.w)
    return value, exact.error, gradient


def warn_if_unfinished(
    estimator: Any,
    solutions: list[LogisticFit],
    one_sided: NDArray[np.bool_] | None,
    *,
    separated: bool = False,
) -> None:
    """ConvergenceWarning for weights without a finite best value, and for a stop before `tol`.

    one_sided : features that speak for one class only, looked for where alpha = 0. separated : whether features that
        are never dropped separate the classes, looked for there too.
    """
    refused = ""
    if any(s.refused for s in solutions):
        refused = (
            ". Steps to weights at which the objective is not finite, or scores spread too far for its integral over "
            "masks, were cut short: it is finite at the weights returned"
        )
    if one_sided is not None and one_sided.any():
        first = int(np.flatnonzero(one_sided)[0])
        text = (
            f"{int(one_sided.sum())} of {len(one_sided)} features (the first: {first}) speak "
            f"for one class only, so at alpha=0 no finite weight is best for them: the fit stopped where the gradient "
            f"was small, where five steps lowered the objective by less than a share of cbrt(tol), or where "
            f"max_iter={estimator.max_iter} was reached. Set alpha > 0 for a definite answer"
        )
    elif separated:
        text = (
            "a combination of the features that are never dropped separates the classes, so at alpha=0 no finite "
            "weights are best: the fit stopped where the gradient was small or "
            f"max_iter={estimator.max_iter} was reached. Set alpha > 0 for a definite answer"
        )
    elif not all(s.converged for s in solutions):
        worst, steps = max(s.relative_gradient for s in solutions), max(s.n_iter for s in solutions)
        text = Yardstick.unfinished(estimator, worst, steps)
    else:
        return
    warnings.warn(text + refused, ConvergenceWarning, stacklevel=3)
