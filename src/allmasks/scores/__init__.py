"""Dropped-out linear scores: their mean loss over all masks, and their moments, in NumPy."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.special import expit

from allmasks.errors import MethodNotApplicable
from allmasks.losses import CallableScoreLoss, ScoreLoss, score_loss
from allmasks.methods import ClosedForm, Delta, Enumeration, Fourier, GaussianMoments, Method, MonteCarlo
from allmasks.results import ExpectedLoss, ScoreMoments, weakest
from allmasks.scores.approximate import delta, gauss_hermite, gaussian_moments
from allmasks.scores.closed_form import CLOSED_FORMS, closed_form
from allmasks.scores.cosine import cosine_loss
from allmasks.scores.enumeration import enumerate_loss, enumerated_moments
from allmasks.scores.fourier import fourier_logistic, logistic_moments
from allmasks.scores.monte_carlo import sampled_loss
from allmasks.scores.problem import EPS, RowResults, ScoreProblem, check_inputs

__all__ = ["expected_score", "expected_score_loss"]

Array = NDArray[np.float64]

_QUICK_BITS = 10
"""Up to this many units a callable's masks are simply listed: exact, where its series is only an estimate."""


def expected_score_loss(
    weights: ArrayLike,
    X: Any,
    y: ArrayLike,
    p: ArrayLike,
    *,
    loss: Any = "logistic",
    intercept: ArrayLike = 0.0,
    method: Method | None = None,
    n_masks: int | None = None,
    seed: int = 0,
    sample_weight: ArrayLike | None = None,
    return_grad: bool = False,
) -> ExpectedLoss:
    """E over all masks m of L(b + Σⱼ wⱼ xⱼ mⱼ / (1 − pⱼ), y), for each row and in the (weighted) mean.

    Parameters
    ----------
    weights : (d,), or (d, k) for k outputs whose squared or logistic losses are summed.
    X : (n, d) array or SciPy sparse matrix, which stays sparse.
    y : (n,), or (n, k).
    p : drop rate, one or (d,), each in [0, 1).
    loss : "squared_error" (S − y)², "logistic" log(1 + e^S) − yS, "poisson" e^S − yS, "exponential" e^(−yS), or a
        smooth function of (score) or of (score, y) that works on arrays.
    intercept : b, a number or (k,).
    method : a value of `am.methods`. None: `ClosedForm` where there is one, `Fourier` for the logistic loss, and
        for a callable `Enumeration` of up to 10 units, else its trigonometric series (guarantee "estimated").
    n_masks : masks a row under `MonteCarlo`; 256 by default.
    sample_weight : (n,) weights of the rows in the mean.
    return_grad : also the gradient of `value`, in `.grad`: "weights", "intercept" and "X".

    Returns
    -------
    ExpectedLoss, in NumPy arrays.

    Raises
    ------
    ValueError, TypeError : for shapes that do not fit, p outside [0, 1), NaN, targets that are none of the loss.
    MethodNotApplicable : where the method has no formula for the loss, or its budget does not reach.

    References
    ----------
    van der Maaten, Chen, Tyree & Weinberger 2013, "Learning with marginalized corrupted features" (closed forms);
    the Fourier form is this library's own (see `allmasks.scores.fourier`).

    Example
    -------
    >>> import allmasks as am
    >>> result = am.expected_score_loss([1.0, -1.0, 2.0], [[1.0, 2.0, -1.0]], [0.0], 0.5, loss="squared_error")
    >>> float(result.value), float(result.weight_scaling_loss), float(result.penalty)
    (18.0, 9.0, 9.0)
    """
    the_loss = score_loss(loss)
    w, rows, rates, b, targets, share = check_inputs(weights, X, p, intercept, y, sample_weight)
    assert targets is not None
    the_loss.check(targets)
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be an integer from 0 to 2**64 - 1, got {seed}")
    k = w.shape[1]
    if k > 1 and not the_loss.sums_outputs:
        raise ValueError(f"several outputs are for squared_error and logistic, got weights of shape {w.shape}")
    asked = _with_masks(method, n_masks)
    results, used = [], None
    for c in range(k):
        problem = ScoreProblem(w[:, c].copy(), rows, rates, float(b[c]), share)
        outcome, used = _run(problem, targets[:, c].copy(), the_loss, asked, seed, return_grad)
        results.append(outcome)
    assert used is not None
    return _assemble(results, used, rows, w, b, share, return_grad, np.ndim(weights), np.ndim(intercept))


