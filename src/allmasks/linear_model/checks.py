"""Numbers that estimators take, checked."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

__all__ = ["check_number"]


def check_number(name: str, value: Any, *, lowest: float) -> float:
    """A finite number of at least `lowest`.

    Raises
    ------
    TypeError, ValueError : that name the parameter, what it was and what it may be.

    >>> check_number("alpha", 0.1, lowest=0.0)
    0.1
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    number = float(value)
    if not math.isfinite(number) or number < lowest:
        raise ValueError(f"{name} must be finite and at least {lowest:g}, got {value!r}")
    return number
