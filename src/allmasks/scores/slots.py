"""Features of few values: what an entry adds to a score is worked out once for all rows that have it.

An entry contributes aᵢⱼ = wⱼ xᵢⱼ / qⱼ. In binary rows that is one number a feature, in counts one for each feature and
count: a slot. Rows that share the step h share the factors p + q e^{iakh} of a slot, and its part of the gradient,

    Im Σᵢ Σ_k H_ik z_k / (p + q z_k) = Im Σ_k (Σᵢ H_ik) z_k / (p + q z_k),   z_k = e^{iakh},

needs the sum over its rows alone: a complex multiplication and an addition for each entry and node, no trigonometry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allmasks.scores.score import ScoreProblem

__all__ = ["Slots", "find_slots", "tabulated_moments"]

Array = NDArray[np.float64]
Index = NDArray[np.int32]

_MOST_VALUES = 8
"""Values of one feature that are told apart; of a feature with more, the others have no slot."""

_MOST_NODES = 256

_SPREAD = (0.5, 0.9, 1.0)
"""Rows are cut in groups of one step each at some of these quantiles of the step that they need."""


@dataclass(frozen=True)
class Slots:
    """Pairs of a feature and a value that occur more than once, the most frequent first, and where they occur.

    column, value : (slots,).
    row_start, row_slot : slots of row i are row_slot[row_start[i] : row_start[i + 1]].
    slot_start, slot_row : rows of a slot, likewise.
    single_start, single : places in the CSR arrays of the entries of row i that have no slot, likewise.
    """

    column: Index
    value: Array
    row_start: Index
    row_slot: Index
    slot_start: Index
    slot_row: Index
    single_start: Index
    single: Index

    def __len__(self) -> int:
        return len(self.column)


def find_slots(X: Any) -> Slots | None:
    """Slots of CSR rows, or None where fewer than half of the entries have one.

    >>> from scipy import sparse
    >>> slots = find_slots(sparse.csr_matrix([[1.0, 0.0], [1.0, 2.0], [1.0, 2.0], [0.0, 3.0]]))
    >>> slots.column, slots.value, slots.row_slot, slots.single
    (array([0, 1], dtype=int32), array([1., 2.]), array([0, 0, 1, 0, 1], dtype=int32), array([5], dtype=int32))
    """
    from allmasks.scores.slot_kernels import number_entries, spread_entries

    if X.nnz == 0 or X.nnz >= 2**31:
        return None
    of_entry, column, value = number_entries(X.data, X.indices, X.shape[1], _MOST_VALUES)
    count = np.bincount(of_entry[of_entry >= 0], minlength=len(column))
    n_slots = int((count > 1).sum())
    if 2 * int(count[count > 1].sum()) < X.nnz:
        return None
    order = np.argsort(-count, kind="stable")[:n_slots]
    number = np.full(len(column) + 1, -1, np.int32)  # the last is that of -1
    number[order] = np.arange(n_slots, dtype=np.int32)
    slot_start = np.zeros(n_slots + 1, np.int32)
    np.cumsum(count[order], out=slot_start[1:])
    return Slots(column[order], value[order], *spread_entries(number[of_entry], X.indptr, slot_start))


def tabulated_moments(
    problem: ScoreProblem, slots: Slots, tol: float, max_nodes: int, grads: bool, out: Array
) -> tuple[Array, NDArray[np.int64]]:
    """Fill `out` (n, 5) as `every_row.sparse_rows` does, but for some rows whose scores spread too far.

    Returns the gradient with respect to the weights of Σ share · E log(1 + e^S), (d,), and those rows.
    """
    from allmasks.scores import slot_kernels as kernels
    from allmasks.scores.lanes import LANES
    from allmasks.scores.tail_bounds import last_node_at

    x, b = problem.X, problem.intercept
    per_unit, rates = problem.per_unit, problem.p
    eps = min(0.01 * tol, 0.01)
    t_end = float(last_node_at(eps))
    chunks = max(1, min(64, problem.n))
    rows = np.empty((problem.n, 6))
    kernels.row_periods(x.data, x.indices, x.indptr, per_unit, rates, b, eps, chunks, rows)
    period = rows[:, 5]
    # By row: what all entries' slopes E[σ(S) m]/q share, and the share of p a in them.
    common, of_rate = np.zeros(problem.n), np.zeros(problem.n)
    kernels.saturated_rows(np.flatnonzero(period == 0.0), x.indptr, rows, common, out)
    blocks = t_end * period / (2.0 * np.pi * LANES)
    fits = np.ceil(blocks) * LANES <= min(max_nodes, _MOST_NODES)
    units = slots.value * per_unit[slots.column], rates[slots.column]
    sums = kernels.Sums(common, of_rate, np.zeros(len(slots)), np.zeros(problem.d), out)
    lowest = 0.0
    for highest in _groups(blocks[(blocks > 0.0) & fits], len(slots) / max(len(x.indices), 1)):
        which = np.flatnonzero((blocks > lowest) & (blocks <= highest))
        lowest, h = highest, 2.0 * np.pi / float(period[which].max(initial=1.0))
        n_nodes = int(np.ceil(t_end / h / LANES)) * LANES
        kernels.tabulated_rows(which, problem, slots, units, eps, h, n_nodes, rows, grads, sums)
    if grads:
        gradient = sums.gradient
        gradient += np.bincount(slots.column, slots.value * sums.tilted, problem.d)
        common *= problem.share
        of_rate *= problem.share
        kernels.add_common(x.data, x.indices, x.indptr, common, of_rate, rates * per_unit, gradient)
    return sums.gradient, np.flatnonzero((period > 0.0) & ~fits)


def _groups(blocks: Array, per_entry: float) -> list[float]:
    """Ends of the ranges of `blocks` (of nodes that rows need) that share one step, at least cost.

    per_entry : slots for each entry.
    """
    if not len(blocks):
        return []
    shares = np.array(_SPREAD)
    edges = np.quantile(blocks, shares, method="inverted_cdf")

    def cost(ends: list[int]) -> float:
        # A slot's nodes, and half of what an entry's cost, come again in each group.
        own = np.diff(shares[ends], prepend=0.0)
        return float(np.ceil(edges[ends]) @ (own + 0.5 + 8.0 * per_entry))

    best = min(([2], [0, 2], [1, 2], [0, 1, 2]), key=cost)
    return [float(edge) for edge in edges[best]]
