"""The logistic loss over all 2^d masks, by one integral over the score's characteristic function.

Why the trapezoid rule's error can be bounded. With L(s) = log 2cosh(s/2), whose second derivative is σ'(s), the rule
with step h = 2π/P computes E L_h(S) − L_h(μ) for the L_h with L_h'' = Σ_m σ'(s + mP) (Poisson summation). So
δ = L_h − L has δ'' = Σ_{m≠0} σ'(s + mP) ≥ 0 and, since σ'(u) ≤ e^{−λ|u|} for every λ in (0, 1],

    0 ≤ E δ(S) − δ(μ) ≤ 2/λ² · e^{−λP} / (1 − e^{−λP}) · E[e^{λS} + e^{−λS}].

The same bound holds for E σ and E σ'. P is the smallest for which it falls below the tolerance, where log E e^{λ(S−μ)}
is itself bounded by Kearns and Saul's sub-Gaussian constant, by Bennett's inequality, or by the reach of S. Where
E e^{−|S|} is below the tolerance already (a saturated score) no node is needed.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from allmasks.errors import MethodNotApplicable
from allmasks.results import Guarantee
from allmasks.scores.score import EPS, Gradient, Moments, RowResults, ScoreProblem
from allmasks.scores.slots import Slots, tabulated_moments

__all__ = ["Integrals", "Rule", "fourier_logistic", "guaranteed", "logistic_moments", "sigmoid_moments"]

Array = NDArray[np.float64]

_EXACT_TOL = 1e-12
"""Up to this tolerance, what is cut off (a hundredth of it) is below round-off: the answer is exact."""


class Integrals(NamedTuple):
    """Of each row, (n,): E log(1 + e^S) − log(1 + e^μ) and its error, E σ(S), E σ'(S), and μ."""

    penalty: Array
    error: Array
    sigma: Array
    slope: Array
    mu: Array


class Rule(Protocol):
    """How far the nodes go: the truncation error allowed a row, relative to 1 + |score|, and most nodes a row."""

    @property
    def tol(self) -> float: ...
    @property
    def max_nodes(self) -> int: ...


def guaranteed(rule: Rule) -> Guarantee:
    """What the error of a logistic loss means."""
    return "exact" if rule.tol <= _EXACT_TOL else "bounded"


def logistic_moments(
    problem: ScoreProblem, rule: Rule, y: Array | None = None, grads: int = 0, slots: Slots | None = None
) -> tuple[Integrals, Array, Array]:
    """The integrals of each row, and the gradients of their mean with respect to weights and X.

    slots : of CSR rows of few values, whose factors are then tabulated (`slots.py`), for gradients in the weights.

    Raises
    ------
    MethodNotApplicable : where a row needs more than `max_nodes` nodes, however many units are enumerated.
    """
    from allmasks.scores import every_row as kernels
    from allmasks.scores.power_sums import cumulant_terms

    n, d = problem.n, problem.d
    out = np.empty((n, 5))
    target = np.zeros(n) if y is None else y
    random_rates = problem.p[problem.p > 0]
    one_rate = len(random_rates) > 0 and bool((random_rates == random_rates[0]).all())
    coef = cumulant_terms(float(random_rates[0])) if one_rate else np.empty(0)
    settings = (problem.p, problem.intercept, coef, rule.tol, rule.max_nodes)
    grad_w: Array = np.zeros(d)
    grad_x: Array = np.zeros(1)
    refused = -1
    if problem.is_sparse:
        x, left = problem.X, np.arange(n)
        if slots is not None and grads < 2 and y is None:
            grad_w, left = tabulated_moments(problem, slots, rule.tol, rule.max_nodes, grads > 0, out)
            x = x[left]
        if len(left):
            some, terms = np.empty((len(left), 5)), np.zeros(len(x.data) if grads else 1)
            of_rows = (problem.share[left], target[left], grads, max(1, min(64, len(left))), some, terms)
            refused = kernels.sparse_rows(x.data, x.indices, x.indptr, problem.per_unit, *settings, *of_rows)
            out[left] = some
            refused = int(left[refused]) if refused >= 0 else -1
            if grads:
                grad_w += np.bincount(x.indices, x.data * terms, d)
            if grads > 1:
                grad_x = problem.weights[x.indices] * terms
    else:
        # A fixed number of chunks, so that sums do not depend on the number of threads.
        parts = np.zeros((max(1, min(64, n, 2**23 // max(d, 1))), d if grads else 1))
        grad_x = np.zeros((n, d) if grads > 1 else (1, 1))
        wanted = (problem.share, target, grads, out, parts, grad_x)
        refused = kernels.dense_rows(problem.X, problem.per_unit, problem.weights, *settings, *wanted)
        if grads:
            grad_w = parts.sum(axis=0)
    if refused >= 0:
        raise MethodNotApplicable(
            "Fourier",
            f"row {refused} needs more than max_nodes={rule.max_nodes} nodes, its scores spread too far",
            "Fourier(max_nodes=...) with more nodes, Enumeration() for at most 20 units, or MonteCarlo()",
        )
    return Integrals(*out.T), grad_w, grad_x


def fourier_logistic(problem: ScoreProblem, y: Array, rule: Rule, want_grad: bool) -> RowResults:
    """E log(1 + e^S) − y S for each row."""
    (penalty, error, sigma, _, mu), grad_w, grad_x = logistic_moments(problem, rule, y, 2 if want_grad else 0)
    value = np.logaddexp(0.0, mu) - y * mu + penalty
    gradients: tuple[Gradient, ...] = ()
    if want_grad:
        gx = grad_x
        if problem.is_sparse:
            gx = problem.X.copy()
            gx.data = grad_x
        gradients = (Gradient(grad_w, float(problem.share @ (sigma - y)), gx),)
    rounding = EPS * (4.0 * np.abs(y * mu) + (problem.d + 4.0) * np.abs(y) * problem.magnitude())
    return RowResults(value, error + rounding, penalty, error, guaranteed(rule), gradients=gradients)


def sigmoid_moments(problem: ScoreProblem, rule: Rule) -> Moments:
    """Mean and variance of σ(S) for each row."""
    found, _, _ = logistic_moments(problem, rule)
    mean, error = np.clip(found.sigma, 0.0, 1.0), found.error
    # The difference cancels where nearly nothing varies: it is then 0 to within its own error.
    variance = np.maximum(mean - found.slope - mean**2, 0.0)
    return Moments(mean, error, variance, error * (2.0 + 2.0 * mean) + 8 * EPS)
