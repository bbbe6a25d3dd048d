"""What the library raises, beyond Python's own ValueError and TypeError."""

from __future__ import annotations

from pathlib import Path

__all__ = ["DropoutWrong", "MethodNotApplicable", "RankFailed", "UncontrolledRandomness"]

WAY_ON = "docs/how-to/my-model-was-refused.md"
"""The page that goes through what a model may be refused for, and what to do about each."""


def with_way_on(refusal: str) -> str:
    """A sentence that refuses a model, with the page that says how to go on; the page is named once.

    >>> with_way_on("its masks cannot be keyed")
    'its masks cannot be keyed (how to go on: docs/how-to/my-model-was-refused.md)'
    """
    return refusal if Path(WAY_ON).stem in refusal else f"{refusal} (how to go on: {WAY_ON})"


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
    """The model draws random numbers that allmasks cannot key, so its answer would not be one number.

    The message ends with the page that says how to go on.
    """

    def __init__(self, refusal: str) -> None:
        super().__init__(with_way_on(refusal))


class RankFailed(RuntimeError):
    """Another process of a distributed call raised, so this one has no answer either."""

    def __init__(self, rank: int, size: int, text: str) -> None:
        self.rank = rank
        super().__init__(f"rank {rank} of {size} failed: {text}")


class DropoutWrong(AssertionError):
    """A step's dropout is not what it should be: raised by `Verification.raise_if_failed`, with the diagnosis."""
