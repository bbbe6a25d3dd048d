"""The logistic dropout objective of one class against the rest: exact over all masks, and its Gaussian stand-in.

    f(w, b) = Σᵢ rᵢ E log(1 + e^{Sᵢ}) + Σᵢ tᵢ log(1 + e^{μᵢ}) − Σᵢ sᵢ yᵢ μᵢ + α/2 ‖w‖²

With labelled rows only, r = s and t = 0. With rows that have no label, s = 0 there, and rᵢ weights the penalty
E log(1 + e^S) − log(1 + e^μ), which needs no label, over all rows while t = s − r takes the rest back.

Both are convex where t = 0: the exact one is a mean of convex losses, and the Gaussian one is the mean of the loss
under Gaussian instead of Bernoulli noise of the same variance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import expit, logit

from allmasks.errors import MethodNotApplicable
from allmasks.linear_model.curvature import gram, kept_curvature, logistic_density, summed_squares
from allmasks.linear_model.feature_rows import Rows
from allmasks.linear_model.newton import Curvature, solver_of
from allmasks.linear_model.stopping import AtRest, norm
from allmasks.linear_model.unknowns import Unknowns
from allmasks.methods import Fourier
from allmasks.scores.characteristic import Integrals, logistic_moments
from allmasks.scores.score import EPS, ScoreProblem

__all__ = ["BinaryLogistic", "ExactLogistic", "GaussianLogistic", "PlainLogistic", "logit_of"]

Array = NDArray[np.float64]

_NODES = 20


_FEW = 256
"""Features up to which a plain Hessian is formed and factorized."""

_COARSE = 1e-5
"""Tolerance of a row's mean over masks in the first steps."""


@dataclass(frozen=True)
class BinaryLogistic(Unknowns):
    """Data of one binary problem. `label` = s∘y (n,), `noisy` = r (n,), `plain` = t (n,) or None for 0.

    rest : the best intercept at weights 0 (over all rows, where these are a part of them).
    """

    rows: Rows
    p: Array
    alpha: float
    fit_intercept: bool
    label: Array
    noisy: Array
    plain: Array | None = None
    rest: float = 0.0

    @property
    def dropped(self) -> bool:
        """Whether any feature is."""
        return bool((self.p > 0.0).any())

    @property
    def weight(self) -> Array:
        """s, (n,): 0 for rows without a label."""
        return self.noisy if self.plain is None else self.noisy + self.plain

    @property
    def spread(self) -> Array:
        """p / (1 − p): the variance of a kept-or-dropped unit of mean 1."""
        return self.p / (1.0 - self.p)

    @property
    def size(self) -> int:
        """Unknowns: weights and intercept."""
        return self.rows.d + bool(self.fit_intercept)

    def gaussian(self, stronger: float = 1.0) -> GaussianLogistic:
        """The stand-in that a fit begins with, at so many times alpha."""
        return GaussianLogistic(replace(self, alpha=stronger * self.alpha))

    def exact(self, tol: float, scale: float = 0.0, coarse: float = _COARSE) -> ExactLogistic | PlainLogistic:
        """The objective itself, each row's mean over masks to within `tol`; `scale`, `coarse`: see `ExactLogistic`."""
        return ExactLogistic(self, tol, scale, coarse) if self.dropped else PlainLogistic(self)

    def equivalent_penalty(self, w: Array) -> Array:
        """p/(1 − p) Σᵢ rᵢ σ'(μᵢ) xᵢⱼ², (d,)."""
        weights, b = self.split(w)
        sigma = expit(self.rows.dot(weights) + b)
        return self.spread * self.rows.squares_transposed_dot(self.noisy * sigma * (1.0 - sigma))

    def at_rest(self) -> AtRest:
        """At weights 0 every mask gives the score `rest`."""
        weight = self.weight
        positive, negative = float(expit(self.rest)), float(expit(-self.rest))
        other = weight - self.label
        slope = other * positive - self.label * negative
        sides = (other * positive, self.label * negative) if self.fit_intercept else (other, self.label)
        # What rounds is each row's E σ(S), of size 1 whatever the class's share.
        size = self.noisy if self.plain is None else self.noisy + np.abs(self.plain)
        return AtRest.of(self.rows, slope, size, sides, self.fit_intercept)

    def common(self, weights: Array, mu: Array) -> tuple[float, Array]:
        """Value, and gradient by row, of what dropout leaves alone: Σ t log(1 + e^μ) − s y μ."""
        value, slope = -float(self.label @ mu), -self.label
        if self.plain is not None:
            value += float(self.plain @ np.logaddexp(0.0, mu))
            slope = slope + self.plain * expit(mu)
        return value + 0.5 * self.alpha * float(weights @ weights), slope


