"""One row's units, put in the order in which they are dealt with. Compiled on first use."""

from __future__ import annotations

from numba import njit

__all__ = ["largest_to_front", "small_to_back"]


@njit(cache=True)
def _swap(units, i, j):  # type: ignore[no-untyped-def]
    a, p, sub, column = units
    a[i], a[j] = a[j], a[i]
    p[i], p[j] = p[j], p[i]
    sub[i], sub[j] = sub[j], sub[i]
    column[i], column[j] = column[j], column[i]


@njit(cache=True)
def largest_to_front(units, m, k):  # type: ignore[no-untyped-def]
    """The k units of largest |a| come first, largest first."""
    a = units[0]
    for i in range(k):
        top = i
        for j in range(i + 1, m):
            if abs(a[j]) > abs(a[top]):
                top = j
        _swap(units, i, top)


@njit(cache=True)
def small_to_back(units, lo, m, cut):  # type: ignore[no-untyped-def]
    """Units with |a| ≤ cut move behind the others; returns where they begin."""
    a = units[0]
    i, end = lo, m
    while i < end:
        if abs(a[i]) <= cut:
            end -= 1
            _swap(units, i, end)
        else:
            i += 1
    return end
