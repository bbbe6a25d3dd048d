"""What the library raises, beyond Python's own ValueError and TypeError."""

from __future__ import annotations

__all__ = ["MethodNotApplicable", "RankFailed", "UncontrolledRandomness"]


class MethodNotApplicable(ValueError):
    """A method was asked for where its assumptions do not hold, or its budget does not reach.

    The message says which method, what it needs, and which others would do.
    """

    def __init__(self, method: str, needs: str, try_instead: str = "") -> None:
        self.method = method
        self.needs = needs
        self.try_instead = try_instead
        remedy = f" Try {try_instead}." if try_instead else ""
        super().__init__(f"{method} does not apply here: {needs}.{remedy}")


class UncontrolledRandomness(ValueError):
    """The model draws random numbers that allmasks cannot key, so its answer would not be one number."""


class RankFailed(RuntimeError):
    """Another process of a distributed call raised, so this one has no answer either."""

    def __init__(self, rank: int, size: int, text: str) -> None:
        self.rank = rank
        super().__init__(f"rank {rank} of {size} failed: {text}")
