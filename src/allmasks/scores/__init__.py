"""Dropped-out linear scores: their mean loss over all masks, and their moments, in NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from allmasks.errors import MethodNotApplicable
from allmasks.losses import CallableScoreLoss, ScoreLoss, score_loss
from allmasks.methods import ClosedForm, Delta, Enumeration, Fourier, GaussianMoments, Method, MonteCarlo
from allmasks.results import ExpectedLoss, ScoreMoments, weakest
from allmasks.sampling import asked_for
from allmasks.scores.approximate import delta, gauss_hermite, gaussian_moments
from allmasks.scores.closed_form import CLOSED_FORMS, closed_form
from allmasks.scores.cosine import cosine_loss
from allmasks.scores.enumeration import enumerate_loss
from allmasks.scores.exponentials import exp, exponential_moments
from allmasks.scores.fourier import fourier_logistic, logistic_moments
from allmasks.scores.moments import Link, enumerated_moments
from allmasks.scores.monte_carlo import sampled_losses
from allmasks.scores.problem import EPS, Gradient, RowResults, ScoreProblem, check_inputs

__all__ = ["expected_score", "expected_score_loss"]

Array = NDArray[np.float64]

_QUICK_BITS = 12
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
        for a callable `Enumeration` of up to 12 units, else its trigonometric series (guarantee "estimated").
    n_masks : masks a row under `MonteCarlo`, any number from 1 on; 256 by default.
    sample_weight : (n,) weights of the rows in the mean.
    return_grad : also the gradient of `value`, in `.grad`: "weights", "intercept" and "X".

    Returns
    -------
    ExpectedLoss, in NumPy arrays. Where the truth is beyond the largest double, `inf`, and a note says so.

    Raises
    ------
    ValueError, TypeError : for shapes that do not fit, p outside [0, 1), NaN, targets that are none of the loss, and
        where a score itself could exceed the largest double.
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
    problems = [ScoreProblem(w[:, c].copy(), rows, rates, float(b[c]), share) for c in range(k)]
    for problem in problems:
        problem.check_reach()
    if isinstance(asked, MonteCarlo):
        # All outputs under the same masks: the error of their sum is not the sum of their errors.
        total, gradients = sampled_losses(problems, targets, the_loss, asked, seed, return_grad)
        used: Method = asked
    else:
        results = []
        for c, problem in enumerate(problems):
            # What no double can hold is inf, and a note says so.
            with np.errstate(over="ignore", under="ignore"):
                outcome, used = _run(problem, targets[:, c].copy(), the_loss, asked, return_grad)
            results.append(_infinite(outcome))
        total, gradients = _sum(results), [r.gradient for r in results if r.gradient is not None]
    at_mean = np.sum([the_loss.value(q.mean(), targets[:, c]) for c, q in enumerate(problems)], axis=0)
    grad = _joined(gradients, np.ndim(weights), np.shape(intercept)) if return_grad else None
    return _result(total, used, share, at_mean, grad)


def _with_masks(method: Method | None, n_masks: int | None) -> Method | None:
    if method is not None and not isinstance(method, Method):
        raise TypeError(f"method must be a value of am.methods, such as am.methods.Fourier(), got {method!r}")
    if n_masks is not None and (method is None or isinstance(method, MonteCarlo)):
        return asked_for(method, n_masks)
    return method


def _run(
    problem: ScoreProblem, y: Array, loss: ScoreLoss, method: Method | None, want_grad: bool
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
    if isinstance(method, GaussianMoments | Delta):
        approximation = delta if isinstance(method, Delta) else gaussian_moments
        with np.errstate(invalid="ignore"):  # it claims nothing, where its own moments are beyond all doubles too
            return approximation(problem, y, loss, want_grad), method
    raise TypeError(f"{method!r} is not a method for scores")


def _choose(problem: ScoreProblem, loss: ScoreLoss, want_grad: bool) -> Method:
    """The strongest guarantee, then the cheapest."""
    if loss.name in CLOSED_FORMS and not isinstance(loss, CallableScoreLoss):
        return ClosedForm()
    if isinstance(loss, CallableScoreLoss) and not want_grad and np.count_nonzero(problem.p) <= _QUICK_BITS:
        return Enumeration()
    return Fourier()


def _infinite(rows: RowResults) -> RowResults:
    """An infinite value is off by no finite number."""
    rows.error = np.where(np.isinf(rows.value), np.inf, rows.error)
    rows.penalty_error = np.where(np.isinf(rows.penalty), np.inf, rows.penalty_error)
    return rows


def _sum(results: list[RowResults]) -> RowResults:
    """The sum over outputs, errors added up."""
    return RowResults(
        value=np.sum([r.value for r in results], axis=0),
        error=np.sum([r.error for r in results], axis=0),
        penalty=np.sum([r.penalty for r in results], axis=0),
        penalty_error=np.sum([r.penalty_error for r in results], axis=0),
        guarantee=weakest(*(r.guarantee for r in results)),
        n_masks=max(r.n_masks for r in results),
        notes=tuple(dict.fromkeys(note for r in results for note in r.notes)),
    )


def _joined(parts: list[Gradient], weights_ndim: int, intercept_shape: tuple[int, ...]) -> dict[str, Any]:
    """The outputs' gradients in the shapes of what they are taken with respect to."""
    weights = np.stack([g.weights for g in parts], axis=1)
    slopes = np.array([g.intercept for g in parts])
    shared = math.prod(intercept_shape) == 1  # one intercept for every output collects all of their slopes
    X = parts[0].X
    for part in parts[1:]:
        X = X + part.X
    return {
        "weights": weights[:, 0] if weights_ndim == 1 else weights,
        "intercept": float(slopes.sum()) if intercept_shape == () else slopes.sum(keepdims=True) if shared else slopes,
        "X": X,
    }


