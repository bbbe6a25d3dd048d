"""Rows between proven bounds, and the rest sampled: one mean whose error has a part of each kind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from allmasks.losses import ClassCrossEntropy
from allmasks.results import Note
from allmasks.sampling import Sampling
from allmasks.scores.class_scores import ClassProblem, over_classes
from allmasks.scores.sampled import sampled_losses
from allmasks.scores.score import Gradient, RowResults
from allmasks.scores.softmax import Bounds, Rule, bounded_losses

__all__ = ["mixed_losses"]

Array = NDArray[np.float64]


def mixed_losses(
    problem: ClassProblem,
    targets: Array,
    found: Bounds,
    wide: NDArray[np.bool_],
    rule: Rule,
    method: Sampling,
    seed: int,
    want_grad: bool,
) -> RowResults:
    """The bounded rows as they are, and the wide ones sampled under the masks that they have in any case."""
    rows = np.flatnonzero(wide)
    weight = float(problem.share[rows].sum())
    some = problem.where(rows)
    some = replace(some, share=some.share / weight if weight else np.full(len(rows), 1.0 / len(rows)))
    drawn = sampled_losses(some.each, targets[rows], ClassCrossEntropy(), method, seed, want_grad, rows)
    total = found.results(problem, targets)
    assert drawn.replicates is not None
    bounded = np.where(wide, 0.0, problem.share)
    gradients: tuple[Gradient, ...] = ()
    if want_grad:
        own = bounded_losses(replace(problem, share=bounded), targets, rule, True).gradient
        assert own is not None
        gradients = (_with(own, over_classes(drawn.gradients), rows, weight),)
    value, error = total.value.copy(), total.error.copy()
    penalty, penalty_error = total.penalty.copy(), total.penalty_error.copy()
    for whole, part in ((value, drawn.value), (error, drawn.error)):
        whole[rows] = part
    penalty[rows], penalty_error[rows] = drawn.penalty, drawn.penalty_error
    trusted = np.ones(problem.n, bool)
    if drawn.trusted is not None:
        trusted[rows] = drawn.trusted
    bound = float(bounded @ np.where(wide, 0.0, total.error))
    note = Note(
        "{rows} of {n} rows were sampled: no bound of theirs is within tol. The others add {bound} to the error, which "
        "is proven.",
        rows=len(rows),
        n=problem.n,
        bound=f"{bound:.2g}",
    )
    return replace(
        drawn,
        value=value,
        error=error,
        penalty=penalty,
        penalty_error=penalty_error,
        replicates=weight * drawn.replicates + float(bounded @ np.where(wide, 0.0, total.value)),
        value_error=weight * drawn.value_error + bound,
        bound=bound,
        trusted=trusted,
        gradients=gradients,
        notes=(note, *drawn.notes),
    )


def _with(own: Gradient, drawn: Gradient, rows: NDArray[np.int64], weight: float) -> Gradient:
    """The gradient of the bounded rows, with that of the sampled ones put in."""
    if sparse.issparse(own.X):
        # On the pattern of X: what is stored as 0 stays.
        X = own.X.copy()
        entries = np.concatenate([np.arange(X.indptr[i], X.indptr[i + 1]) for i in rows])
        X.data[entries] += weight * drawn.X.data
    else:
        X = own.X.copy()
        X[rows] += weight * drawn.X
    return Gradient(own.weights + weight * drawn.weights, own.intercept + weight * drawn.intercept, X)
