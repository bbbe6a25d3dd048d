"""The lab: every statement of the founding notes as a picture with a handle on it, in their order.

A chapter is a function of its controls; one page draws any of them, served live or written with its answers inside.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module

from allmasks.lab.protocol import Answer, Chapter, Control, Number, Question

__all__ = ["Answer", "Chapter", "Control", "Number", "Question", "chapter", "chapters"]

_MODULES = (
    "l01_one_mask",
    "l02_all_masks",
    "l03_linear_is_ridge",
    "l04_three_errors",
    "l05_monte_carlo",
    "l06_ensemble",
    "l07_training",
    "l08_units",
    "l09_against_l2",
    "l10_uncertainty",
    "l11_claims",
)


@cache
def chapters() -> tuple[Chapter, ...]:
    """All chapters in the order of the notes."""
    return tuple(import_module(f"allmasks.lab.pictures.{name}").CHAPTER for name in _MODULES)


def chapter(which: int | str) -> Chapter:
    """A chapter by its number or its name.

    Raises
    ------
    ValueError : there is no such chapter.

    >>> chapter(1).key, chapter("all-masks").number
    ('one-mask', 2)
    """
    for found in chapters():
        if str(which) in (str(found.number), found.key):
            return found
    listed = ", ".join(f"{c.number} {c.key}" for c in chapters())
    raise ValueError(f"there is no chapter {which!r}; there are {listed}")