class GaussianLogistic:
    """E log(1 + e^{μ + σZ}) in place of the mean over masks ("fast dropout", Wang & Manning 2013)."""

    def __init__(self, binary: BinaryLogistic) -> None:
        self.binary = binary
        nodes, shares = np.polynomial.hermite_e.hermegauss(_NODES)
        self._nodes, self._shares = nodes, shares / shares.sum()

    def _moments(self, w: Array) -> tuple[Array, float, Array, Array, Array]:
        weights, b = self.binary.split(w)
        mu = self.binary.rows.dot(weights) + b
        variance = self.binary.rows.squares_dot(self.binary.spread * weights**2)
        return weights, b, mu, variance, mu[:, None] + np.sqrt(variance)[:, None] * self._nodes

    def value_and_gradient(self, w: Array) -> tuple[float, Array]:
        binary = self.binary
        weights, _, mu, _, scores = self._moments(w)
        sigma = expit(scores)
        value, slope = binary.common(weights, mu)
        # softplus(s) = max(s, 0) − log σ(|s|), from the σ at hand
        soft = np.maximum(scores, 0.0) - np.log(np.maximum(sigma, 1.0 - sigma))
        value += float(binary.noisy @ (soft @ self._shares))
        slope = slope + binary.noisy * (sigma @ self._shares)
        second = binary.noisy * ((sigma * (1.0 - sigma)) @ self._shares)
        gradient = binary.rows.transposed_dot(slope) + binary.alpha * weights
        gradient += binary.spread * weights * binary.rows.squares_transposed_dot(second)
        return value, binary.join(gradient, float(slope.sum()))

    def curvature(self, w: Array) -> Curvature:
        """The Hessian of the Gaussian objective, exactly."""
        binary, rows = self.binary, self.binary.rows
        weights, _, mu, _, scores = self._moments(w)
        sigma = expit(scores)
        first = sigma * (1.0 - sigma)
        e2 = binary.noisy * (first @ self._shares)
        e3 = binary.noisy * ((first * (1.0 - 2.0 * sigma)) @ self._shares)
        e4 = binary.noisy * ((first * (1.0 - 6.0 * first)) @ self._shares)
        of_mean = e2
        if binary.plain is not None:
            at_mean = expit(mu)
            of_mean = e2 + binary.plain * at_mean * (1.0 - at_mean)
        spread = binary.spread
        ridge = binary.alpha + spread * rows.squares_transposed_dot(e2)
        coupling = spread * weights

        def product(u: Array) -> Array:
            direction, db = binary.split(u)
            d_mean = rows.dot(direction) + db
            d_variance = rows.squares_dot(coupling * direction)
            of_first = of_mean * d_mean + e3 * d_variance
            of_second = e3 * d_mean + e4 * d_variance
            out = rows.transposed_dot(of_first) + ridge * direction
            out += coupling * rows.squares_transposed_dot(of_second)
            return binary.join(out, float(of_first.sum()))

        def matrix() -> Array:
            X, squares = rows.X, np.square(rows.X) if rows.squares is None else rows.squares
            across = gram(X, e3, squares) * coupling
            out = gram(X, of_mean, X) + across + across.T + coupling[:, None] * gram(squares, e4, squares) * coupling
            out[np.diag_indices_from(out)] += ridge
            both = rows.transposed_dot(of_mean) + coupling * rows.squares_transposed_dot(e3)
            return binary.bordered(out, both, float(of_mean.sum()))

        diagonal = ridge + np.maximum(rows.squares_transposed_dot(of_mean), 0.0)
        return Curvature(product, binary.join(diagonal, max(float(of_mean.sum()), 0.0)), matrix)


