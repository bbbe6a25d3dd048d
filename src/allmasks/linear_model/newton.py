"""Newton's method by conjugate gradients, with another objective's curvature and the memory of its own steps.

An exact gradient over all masks costs many products with X, a product with the curvature of a good approximation a
few. So each step solves H d = −∇f by conjugate gradients with the approximation's H, and the pairs (step, change of
gradient) of the exact objective correct H⁻¹ as in L-BFGS (H⁻¹ in place of the usual multiple of the identity).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from allmasks.linear_model.stopping import norm

__all__ = ["Curvature", "Minimum", "Objective", "finite_start", "minimize", "solver_of"]

Array = NDArray[np.float64]

_MEMORY = 8
_SUFFICIENT = 1e-4
_BACKTRACKS = 40
_CG_STEPS = 200

_WINDOW = 5
"""Steps over which a fall that leads nowhere is judged."""

_FEW = 256
"""Unknowns up to which an exact Hessian is factorized where conjugate gradients come to nothing."""


@dataclass(frozen=True)
class Curvature:
    """H as a product with a vector, and its diagonal (which preconditions).

    matrix : forms H itself, where that is possible. solve : H⁻¹ times a vector, where that costs less than products.
    exact : whether H is the objective's own Hessian.
    """

    product: Callable[[Array], Array]
    diagonal: Array
    matrix: Callable[[], Array] | None = None
    solve: Callable[[Array], Array] | None = None
    exact: bool = False

    def factorized(self) -> Curvature:
        """The same, solved directly where it is exact and small."""
        if not self.exact or self.matrix is None or len(self.diagonal) > _FEW:
            return self
        return replace(self, solve=solver_of(self.matrix()))

    def plus(self, more: Curvature) -> Curvature:
        """The sum; preconditioned by the first, since `more` need not be positive."""
        first, second = self.matrix, more.matrix
        matrix = (lambda: first() + second()) if first is not None and second is not None else None
        return Curvature(lambda u: self.product(u) + more.product(u), self.diagonal, matrix)


def solver_of(H: Array) -> Callable[[Array], Array] | None:
    """H⁻¹ by Cholesky, of H scaled to ones on its diagonal; None where it is singular but for rounding."""
    scale = 1.0 / np.sqrt(_positive(np.diag(H)))
    try:
        factor = linalg.cho_factor(H * scale * scale[:, None], lower=True, check_finite=False)
    except linalg.LinAlgError:
        return None
    if not float(np.diag(factor[0]).min()) > 1e-6:
        return None
    return lambda right: np.asarray(scale * linalg.cho_solve(factor, scale * right, check_finite=False))


class Objective(Protocol):
    """What is minimised: value and gradient at w, and a curvature there, exact or approximate."""

    def value_and_gradient(self, w: Array) -> tuple[float, Array]: ...

    def curvature(self, w: Array) -> Curvature: ...


@dataclass(frozen=True)
class Minimum:
    """Where a minimisation stopped. refused : whether it met weights at which f is not finite, and did not go there."""

    w: Array
    value: float
    gradient: Array
    n_iter: int
    converged: bool
    refused: bool = False


def minimize(
    objective: Objective,
    w: Array,
    target: float,
    max_iter: int,
    *,
    forcing: float = 0.1,
    keep_below: float = 0.0,
    futile: float = 0.0,
    noise: float = 0.0,
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
    futile : stop also once five steps together lower f by less than this share of it: for an f without a minimiser.
    noise : round-off of f, where it is a small difference of large sums.
    report : called with (step, value, norm of the gradient).

    Not converged where max_iter is used up, or where no step lowers f any further (round-off).
    """
    value, gradient = objective.value_and_gradient(w)
    pairs: list[tuple[Array, Array]] = []
    first = norm(gradient)
    curvature, before, refused = None, first, False
    values, sizes = [value], [first]
    for step_number in range(max_iter + 1):
        size = norm(gradient)
        if report is not None:
            report(step_number, value, size)
        if not np.isfinite(value) or size <= target or step_number == max_iter:
            break
        if len(values) > _WINDOW and values[-1 - _WINDOW] - value < futile * abs(value):
            break
        relative = min(forcing, max(np.sqrt(size / first) * forcing, 0.3 * target / size))
        if curvature is None or size > keep_below * before:
            curvature = objective.curvature(w)
        sizes.append(size)
        if len(sizes) > _WINDOW and size > 0.5 * sizes[-1 - _WINDOW]:
            # Gradients that do not shrink: what is left lies where H is all but singular, and pairs are their noise.
            curvature = curvature.factorized()
        if curvature.exact and curvature.solve is not None:
            pairs.clear()
        before = size
        direction = _two_loop(gradient, pairs, curvature, relative)
        slope = float(gradient @ direction)
        if not slope < 0:
            pairs.clear()
            direction = -gradient / _positive(curvature.diagonal)
            slope = float(gradient @ direction)
        found, met_infinity = _line_search(objective, w, value, direction, slope, noise)
        refused |= met_infinity
        if found is None:
            if not pairs:
                break
            pairs.clear()
            continue
        new_w, new_value, new_gradient = found
        s, change = new_w - w, new_gradient - gradient
        if float(s @ change) > 1e-12 * norm(s) * norm(change):
            pairs.append((s, change))
            del pairs[:-_MEMORY]
        w, value, gradient = new_w, new_value, new_gradient
        values.append(value)
    return Minimum(w, value, gradient, step_number, norm(gradient) <= target, refused)


def finite_start(objective: Objective, w: Array, rest: Array) -> Array:
    """The first of w, halfway to `rest`, a quarter … at which the objective is finite; it is at rest."""
    for _ in range(_BACKTRACKS):
        value, gradient = objective.value_and_gradient(w)
        if np.isfinite(value) and np.isfinite(gradient).all():
            return w
        w = rest + 0.5 * (w - rest)
    return rest


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
    if curvature.solve is not None:
        return curvature.solve(target)
    inverse = 1.0 / _positive(curvature.diagonal)
    x = np.zeros_like(target)
    residual = target.copy()
    z = inverse * residual
    direction = z
    rho = float(residual @ z)
    stop = relative * norm(target)
    for _ in range(_CG_STEPS):
        if norm(residual) <= stop:
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
    objective: Objective, w: Array, value: float, direction: Array, slope: float, noise: float
) -> tuple[tuple[Array, float, Array] | None, bool]:
    """The first of 1, ½, ¼ … that lowers f enough; near the minimum, where f is all round-off, flattens it enough.

    And whether f or its gradient was not finite on the way: such a step is never taken.
    """
    size, met_infinity = 1.0, False
    noise = max(1e-12 * abs(value), noise)
    for _ in range(_BACKTRACKS):
        trial = w + size * direction
        new_value, new_gradient = objective.value_and_gradient(trial)
        if not (np.isfinite(new_value) and np.isfinite(new_gradient).all()):
            met_infinity = True
        else:
            if new_value <= value + _SUFFICIENT * size * slope:
                return (trial, new_value, new_gradient), met_infinity
            with np.errstate(over="ignore", invalid="ignore"):  # too steep is too steep
                new_slope = float(new_gradient @ direction)
            if new_value <= value + noise and abs(new_slope) <= 0.9 * abs(slope):
                return (trial, new_value, new_gradient), met_infinity
        size *= 0.5
    return None, met_infinity
