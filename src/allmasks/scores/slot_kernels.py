"""The Fourier rule with one step for many rows, and factors tabulated by slot and node. Compiled on first use.

The rule is `row_kernel.py`'s without enumerated units, and so are its bounds: a smaller step than a row needs only
lowers its aliasing, a later last node only its tail. Nodes come in eights, so that a table of factors stays small.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from allmasks.scores.every_row import row_units, sub_gaussian_constants
from allmasks.scores.lanes import LANES, gathered_product, gathered_sum, set_factors, tilted_part, times_factors, turn
from allmasks.scores.row_kernel import lane_powers, sigmoid, softplus
from allmasks.scores.tail_bounds import log_mgf_bound, quick_period_for, statistics
from allmasks.scores.threads import parallel

if TYPE_CHECKING:
    from allmasks.scores.score import ScoreProblem
    from allmasks.scores.slots import Slots

__all__ = ["Sums", "add_common", "number_entries", "row_periods", "saturated_rows", "spread_entries", "tabulated_rows"]

Array = NDArray[np.float64]

_EPS = 2.220446049250313e-16


@njit(cache=True)
def number_entries(data, indices, d, most):  # type: ignore[no-untyped-def]
    """Number pairs of (column, value) in order of appearance; -1 for a column's values beyond the first `most`."""
    of_entry = np.empty(len(data), np.int32)
    column, value = np.empty(len(data), np.int32), np.empty(len(data))
    newest, seen = np.full(d, -1, np.int32), np.zeros(d, np.int32)
    older = np.empty(len(data), np.int32)
    n_slots = 0
    for e in range(len(data)):
        j, x = indices[e], data[e]
        slot = newest[j]
        while slot >= 0 and value[slot] != x:
            slot = older[slot]
        if slot < 0 and seen[j] < most:
            slot = n_slots
            column[slot], value[slot], older[slot] = j, x, newest[j]
            newest[j] = slot
            seen[j] += 1
            n_slots += 1
        of_entry[e] = slot
    return of_entry, column[:n_slots].copy(), value[:n_slots].copy()


@njit(cache=True)
def spread_entries(of_entry, indptr, slot_start):  # type: ignore[no-untyped-def]
    """The lists of `slots.Slots`: slots by row, rows by slot, and entries without one (-1) by row."""
    n = len(indptr) - 1
    row_start, single_start = np.zeros(n + 1, np.int32), np.zeros(n + 1, np.int32)
    row_slot, slot_row = np.empty(slot_start[-1], np.int32), np.empty(slot_start[-1], np.int32)
    single = np.empty(len(of_entry) - slot_start[-1], np.int32)
    free = slot_start[:-1].copy()
    tabled = alone = 0
    for i in range(n):
        for e in range(indptr[i], indptr[i + 1]):
            slot = of_entry[e]
            if slot < 0:
                single[alone] = e
                alone += 1
            else:
                row_slot[tabled] = slot
                tabled += 1
                slot_row[free[slot]] = i
                free[slot] += 1
        row_start[i + 1], single_start[i + 1] = tabled, alone
    return row_start, row_slot, slot_start, slot_row, single_start, single


_LARGEST_VARIANCE = 1e200
"""Beyond it the bounds' own arithmetic overflows; the nodes of such a row are past any budget."""