class ExactLogistic:
    """The objective itself, its curvature approximated (see `curvature.py`).

    Far from the minimum a value need not have many digits, and digits cost nodes. So each row's mean over masks is
    computed to (‖∇f‖/scale)², as of the last gradient, but never coarser than `coarse` nor finer than tol: a step
    lowers f by about that share, and what is cut off is a hundredth of the tolerance. Without a scale it is tol.
    """

    def __init__(self, binary: BinaryLogistic, tol: float, scale: float = 0.0, coarse: float = _COARSE) -> None:
        self.binary = binary
        self._tol, self._scale, self._coarse = tol, scale, coarse
        self.method = Fourier(tol=max(tol, coarse) if scale > 0 else tol)
        self._total = float(binary.noisy.sum())
        self.error = np.nan
        """Bound on the error of the last value: of each row's mean over masks, and round-off of the sum."""
        self.used = np.nan
        """Tolerance of each row's mean in the last value and gradient."""

    def value_and_gradient(self, w: Array) -> tuple[float, Array]:
        binary = self.binary
        weights, _ = binary.split(w)
        self.used = self.method.tol
        try:
            found, gradient = self._moments(w, grads=1)
        except MethodNotApplicable:
            # A step so long that a row's scores spread beyond the node budget: the line search shortens it.
            return np.inf, np.full_like(w, np.nan)
        value, slope = self._value(weights, found)
        total = self._total * gradient + binary.rows.transposed_dot(slope) + binary.alpha * weights
        total = binary.join(total, float(slope.sum() + binary.noisy @ found.sigma))
        if self._scale > 0:
            needed = self._coarse / _COARSE * (norm(total) / self._scale) ** 2
            # Digits once gained are kept, so that values stay comparable.
            self.method = Fourier(tol=max(self._tol, min(self.method.tol, needed)))
        return value, total

    def value(self, w: Array) -> float:
        """The value alone, for about half the time; infinite where it has no value within the node budget."""
        self.used = self.method.tol
        try:
            return self._value_alone(w)
        except MethodNotApplicable:
            return np.inf

    def _value_alone(self, w: Array) -> float:
        return self._value(self.binary.split(w)[0], self._moments(w, grads=0)[0])[0]

    def _moments(self, w: Array, grads: int) -> tuple[Integrals, Array]:
        binary = self.binary
        weights, b = binary.split(w)
        problem = ScoreProblem(weights, binary.rows.X, binary.p, b, binary.noisy / self._total)
        found, gradient, _ = logistic_moments(problem, self.method, grads=grads, slots=binary.rows.slots)
        return found, gradient

    def _value(self, weights: Array, found: Integrals) -> tuple[float, Array]:
        binary, mu = self.binary, found.mu
        value, slope = binary.common(weights, mu)
        value += float(binary.noisy @ (np.logaddexp(0.0, mu) + found.penalty))
        sizes = np.abs(binary.label * mu) + binary.noisy * np.logaddexp(0.0, mu)
        terms = binary.rows.n + binary.rows.d + 16
        self.error = float(binary.noisy @ found.error) + terms * EPS * float(sizes.sum())
        return value, slope

    def curvature(self, w: Array) -> Curvature:
        binary, rows = self.binary, self.binary.rows
        weights, b = binary.split(w)
        mu = rows.dot(weights) + b
        variance = rows.squares_dot(binary.spread * weights**2)
        hat, extra = kept_curvature(rows, weights, binary.p, mu, variance, binary.noisy)
        root = np.sqrt(binary.noisy * logistic_density(mu, variance))
        squares = hat.multiply(hat).sum(axis=0) if sparse.issparse(hat) else np.einsum("ij,ij->j", hat, hat)
        kept = summed_squares(binary, hat, np.ones(rows.n), extra + binary.alpha, np.asarray(squares).ravel(), root)
        if binary.plain is None:
            return kept
        at_mean = expit(mu)
        taken = binary.plain * at_mean * (1.0 - at_mean)
        return kept.plus(summed_squares(binary, rows.X, taken, 0.0, np.zeros(rows.d)))


class PlainLogistic:
    """The objective where no feature is dropped: log(1 + e^μ) in place of a mean over masks."""

    used = 0.0

    def __init__(self, binary: BinaryLogistic) -> None:
        self.binary = binary
        self._weight = binary.weight
        self._lengths = np.sqrt(binary.rows.squares_dot(np.ones(binary.rows.d)))
        self.error = np.nan
        """Bound on the round-off of the last value."""

    def value_and_gradient(self, w: Array) -> tuple[float, Array]:
        binary = self.binary
        weights, b = binary.split(w)
        mu = binary.rows.dot(weights) + b
        # Each side by itself, so that neither 1 − σ nor log(1 + e^μ) − μ cancels; one exponential for all four.
        other = self._weight - binary.label
        tail = np.exp(-np.abs(mu))
        near, far = 1.0 / (1.0 + tail), tail / (1.0 + tail)
        up = mu >= 0.0
        value = float(other @ np.maximum(mu, 0.0) - binary.label @ np.minimum(mu, 0.0) + self._weight @ np.log1p(tail))
        ridge = 0.5 * binary.alpha * float(weights @ weights)
        # Σ |xᵢⱼ wⱼ| ≤ ‖xᵢ‖ ‖w‖ bounds the rounding of a score.
        reach = self._lengths * norm(weights) + abs(b)
        rows = float(self._weight @ ((binary.rows.most_entries + 12.0) * reach + 16.0))
        self.error = EPS * (rows + (binary.rows.n + 16.0) * value + (binary.rows.d + 16.0) * ridge)
        slope = other * np.where(up, near, far) - binary.label * np.where(up, far, near)
        gradient = binary.rows.transposed_dot(slope) + binary.alpha * weights
        return value + ridge, binary.join(gradient, float(slope.sum()))

    def value(self, w: Array) -> float:
        return self.value_and_gradient(w)[0]

    def curvature(self, w: Array) -> Curvature:
        """The Hessian."""
        binary, rows = self.binary, self.binary.rows
        weights, b = binary.split(w)
        mu = rows.dot(weights) + b
        tail = np.exp(-np.abs(mu))
        bend = self._weight * tail / (1.0 + tail) ** 2

        curvature = summed_squares(binary, rows.X, bend, binary.alpha, rows.squares_transposed_dot(bend))
        if rows.d > _FEW or curvature.matrix is None:
            return curvature
        H = curvature.matrix()
        return Curvature(lambda u: H @ u, np.diag(H).copy(), lambda: H, solve=solver_of(H))


def logit_of(share: float, fit_intercept: bool) -> float:
    """The intercept that is best at weights 0 for a class of this share of the weight; 0 where none is finite."""
    return float(logit(share)) if fit_intercept and 0.0 < share < 1.0 else 0.0
