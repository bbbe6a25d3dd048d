"""Newton's method by conjugate gradients, with another objective's curvature and the memory of its own steps.

An exact gradient over all masks costs many products with X, a product with the curvature of a good approximation a
few. So each step solves H d = −∇f by conjugate gradients with the approximation's H, and the pairs (step, change of
gradient) of the exact objective correct H⁻¹ as in L-BFGS (H⁻¹ in place of the usual multiple of the identity).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Curvature", "Minimum", "Objective", "minimize"]

Array = NDArray[np.float64]

_MEMORY = 8
_SUFFICIENT = 1e-4
_BACKTRACKS = 40
_CG_STEPS = 200


@dataclass(frozen=True)
class Curvature:
    """H as a product with a vector, and its diagonal (which preconditions).

    matrix : forms H itself, where that is possible.
    """

    product: Callable[[Array], Array]
    diagonal: Array
    matrix: Callable[[], Array] | None = None


class Objective(Protocol):
    """What is minimised: value and gradient at w, and a curvature there, exact or approximate."""

    def value_and_gradient(self, w: Array) -> tuple[float, Array]: ...

    def curvature(self, w: Array) -> Curvature: ...


@dataclass(frozen=True)
class Minimum:
    """Where a minimisation stopped."""

    w: Array
    value: float
    gradient: Array
    n_iter: int
    converged: bool


def minimize(
    objective: Objective,
    w: Array,
    target: float,
    max_iter: int,
    *,
    forcing: float = 0.1,
    keep_below: float = 0.0,
    report: Callable[[int, float, float], None] | None = None,
) -> Minimum:
    """Descend from w until ‖∇f‖₂ ≤ target.

    Parameters
    ----------
    target : norm of the gradient at which to stop.
    max_iter : steps at most.
    forcing : conjugate gradients stop at a residual of so much of the gradient, less as it shrinks.
    keep_below : after a step that left less than this share of the gradient, the curvature is kept for the next: it is
        good enough there, and the pairs correct it.
    report : called with (step, value, norm of the gradient).

    Not converged where max_iter is used up, or where no step lowers f any further (round-off).
    """
    value, gradient = objective.value_and_gradient(w)
    pairs: list[tuple[Array, Array]] = []
    first = float(np.linalg.norm(gradient))
    curvature, before = None, first
    for step_number in range(max_iter + 1):
        norm = float(np.linalg.norm(gradient))
        if report is not None:
            report(step_number, value, norm)
        if not np.isfinite(value) or norm <= target or step_number == max_iter:
            break
        relative = min(forcing, max(np.sqrt(norm / first) * forcing, 0.3 * target / norm))
        if curvature is None or norm > keep_below * before:
            curvature = objective.curvature(w)
        before = norm
        direction = _two_loop(gradient, pairs, curvature, relative)
        slope = float(gradient @ direction)
        if not slope < 0:
            pairs.clear()
            direction = -gradient / _positive(curvature.diagonal)
            slope = float(gradient @ direction)
        found = _line_search(objective, w, value, direction, slope)
        if found is None:
            if not pairs:
                break
            pairs.clear()
            continue
        new_w, new_value, new_gradient = found
        s, change = new_w - w, new_gradient - gradient
        if float(s @ change) > 1e-12 * float(np.linalg.norm(s) * np.linalg.norm(change)):
            pairs.append((s, change))
            del pairs[:-_MEMORY]
        w, value, gradient = new_w, new_value, new_gradient
    norm = float(np.linalg.norm(gradient))
    return Minimum(w, value, gradient, step_number, bool(norm <= target))


def _positive(diagonal: Array) -> Array:
    return np.where(diagonal > 0, diagonal, 1.0)


def _two_loop(gradient: Array, pairs: list[tuple[Array, Array]], curvature: Curvature, relative: float) -> Array:
    """−(corrected H⁻¹) ∇f: the two-loop recursion around one solve."""
    q = -gradient
    shares: list[float] = []
    for s, change in reversed(pairs):
        share = float(s @ q) / float(s @ change)
        shares.append(share)
        q = q - share * change
    r = _conjugate_gradients(curvature, q, relative)
    for (s, change), share in zip(pairs, reversed(shares), strict=True):
        r = r + (share - float(change @ r) / float(s @ change)) * s
    return r


def _conjugate_gradients(curvature: Curvature, target: Array, relative: float) -> Array:
    """Solve H x = target to a relative residual, or to the first direction of no curvature."""
    inverse = 1.0 / _positive(curvature.diagonal)
    x = np.zeros_like(target)
    residual = target.copy()
    z = inverse * residual
    direction = z
    rho = float(residual @ z)
    stop = relative * float(np.linalg.norm(target))
    for _ in range(_CG_STEPS):
        if float(np.linalg.norm(residual)) <= stop:
            break
        product = curvature.product(direction)
        bend = float(direction @ product)
        if bend <= 1e-14 * float(direction @ direction) * float(curvature.diagonal.max(initial=0.0)):
            return x if x.any() else direction
        alpha = rho / bend
        x += alpha * direction
        residual -= alpha * product
        z = inverse * residual
        rho, before = float(residual @ z), rho
        direction = z + (rho / before) * direction
    return x


def _line_search(
    objective: Objective, w: Array, value: float, direction: Array, slope: float
) -> tuple[Array, float, Array] | None:
    """The first of 1, ½, ¼ … that lowers f enough; near the minimum, where f is all round-off, flattens it enough."""
    size = 1.0
    noise = 1e-12 * abs(value)
    for _ in range(_BACKTRACKS):
        trial = w + size * direction
        new_value, new_gradient = objective.value_and_gradient(trial)
        if np.isfinite(new_value):
            if new_value <= value + _SUFFICIENT * size * slope:
                return trial, new_value, new_gradient
            new_slope = float(new_gradient @ direction)
            if new_value <= value + noise and abs(new_slope) <= 0.9 * abs(slope):
                return trial, new_value, new_gradient
        size *= 0.5
    return None
