"""What `class_weight` makes of the rows' own weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["class_factors"]


def class_factors(class_weight: Any, labels: list[Any], mass: Mapping[Any, float]) -> dict[Any, float] | None:
    """The factor of each class; None where there are none.

    labels : the classes. mass : the weight of each one's rows, which "balanced" makes alike: a row twice is a row of
    weight 2, and a class whose rows weigh nothing is not there.

    Raises
    ------
    ValueError : anything but None, "balanced" and a dict of class: weight, 0 or more.

    >>> class_factors("balanced", ["a", "b"], {"a": 3.0, "b": 1.0})
    {'a': 0.6666666666666666, 'b': 2.0}
    """
    if class_weight is None:
        return None
    if isinstance(class_weight, Mapping):
        factors = {label: float(class_weight.get(label, 1.0)) for label in labels}
        bad = [label for label, factor in factors.items() if not 0.0 <= factor < float("inf")]
        if bad:
            raise ValueError(f"class_weight must be finite and 0 or more, got {factors[bad[0]]:g} for class {bad[0]!r}")
        return factors
    if isinstance(class_weight, str) and class_weight == "balanced":
        there = [label for label in labels if mass[label] > 0.0]
        total = sum(mass[label] for label in there)
        return {label: total / (len(there) * mass[label]) if mass[label] > 0.0 else 1.0 for label in labels}
    raise ValueError(f'class_weight must be None, "balanced" or a dict, got {class_weight!r}')
