"""Dropped-out linear scores: their mean loss over all masks, and their moments, in NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

from allmasks.errors import MethodNotApplicable
from allmasks.losses import ClassCrossEntropy, score_loss
from allmasks.methods import METHODS, Method, MonteCarlo
from allmasks.methods.base import Answer, ClassesAsked, LossAsked, Refusal
from allmasks.methods.monte_carlo import asked_for
from allmasks.results import GUARANTEES, ExpectedLoss, ScoreMoments
from allmasks.scores.class_scores import check_classes, check_targets
from allmasks.scores.links import INVERSE, Link
from allmasks.scores.score import EPS, Gradient, RowResults, ScoreProblem, check_inputs

__all__ = ["expected_score", "expected_score_loss"]

Array = NDArray[np.float64]
T = TypeVar("T")

_QUICK_MASKS = 2**12
"""Up to this many masks are simply listed: a callable's mean is then exact, where its series is only an estimate."""


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
    weights : (d,), or (d, k) for k outputs whose squared or logistic losses are summed; (K, d) for "cross_entropy".
    X : (n, d) array or SciPy sparse matrix, which stays sparse.
    y : (n,), or (n, k). "cross_entropy": class numbers (n,), or shares of the classes (n, K).
    p : drop rate, one or (d,), each in [0, 1).
    loss : "squared_error" (S − y)², "logistic" log(1 + e^S) − yS, "poisson" e^S − yS, "exponential" e^(−yS),
        "cross_entropy" log Σ_k e^(S_k) − S_y of K classes that share each mask, or a smooth function of (score) or of
        (score, y) that works on arrays.
    intercept : b, a number or (k,).
    method : a value of `am.methods`. None: `ClosedForm` where there is one, `Fourier` for the logistic loss, and
        for a callable `Enumeration` of up to 12 units, else its trigonometric series (guarantee "estimated"); for
        "cross_entropy" likewise, else `SoftmaxBounds`, and where those are too wide samples of 256 masks a row.
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
    the Fourier form is this library's own (see `allmasks.scores.characteristic`).

    Example
    -------
    >>> import allmasks as am
    >>> result = am.expected_score_loss([1.0, -1.0, 2.0], [[1.0, 2.0, -1.0]], [0.0], 0.5, loss="squared_error")
    >>> float(result.value), float(result.weight_scaling_loss), float(result.penalty)
    (18.0, 9.0, 9.0)
    """
    if isinstance(loss, str) and loss == ClassCrossEntropy.name:
        given = weights, X, y, p, intercept, sample_weight
        return _of_classes(given, _with_masks(method, n_masks), seed, return_grad)
    the_loss = score_loss(loss)
    w, rows, rates, b, targets, share = check_inputs(weights, X, p, intercept, y, sample_weight)
    assert targets is not None
    the_loss.check(targets)
    _check_seed(seed)
    k = w.shape[1]
    if k > 1 and not the_loss.sums_outputs:
        raise ValueError(f"several outputs are for squared_error and logistic, got weights of shape {w.shape}")
    method = _with_masks(method, n_masks)
    problems = [ScoreProblem(w[:, c].copy(), rows, rates, float(b[c]), share) for c in range(k)]
    for problem in problems:
        problem.check_reach()
    asked = LossAsked(problems, targets, the_loss, seed, return_grad)
    used, answer = _settled(method, lambda m: m.on_scores(asked))
    total = answer.run()
    at_mean = np.sum([the_loss.value(q.mean(), targets[:, c]) for c, q in enumerate(problems)], axis=0)
    grad = _joined(total.gradients, np.ndim(weights), np.shape(intercept)) if return_grad else None
    return _result(total, used, share, at_mean, grad)


def _of_classes(given: tuple[Any, ...], method: Method | None, seed: int, want_grad: bool) -> ExpectedLoss:
    """The cross-entropy of several classes under one mask for all."""
    weights, X, y, p, intercept, sample_weight = given
    problem = check_classes(weights, X, p, intercept, sample_weight)
    targets = check_targets(y, problem.n, problem.classes)
    _check_seed(seed)
    asked = ClassesAsked(problem, targets, seed, want_grad, MonteCarlo() if method is None else None)
    used, answer = _settled(method, lambda m: m.on_classes(asked))
    total = answer.run()
    grad = None
    if want_grad:
        (found,) = total.gradients
        whole = float(found.intercept.sum()) if np.ndim(intercept) == 0 else found.intercept
        grad = {"weights": found.weights, "intercept": whole, "X": found.X}
    return _result(total, used, problem.share, problem.at_mean(targets)[0], grad)


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be an integer from 0 to 2**64 - 1, got {seed}")


def _with_masks(method: Method | None, n_masks: int | None) -> Method | None:
    if method is not None and not isinstance(method, Method):
        raise TypeError(f"method must be a value of am.methods, such as am.methods.Fourier(), got {method!r}")
    if n_masks is not None and (method is None or isinstance(method, MonteCarlo)):
        return asked_for(method, n_masks)
    return method


def _settled(method: Method | None, way: Callable[[Method], Answer[T] | Refusal]) -> tuple[Method, Answer[T]]:
    """The method asked for; else the strongest guarantee that needs few masks, then the fewest masks."""
    found = way(method) if method is not None else None
    if method is not None and isinstance(found, Answer):
        return method, found
    able = [(own, answer) for own in METHODS if isinstance(answer := way(own), Answer)]
    controlled = [pair for pair in able if pair[1].guarantee != "uncontrolled"]
    chosen = min((pair for pair in controlled if pair[1].masks <= _QUICK_MASKS), key=lambda pair: _rank(pair[1]))
    if method is None:
        return chosen
    assert isinstance(found, Refusal)
    best = [pair for pair in controlled if not any(_beats(other, pair[1]) for _, other in controlled)]
    others = sorted((pair for pair in able if pair is not chosen), key=lambda pair: _rank(pair[1]))
    words = {"best": _names(best), "formula": _names(p for p in best if not p[1].masks), "all": _names(others, " or ")}
    raise MethodNotApplicable(method.name, found.needs, found.instead.format(**words))


def _names(ways: Iterable[tuple[Method, Any]], last: str = ", ") -> str:
    names = [f"{method.name}()" for method, _ in ways]
    return last.join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def _rank(answer: Answer[Any]) -> tuple[int, float]:
    return list(GUARANTEES).index(answer.guarantee), answer.masks


def _beats(other: Answer[Any], answer: Answer[Any]) -> bool:
    """Whether another answer is no worse in guarantee or masks, and better in one."""
    (rank, masks), (own_rank, own_masks) = _rank(other), _rank(answer)
    return rank <= own_rank and masks <= own_masks and (rank, masks) != (own_rank, own_masks)


@np.errstate(over="ignore", invalid="ignore")  # two outputs may be infinite, and either way
def _joined(parts: tuple[Gradient, ...], weights_ndim: int, intercept_shape: tuple[int, ...]) -> dict[str, Any]:
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
        bound=rows.bound,
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
    link: Link | Literal["softmax"] = "logistic",
    intercept: ArrayLike = 0.0,
    method: Method | None = None,
) -> ScoreMoments:
    """Mean and variance over all masks of link⁻¹(S): of σ(S), of S, or of e^S, for each row.

    Parameters
    ----------
    weights, X, p, intercept : as in `expected_score_loss`, one output; for "softmax" weights (K, d).
    link : "logistic": σ(S) = 1 / (1 + e^−S); "identity": S; "log": e^S; "softmax": e^(S_k) / Σ e^S of K classes that
        share each mask.
    method : None for the exact one (`Fourier` for the logistic link, else `ClosedForm`), `Enumeration`, or the
        approximation `GaussianMoments`; for "softmax" `Enumeration` of up to 12 units, else `SoftmaxBounds`, with the
        width that they have.

    Returns
    -------
    ScoreMoments with mean, variance (n,), of classes (n, K), and an error for each; `inf`, with a note, what no double
    can hold.

    Example
    -------
    >>> import allmasks as am
    >>> moments = am.expected_score([2.0], [[1.0]], 0.5)  # σ(0) or σ(4), each with probability ½
    >>> moments.mean.round(6), moments.std.round(6), moments.guarantee
    (array([0.741007]), array([0.241007]), 'exact')
    """
    if link == "softmax":
        return _of_shares(weights, X, p, intercept, _with_masks(method, None))
    w, rows, rates, b, _, share = check_inputs(weights, X, p, intercept, None, None)
    if w.shape[1] != 1:
        raise ValueError(f"expected_score takes one output, weights of shape (d,), got {np.shape(weights)}")
    if link not in ("logistic", "identity", "log"):
        raise ValueError(f'link must be "logistic", "identity", "log" or "softmax", got {link!r}')
    problem = ScoreProblem(w[:, 0].copy(), rows, rates, float(b[0]), share)
    problem.check_reach()
    used, answer = _settled(_with_masks(method, None), lambda m: m.on_moments(problem, link))
    with np.errstate(over="ignore", under="ignore"):
        found = answer.run()
    notes: tuple[str, ...] = ()
    if answer.guarantee != "uncontrolled":
        notes = _beyond("mean", found.mean) + _beyond("variance", found.variance)
    at_mean = INVERSE[link](problem.mean())
    return ScoreMoments(*found[:4], answer.guarantee, used, at_mean, deviation=found.deviation, notes=notes)


def _of_shares(weights: ArrayLike, X: Any, p: ArrayLike, intercept: ArrayLike, method: Method | None) -> ScoreMoments:
    """Mean and variance of each class's softmax, (n, K)."""
    problem = check_classes(weights, X, p, intercept, None)
    used, answer = _settled(method, lambda m: m.on_shares(problem))
    found = answer.run()
    return ScoreMoments(*found[:4], answer.guarantee, used, softmax(problem.mean(), axis=1))


def _beyond(name: str, values: Array) -> tuple[str, ...]:
    """A note where one of them is no double."""
    if np.isfinite(values).all():
        return ()
    row = int(np.argmin(np.isfinite(values)))
    return (
        f"the {name} of row {row} is beyond the largest double, 1.8e308, and given as {values[row]}; scale that row or "
        "the weights down",
    )