def _with_masks(method: Method | None, n_masks: int | None) -> Method | None:
    if method is not None and not isinstance(method, Method):
        raise TypeError(f"method must be a value of am.methods, such as am.methods.Fourier(), got {method!r}")
    if n_masks is None:
        return method
    if method is None:
        return MonteCarlo(n_masks=n_masks)
    if isinstance(method, MonteCarlo) and method.n_masks is None and method.atol is None and method.rtol is None:
        return MonteCarlo(n_masks=n_masks, sampler=method.sampler, control=method.control)
    return method


def _run(
    problem: ScoreProblem, y: Array, loss: ScoreLoss, method: Method | None, seed: int, want_grad: bool
) -> tuple[RowResults, Method]:
    if method is None:
        method = _choose(problem, loss, want_grad)
    if isinstance(method, ClosedForm):
        if loss.name not in CLOSED_FORMS:
            others = "Fourier()" if loss.name == "logistic" else "Fourier(), Enumeration()"
            raise MethodNotApplicable("ClosedForm", f"the {loss.name} loss has no formula", others)
        return closed_form(problem, y, loss, want_grad), method
    if isinstance(method, Fourier):
        if loss.name == "logistic":
            return fourier_logistic(problem, y, method, want_grad), method
        return cosine_loss(problem, y, loss, method, want_grad), method
    if isinstance(method, Enumeration):
        return enumerate_loss(problem, y, loss, method, want_grad), method
    if isinstance(method, GaussianMoments):
        return gaussian_moments(problem, y, loss, want_grad), method
    if isinstance(method, Delta):
        return delta(problem, y, loss, want_grad), method
    if isinstance(method, MonteCarlo):
        return sampled_loss(problem, y, loss, method, seed, want_grad), method
    raise TypeError(f"{method!r} is not a method for scores")


def _choose(problem: ScoreProblem, loss: ScoreLoss, want_grad: bool) -> Method:
    """The strongest guarantee, then the cheapest."""
    if loss.name in CLOSED_FORMS and not isinstance(loss, CallableScoreLoss):
        return ClosedForm()
    if isinstance(loss, CallableScoreLoss) and not want_grad and np.count_nonzero(problem.p) <= _QUICK_BITS:
        return Enumeration()
    return Fourier()


def _assemble(
    results: list[RowResults],
    method: Method,
    X: Any,
    weights: Array,
    intercept: Array,
    share: Array,
    return_grad: bool,
    weights_ndim: int,
    intercept_ndim: int,
) -> ExpectedLoss:
    per_example = np.sum([r.value for r in results], axis=0)
    per_error = np.sum([r.error for r in results], axis=0)
    penalties = np.sum([r.penalty for r in results], axis=0)
    penalty_errors = np.sum([r.penalty_error for r in results], axis=0)
    guarantee = weakest(*(r.guarantee for r in results))
    value, penalty = float(share @ per_example), float(share @ penalties)
    replicates = None
    if guarantee == "statistical":
        replicates = np.sum([r.replicates for r in results if r.replicates is not None], axis=0)
        error = float(replicates.std(ddof=1) / math.sqrt(len(replicates)))
        penalty_error = error
    else:
        n = len(share)
        error = float(share @ per_error + (n + 8) * EPS * (share @ np.abs(per_example)))
        penalty_error = float(share @ penalty_errors + (n + 8) * EPS * (share @ np.abs(penalties)))
    grad = None
    if return_grad:
        parts = [r.gradient for r in results]
        stacked = np.stack([g.weights for g in parts if g is not None], axis=1)
        slopes = np.array([g.intercept for g in parts if g is not None])
        total = sum((g.X for g in parts if g is not None), start=0.0 * X if not sparse.issparse(X) else X * 0.0)
        grad = {
            "weights": stacked[:, 0] if weights_ndim == 1 else stacked,
            "intercept": slopes if intercept_ndim == 1 else float(slopes.sum()),
            "X": total,
        }
        if intercept_ndim == 1 and len(intercept) and intercept.size != slopes.size:
            grad["intercept"] = slopes.sum(keepdims=True)
    return ExpectedLoss(
        value=value,
        error=error,
        guarantee=guarantee,
        method=method,
        n_masks=max(r.n_masks for r in results),
        per_example=per_example,
        per_example_error=per_error,
        weight_scaling_loss=value - penalty,
        penalty=penalty,
        penalty_error=penalty_error,
        replicates=replicates,
        grad=grad,
        notes=tuple(dict.fromkeys(note for r in results for note in r.notes)),
    )


