"""Handles that several chapters share, and numbers as sentences say them."""

from __future__ import annotations

from allmasks.lab.protocol import Control
from allmasks.language import Text
from allmasks.report.text import number

__all__ = ["RATES", "STATIC_RATES", "rate_control", "say"]

RATES = tuple(round(i / 100, 2) for i in range(0, 96))
STATIC_RATES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def rate_control(start: float = 0.5, grid: tuple[float, ...] = STATIC_RATES) -> Control:
    """The drop rate, 0 … 0.95."""
    return Control("p", Text("drop rate p", "드롭율 p"), RATES, start, grid=grid)


def say(value: float) -> str:
    """A number within a sentence: four digits are enough to hear."""
    return number(value, 4)