def _result(
    rows: RowResults, method: Method, share: Array, at_mean: Array, grad: dict[str, Any] | None
) -> ExpectedLoss:
    """The weighted mean over rows."""
    value, penalty = _mean(share, rows.value), _mean(share, rows.penalty)
    if rows.replicates is not None:
        error = penalty_error = rows.value_error
    else:
        adding = (len(share) + 8) * EPS
        error = _mean(share, rows.error) + adding * _mean(share, np.abs(rows.value))
        penalty_error = _mean(share, rows.penalty_error) + adding * _mean(share, np.abs(rows.penalty))
    return ExpectedLoss(
        value=value,
        error=error,
        guarantee=rows.guarantee,
        method=method,
        n_masks=rows.n_masks,
        per_example=rows.value,
        per_example_error=rows.error,
        weight_scaling_loss=_mean(share, at_mean),
        penalty=penalty,
        penalty_error=penalty_error,
        replicates=rows.replicates,
        replicate_masks=rows.replicate_masks,
        reliable=rows.guarantee != "uncontrolled" if rows.verdict is None else rows.verdict.reliable or rows.covered,
        per_example_reliable=rows.trusted,
        grad=grad,
        notes=rows.notes + _beyond("mean loss", rows.value),
    )


def _mean(share: Array, values: Array) -> float:
    """Σ share · values, in which a row of no weight counts for nothing, an infinite one too."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.where(share > 0, values, 0.0) @ share)


def expected_score(
    weights: ArrayLike,
    X: Any,
    p: ArrayLike,
    *,
    link: Link = "logistic",
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
    ScoreMoments with mean, variance (n,) and an error for each; `inf`, with a note, what no double can hold.

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
    method = _with_masks(method, None)
    if method is None:
        method = Fourier() if link == "logistic" else ClosedForm()
    problem.check_reach()
    inverse = {"logistic": expit, "identity": np.positive, "log": exp}[link]
    at_mean = inverse(problem.mean())
    unknown = np.full(problem.n, np.nan)
    if isinstance(method, Enumeration):
        with np.errstate(over="ignore", under="ignore"):
            moments = enumerated_moments(problem, link, method)
        return ScoreMoments(
            *moments, "exact", method, at_mean, notes=_beyond("mean", moments[0]) + _beyond("variance", moments[2])
        )
    if isinstance(method, GaussianMoments):
        nodes, node_weights = gauss_hermite()
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            values = inverse(problem.mean()[:, None] + np.sqrt(problem.variance())[:, None] * nodes)
            mean = values @ node_weights
            variance = (values - mean[:, None]) ** 2 @ node_weights
        return ScoreMoments(mean, unknown, variance, unknown, "uncontrolled", method, at_mean)
    if isinstance(method, Fourier) and link == "logistic":
        out, _, _ = logistic_moments(problem, method)
        mean, error = np.clip(out[:, 2], 0.0, 1.0), out[:, 1]
        variance_error = error * (2.0 + 2.0 * mean) + 8 * EPS
        # The difference cancels where nearly nothing varies: it is then 0 to within its own error.
        variance = np.maximum(mean - out[:, 3] - mean**2, 0.0)
        guarantee: Any = "exact" if method.tol <= 1e-12 else "bounded"
        return ScoreMoments(mean, error, variance, variance_error, guarantee, method, at_mean)
    if isinstance(method, ClosedForm) and link == "identity":
        variance = problem.variance()
        errors = problem.mean_error(), problem.variance_error(variance)
        return ScoreMoments(at_mean, errors[0], variance, errors[1], "exact", method, at_mean)
    if isinstance(method, ClosedForm) and link == "log":
        mean, mean_error, variance, variance_error, deviation = exponential_moments(problem)
        notes = _beyond_moments(mean, mean_error, variance, variance_error)
        return ScoreMoments(
            mean, mean_error, variance, variance_error, "exact", method, at_mean, deviation=deviation, notes=notes
        )
    raise MethodNotApplicable(
        method.name, f"it has no moments for the {link} link", "method=None, Enumeration() or GaussianMoments()"
    )


def _beyond(name: str, values: Array) -> tuple[str, ...]:
    """A note where one of them is no double."""
    if np.isfinite(values).all():
        return ()
    row = int(np.argmin(np.isfinite(values)))
    return (
        f"the {name} of row {row} is beyond the largest double, 1.8e308, and given as {values[row]}; scale that row or "
        "the weights down",
    )


def _beyond_moments(mean: Array, mean_error: Array, variance: Array, variance_error: Array) -> tuple[str, ...]:
    return _beyond("mean", mean) + _beyond("variance", variance)