def expected_score(
    weights: ArrayLike,
    X: Any,
    p: ArrayLike,
    *,
    link: Literal["logistic", "identity", "log"] = "logistic",
    intercept: ArrayLike = 0.0,
    method: Method | None = None,
) -> ScoreMoments:
    """Mean and variance over all masks of link⁻¹(S): of σ(S), of S, or of e^S, for each row.

    Parameters
    ----------
    weights, X, p, intercept : as in `expected_score_loss`, one output.
    link : "logistic": σ(S) = 1 / (1 + e^−S); "identity": S; "log": e^S.
    method : None for the exact one (`Fourier` for the logistic link, else `ClosedForm`), `Enumeration`, or the
        approximation `GaussianMoments`.

    Returns
    -------
    ScoreMoments with mean, variance (n,) and an error for each.

    Example
    -------
    >>> import allmasks as am
    >>> moments = am.expected_score([2.0], [[1.0]], 0.5)  # σ(0) or σ(4), each with probability ½
    >>> moments.mean.round(6), moments.std.round(6), moments.guarantee
    (array([0.741007]), array([0.241007]), 'exact')
    """
    w, rows, rates, b, _, share = check_inputs(weights, X, p, intercept, None, None)
    if w.shape[1] != 1:
        raise ValueError(f"expected_score takes one output, weights of shape (d,), got {np.shape(weights)}")
    if link not in ("logistic", "identity", "log"):
        raise ValueError(f'link must be "logistic", "identity" or "log", got {link!r}')
    problem = ScoreProblem(w[:, 0].copy(), rows, rates, float(b[0]), share)
    if method is None:
        method = Fourier() if link == "logistic" else ClosedForm()
    inverse = {"logistic": expit, "identity": np.positive, "log": np.exp}[link]
    at_mean = inverse(problem.mean())
    unknown = np.full(problem.n, np.nan)
    if isinstance(method, Enumeration):
        mean, variance = enumerated_moments(problem, inverse, method)
        error = (problem.d + 24) * EPS * (1.0 + np.abs(mean) + problem.magnitude() * np.maximum(1.0, np.abs(mean)))
        return ScoreMoments(mean, error, variance, error * (2 + 2 * np.abs(mean)), "exact", method, at_mean)
    if isinstance(method, GaussianMoments):
        nodes, node_weights = gauss_hermite()
        values = inverse(problem.mean()[:, None] + np.sqrt(problem.variance())[:, None] * nodes)
        mean = values @ node_weights
        variance = (values - mean[:, None]) ** 2 @ node_weights
        return ScoreMoments(mean, unknown, variance, unknown, "uncontrolled", method, at_mean)
    if isinstance(method, Fourier) and link == "logistic":
        out, _, _ = logistic_moments(problem, method)
        mean, error = out[:, 2], out[:, 1]
        variance_error = error * (2.0 + 2.0 * mean) + 8 * EPS
        # The difference cancels where nearly nothing varies: it is then 0 to within its own error.
        variance = np.maximum(mean - out[:, 3] - mean**2, 0.0)
        guarantee: Any = "exact" if method.tol <= 1e-12 else "bounded"
        return ScoreMoments(mean, error, variance, variance_error, guarantee, method, at_mean)
    if isinstance(method, ClosedForm) and link == "identity":
        variance = problem.variance()
        shift = (problem.d + 8) * EPS * problem.magnitude()
        return ScoreMoments(at_mean, shift, variance, (2 * problem.d + 16) * EPS * variance, "exact", method, at_mean)
    if isinstance(method, ClosedForm) and link == "log":
        first = closed_form(problem, np.zeros(problem.n), score_loss("poisson"), False)
        twice = ScoreProblem(2 * problem.weights, rows, rates, 2 * problem.intercept, share)
        second = closed_form(twice, np.zeros(problem.n), score_loss("poisson"), False)
        variance = np.maximum(second.value - first.value**2, 0.0)
        variance_error = second.error + 2 * first.value * first.error + 4 * EPS * second.value
        return ScoreMoments(first.value, first.error, variance, variance_error, "exact", method, at_mean)
    raise MethodNotApplicable(
        method.name, f"it has no moments for the {link} link", "method=None, Enumeration() or GaussianMoments()"
    )