@parallel()
def row_periods(data, indices, indptr, per_unit, rates, b, eps, chunks, rows):  # type: ignore[no-untyped-def]
    """rows (n, 6) = μ, Σ|a| + |b|, variance, what saturation leaves, factors, period.

    Period 0: no node is needed; infinite: a score so large that it overflows on the way.
    """
    n = len(indptr) - 1
    sub_gaussian = sub_gaussian_constants(rates)
    longest = 0
    for i in range(n):
        longest = max(longest, indptr[i + 1] - indptr[i])
    for chunk in prange(chunks):
        a, p, sub, _ = row_units(longest)
        for i in range(n * chunk // chunks, n * (chunk + 1) // chunks):
            mu, magnitude, m, factors = b, abs(b), 0, 0
            for e in range(indptr[i], indptr[i + 1]):
                j = indices[e]
                contribution = data[e] * per_unit[j]
                magnitude += abs(contribution)
                mu += contribution * (1.0 - rates[j])
                # A unit that is never dropped is a factor too, and its rounding counts.
                factors += contribution != 0.0
                if rates[j] > 0.0 and contribution != 0.0:
                    a[m], p[m], sub[m] = contribution, rates[j], sub_gaussian[j]
                    m += 1
            total_sub, var, largest, reach = statistics(a, p, sub, 0, m)
            excess = log_mgf_bound(1.0, total_sub, var, largest, reach) - abs(mu)
            left = math.exp(min(excess, 0.0)) + math.exp(-abs(mu))
            period = 0.0
            if m == 0:
                left = 0.0
            elif not (math.isfinite(mu) and var < _LARGEST_VARIANCE):
                period = math.inf
            elif left > 2.0 * eps:
                period = quick_period_for(abs(mu), eps, total_sub, var, largest, reach)
            row = rows[i]
            row[0], row[1], row[2], row[3], row[4], row[5] = mu, magnitude, var, left, factors, period


@njit(cache=True)
def saturated_rows(which, indptr, rows, common, out):  # type: ignore[no-untyped-def]
    """Rows whose scores all lie on one side, or do not vary: log(1 + e^S) is log(1 + e^μ) in the mean."""
    for i in which:
        mu, magnitude, left = rows[i, 0], rows[i, 1], rows[i, 3]
        sigma = sigmoid(mu)
        out[i, 0] = 0.0
        out[i, 1] = left + _rounding(indptr[i + 1] - indptr[i], magnitude, mu)
        out[i, 2], out[i, 3], out[i, 4] = sigma, sigma * (1.0 - sigma), mu
        common[i] = sigma


@njit(cache=True)
def _rounding(n_terms, magnitude, mu):  # type: ignore[no-untyped-def]
    return _EPS * ((n_terms + 12.0) * magnitude + 16.0 + 4.0 * softplus(mu))


@njit(cache=True)
def add_common(data, indices, indptr, common, of_rate, rate_per_unit, gradient):  # type: ignore[no-untyped-def]
    """gradient_j += Σᵢ xᵢⱼ (common_i + of_rate_i p_j a_ij)."""
    for i in range(len(indptr) - 1):
        for e in range(indptr[i], indptr[i + 1]):
            j, x = indices[e], data[e]
            gradient[j] += x * (common[i] + of_rate[i] * x * rate_per_unit[j])


@parallel(error_model="numpy")
def _start(a, p, h, chunks, lanes, steps, factors):  # type: ignore[no-untyped-def]
    """Powers 1 … 8 of each slot's e^{iah} in `lanes` (slots, 16), the eighth in `steps`, and the first factors."""
    m = len(a)
    for chunk in prange(chunks):
        for j in range(m * chunk // chunks, m * (chunk + 1) // chunks):
            z = lanes[j]
            steps[j, 0], steps[j, 1] = lane_powers(a[j] * h, z[:LANES], z[LANES:])
            set_factors(z, p[j], 1.0 - p[j], factors[j])


@parallel(error_model="numpy")
def _advance(p, slot_start, slot_row, tilt, want_grad, chunks, lanes, steps, factors, tilted):  # type: ignore[no-untyped-def]
    """Add these nodes' part of the gradient to `tilted` (slots,), and go on to the next eight."""
    m = len(p)
    for chunk in prange(chunks):
        total = np.empty(2 * LANES)
        for j in range(m * chunk // chunks, m * (chunk + 1) // chunks):
            z = lanes[j]
            q = 1.0 - p[j]
            if want_grad:
                gathered_sum(tilt, slot_row, slot_start[j], slot_start[j + 1], total)
                tilted[j] += tilted_part(total, z, p[j], q)
            turn(z, steps[j, 0], steps[j, 1])
            set_factors(z, p[j], q, factors[j])


@parallel(fastmath={"contract"}, error_model="numpy")
def _single_factors(  # type: ignore[no-untyped-def]
    which, single_start, single, data, indices, per_unit, rates, h, chunks, alone
):
    """alone (rows, nodes / 8, 16) = Π of the factors of the entries without a slot."""
    for chunk in prange(chunks):
        z = np.empty(2 * LANES)
        for number in range(len(which) * chunk // chunks, len(which) * (chunk + 1) // chunks):
            i = which[number]
            row = alone[number]
            row[:, :LANES], row[:, LANES:] = 1.0, 0.0
            for u in range(single_start[i], single_start[i + 1]):
                j = indices[single[u]]
                p = rates[j]
                q = 1.0 - p
                sr, si = lane_powers(data[single[u]] * per_unit[j] * h, z[:LANES], z[LANES:])
                for block in range(len(row)):
                    times_factors(z, p, q, row[block])
                    turn(z, sr, si)


@njit(cache=True, error_model="numpy")
def _single_gradient(  # type: ignore[no-untyped-def]
    which, single_start, single, data, indices, per_unit, rates, h, share, alone, gradient
):
    """Σ_k Im(H_k z_k / (p + q z_k)) of each entry without a slot, times its share, added to the gradient."""
    z = np.empty(2 * LANES)
    for number in range(len(which)):
        i = which[number]
        row = alone[number]
        for u in range(single_start[i], single_start[i + 1]):
            j = indices[single[u]]
            p = rates[j]
            q = 1.0 - p
            sr, si = lane_powers(data[single[u]] * per_unit[j] * h, z[:LANES], z[LANES:])
            part = 0.0
            for block in range(len(row)):
                part += tilted_part(row[block], z, p, q)
                turn(z, sr, si)
            gradient[j] += share[i] * data[single[u]] * part


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _by_node(b, h, n_nodes):  # type: ignore[no-untyped-def]
    """(nodes / 8, 7, 8), by eights of nodes:

    h / (t sinh πt), h / sinh πt, h t / sinh πt, e^{ibt}, the larger of the first and third, and that times the
    round-off of the powers of an e^{iθ}.
    """
    nodes = np.empty((n_nodes // LANES, 7, LANES))
    zr, zi = np.empty(LANES), np.empty(LANES)
    sr, si = lane_powers(b * h, zr, zi)
    for block in range(n_nodes // LANES):
        here = nodes[block]
        # As in the row kernel: z^LANES is off by at most 20 units in the last place and its powers by 22 more a step.
        powers = 26.0 + 22.0 * (block + 1.0)
        for lane in range(LANES):
            t = (block * LANES + lane + 1) * h
            weight = -2.0 * h * math.exp(-math.pi * t) / math.expm1(-2.0 * math.pi * t)
            x, y = zr[lane], zi[lane]
            here[0, lane], here[1, lane], here[2, lane] = weight / t, weight, weight * t
            here[3, lane], here[4, lane] = x, y
            here[5, lane] = max(weight / t, weight * t)
            here[6, lane] = powers * here[5, lane]
            zr[lane], zi[lane] = x * sr - y * si, x * si + y * sr
    return nodes


@parallel(fastmath={"contract"}, error_model="numpy")
def _row_nodes(  # type: ignore[no-untyped-def]
    which, block, nodes, row_start, row_slot, factors, alone, share, units, chunks, turns, sums, tilt
):
    """Eight nodes of the rows `which`: their part of the integrals added to `sums` (rows, 5), and H in `tilt` (n, 16).

    turns (rows, 18) : e^{iμt} at these nodes, and what takes it to the next.
    """
    off_sum = 0.5 * nodes.shape[0] * LANES + 12.0
    at = nodes[block]
    for chunk in prange(chunks):
        phi = np.empty(2 * LANES)
        for number in range(len(which) * chunk // chunks, len(which) * (chunk + 1) // chunks):
            i = which[number]
            gathered_product(factors, row_slot, row_start[i], row_start[i + 1], phi)
            if len(alone) > 0:
                others = alone[number, block]
                for lane in range(LANES):
                    r, m, x, y = phi[lane], phi[LANES + lane], others[lane], others[LANES + lane]
                    phi[lane], phi[LANES + lane] = r * x - m * y, r * y + m * x
            here, total, out, by = turns[number], sums[number], tilt[i], share[i]
            sr, si = here[2 * LANES], here[2 * LANES + 1]
            value = slope = curvature = plain = apart = powers = 0.0
            for lane in range(LANES):
                r, m, x, y = phi[lane], phi[LANES + lane], at[3, lane], at[4, lane]
                fr, fi = x * r - y * m, x * m + y * r
                cr, ci = here[lane], here[LANES + lane]
                here[lane], here[LANES + lane] = cr * sr - ci * si, cr * si + ci * sr
                weight = at[1, lane]
                value += (cr - fr) * at[0, lane]
                slope += (fi - ci) * weight
                curvature += (fr - cr) * at[2, lane]
                plain += ci * weight
                apart += (abs(cr - fr) + abs(ci - fi)) * at[5, lane]
                powers += at[6, lane]
                phi[lane], phi[LANES + lane] = fr * weight, fi * weight
            for lane in range(2 * LANES):
                out[lane] = by * phi[lane]
            if len(alone) > 0:
                others = alone[number, block]
                for lane in range(2 * LANES):
                    others[lane] = phi[lane]
            total[0] += value
            total[1] += slope
            total[2] += curvature
            total[3] += plain
            # Rounding of e^{iμt}, of e^{ibt} and of φ; then of the terms and of the sum they enter.
            total[4] += _EPS * ((2.0 + units[i]) * powers + off_sum * apart)


@njit(cache=True, error_model="numpy")
def _finish(which, indptr, rows, eps, h, sums, common, of_rate, out):  # type: ignore[no-untyped-def]
    for number in range(len(which)):
        i = which[number]
        mu, magnitude, var = rows[i, 0], rows[i, 1], rows[i, 2]
        value, slope, curvature, plain, off = sums[number]
        # The first node, t = 0, gives half of σ²/2π.
        at_zero = 0.25 * h * var / math.pi
        sigma = sigmoid(mu)
        out[i, 0] = value + at_zero
        out[i, 1] = 3.0 * eps + off + 16.0 * _EPS * at_zero + _rounding(indptr[i + 1] - indptr[i], magnitude, mu)
        out[i, 2] = sigma + slope
        out[i, 3] = max(sigma * (1.0 - sigma) + curvature, 0.0)
        out[i, 4] = mu
        common[i], of_rate[i] = sigma - plain, h / (2.0 * math.pi)


class Sums(NamedTuple):
    """What groups of rows add to.

    common, of_rate : (n,) what all slopes of a row share, and the share of p a in them: see `add_common`.
    tilted, gradient : (slots,) and (d,), what each slot, and each entry without one, adds to the gradient beside them.
    out : (n, 5), see `every_row`.
    """

    common: Array
    of_rate: Array
    tilted: Array
    gradient: Array
    out: Array


def tabulated_rows(
    which: NDArray[np.int64],
    problem: ScoreProblem,
    slots: Slots,
    units: tuple[Array, Array],
    eps: float,
    h: float,
    n_nodes: int,
    rows: Array,
    grads: bool,
    sums: Sums,
) -> None:
    """Moments of the rows `which`, all with step h and n_nodes, a multiple of LANES.

    Parameters
    ----------
    units : contributions and rates of the slots, (slots,) each.
    rows : (n, 6) of `row_periods`.
    """
    x, per_unit, rates, share = problem.X, problem.per_unit, problem.p, problem.share
    (a, p), row_chunks, slot_chunks = units, min(64, len(which)), max(1, min(64, len(slots)))
    lanes, factors, steps = np.empty((len(a), 2 * LANES)), np.empty((len(a), 2 * LANES)), np.empty((len(a), 2))
    alone = np.empty((len(which) if len(slots.single) else 0, n_nodes // LANES, 2 * LANES))
    singles = (which, slots.single_start, slots.single, x.data, x.indices, per_unit, rates, h)
    if len(slots.single):
        _single_factors(*singles, row_chunks, alone)
    turns, own, tilt = _turns(which, rows, h), np.zeros((len(which), 5)), np.zeros((problem.n, 2 * LANES))
    nodes, factor_counts = _by_node(problem.intercept, h, n_nodes), rows[:, 4].copy()
    _start(a, p, h, slot_chunks, lanes, steps, factors)
    for block in range(n_nodes // LANES):
        of_rows = (slots.row_start, slots.row_slot, factors, alone, share, factor_counts, row_chunks, turns, own, tilt)
        _row_nodes(which, block, nodes, *of_rows)
        if grads or (block + 1) * LANES < n_nodes:
            _advance(p, slots.slot_start, slots.slot_row, tilt, grads, slot_chunks, lanes, steps, factors, sums.tilted)
    if grads and len(slots.single):
        _single_gradient(*singles, share, alone, sums.gradient)
    _finish(which, x.indptr, rows, eps, h, own, sums.common, sums.of_rate, sums.out)


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _turns(which, rows, h):  # type: ignore[no-untyped-def]
    turn = np.empty((len(which), 2 * LANES + 2))
    for number in range(len(which)):
        here = turn[number]
        step = lane_powers(rows[which[number], 0] * h, here[:LANES], here[LANES : 2 * LANES])
        here[2 * LANES], here[2 * LANES + 1] = step
    return turn
