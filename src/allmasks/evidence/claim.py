"""A claim of the notes: its sentence, what would count for and against it, and what was found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from allmasks.language import Text

if TYPE_CHECKING:
    from allmasks.evidence.shared_nets import Lab

__all__ = ["VERDICTS", "Claim", "Criterion", "Effect", "Numbers", "Picture", "Series", "Text", "Values", "Verdict"]

Numbers = dict[str, Any]
"""What an experiment returns, as JSON holds it."""

Values = Mapping[str, Sequence[float]]
"""Of each criterion, by its key, one effect a seed."""

Verdict = Literal["holds", "holds in part", "absent", "undecided", "contradicted"]
VERDICTS: tuple[Verdict, ...] = ("holds", "holds in part", "absent", "undecided", "contradicted")


@dataclass(frozen=True)
class Criterion:
    """What counts for a claim and what against it, fixed before any data are seen.

    Attributes
    ----------
    kind : "difference": an effect that is surely there counts for the claim, or against it if it is below 0, unless it
        is surely smaller than `minimum`. "agreement": a deviation surely within ±minimum counts for it, one surely
        outside against it.
    minimum : the least effect that matters, or the tolerance.
    comparative : whether it compares treated with untreated nets; it must then say nothing when the treatment is off.
    """

    key: str
    text: Text
    minimum: float
    kind: Literal["difference", "agreement"] = "difference"
    comparative: bool = False


@dataclass(frozen=True)
class Series:
    """One line or set of points of a picture, with a band where there is one."""

    name: Text
    x: list[float]
    y: list[float]
    low: list[float] | None = None
    high: list[float] | None = None
    points: bool = False


@dataclass(frozen=True)
class Picture:
    """A chart beside a verdict.

    categories : names of the places 0, 1, … of x, where these are kinds and not numbers: nothing lies between them.
    """

    title: Text
    x: Text
    y: Text
    series: Sequence[Series]
    log_x: bool = False
    log_y: bool = False
    categories: Sequence[Text] = ()


@dataclass(frozen=True)
class Effect:
    """One criterion on one data set: `values` has one effect a seed; the rest is filled in by the judge.

    Attributes
    ----------
    absence_p_value : corrected, of "it is as large as what matters, one way or the other"; nan for agreements.
    spread : standard deviation over seeds.
    power : probability that the least effect that matters would be found at this spread and number of seeds.
    seeds_needed : seeds in all that would settle it, absent or there, with probability 0.9 each; by the upper 80 %
        limit of the spread.
    """

    criterion: str
    dataset: str
    values: tuple[float, ...]
    mean: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    p_value: float = float("nan")
    corrected_p_value: float = float("nan")
    absence_p_value: float = float("nan")
    says: str = "undecided"
    spread: float = float("nan")
    power: float = float("nan")
    seeds_needed: int = 0


@dataclass(frozen=True)
class Claim:
    """One claim of the notes.

    Attributes
    ----------
    number, key : its place in the list, and its name.
    title : in a few words. sentence : the claim; its Korean is the notes' own.
    section : where the notes say it.
    linear : measured on all data sets as linear problems (regression ones too) instead of by classifiers.
    needs : arms whose nets it needs. probes : arms whose nets are looked at with every instrument.
    own : (lab, data set, seed) -> plain numbers; an experiment of its own, run once a data set and seed.
    measure : (lab, data set) -> {criterion: one effect a seed}.
    pictures : lab -> charts. note : how to read the result, and what the experiment cannot show.
    """

    number: int
    key: str
    title: Text
    sentence: Text
    section: Text
    criteria: tuple[Criterion, ...]
    measure: Callable[[Lab, str], Values]
    note: Text
    own: Callable[[Lab, str, int], Numbers] | None = None
    pictures: Callable[[Lab], list[Picture]] | None = None
    linear: bool = False
    needs: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()
    cost: float = field(default=0.3)

    @property
    def comparative(self) -> bool:
        """Whether every criterion compares treated with untreated nets."""
        return all(criterion.comparative for criterion in self.criteria)
