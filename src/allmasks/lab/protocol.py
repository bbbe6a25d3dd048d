"""What a chapter is: controls, and a function of them that returns a figure, numbers and a sentence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from allmasks.language import Text
from allmasks.results import Guarantee

__all__ = ["Answer", "Chapter", "Control", "Number", "Progress", "Question", "nothing_chosen", "words"]

Settings = dict[str, Any]
"""A value for each control, by its key."""


class Number(NamedTuple):
    """A number beside the picture, with its error and what kind of error that is.

    Attributes
    ----------
    key : its name in code. label : its name on the page.
    value, error : `error` is None of a number that is counted, copied or an observation, and so has none.
    """

    key: str
    label: Text
    value: float
    error: float | None = None
    guarantee: Guarantee | None = None


class Answer(NamedTuple):
    """What a chapter says of one setting of its controls.

    Attributes
    ----------
    figure : plotly's "data" and "layout" as plain dictionaries. Words in it are `Text`; colors are names ("@accent");
        "heat", if there, is a list of surfaces to paint beneath the data.
    sentence : what the picture shows, for those who do not see it.
    """

    figure: dict[str, Any]
    numbers: tuple[Number, ...]
    sentence: Text

    def value(self, key: str) -> float:
        """A number by its key."""
        return next(number.value for number in self.numbers if number.key == key)


class Progress(NamedTuple):
    """How much of a long answer is done, 0 … 1."""

    share: float


@dataclass(frozen=True)
class Control:
    """A handle: a slider, a choice of one, or a pick of any.

    Attributes
    ----------
    values : of a slider the places it stops at, in order; else the keys to choose from.
    start : where it stands when the page opens; of a pick, the keys that are picked.
    grid : the values that static pages have answers for; all of them where nothing is said.
    names : of a choice or pick, each key's words.
    again : words on a button that moves a slider one place on.
    """

    key: str
    label: Text
    values: tuple[Any, ...]
    start: Any
    kind: Literal["slide", "choice", "pick"] = "slide"
    grid: tuple[Any, ...] = ()
    names: Mapping[str, Text] | None = None
    again: Text | None = None

    def settle(self, given: Any) -> Any:
        """The value that was meant, or a ValueError that says which values there are."""
        if self.kind == "pick":
            chosen = [key for key in given.split(",") if key] if isinstance(given, str) else list(given)
            for key in chosen:
                self._known(key)
            return tuple(key for key in self.values if key in chosen)
        if self.kind == "choice":
            return self._known(given)
        try:
            value = float(given)
        except (TypeError, ValueError):
            raise ValueError(f"{self.key} must be a number, got {given!r}") from None
        low, high = self.values[0], self.values[-1]
        if not low <= value <= high:
            raise ValueError(f"{self.key} must lie in {low:g} … {high:g}, got {given}")
        if all(isinstance(v, int) for v in self.values):
            if value != int(value):
                raise ValueError(f"{self.key} must be a whole number, got {given}")
            return int(value)
        return value

    def _known(self, key: Any) -> str:
        if key not in self.values:
            raise ValueError(f"{self.key} must be one of {', '.join(map(str, self.values))}, got {key!r}")
        return str(key)

    @property
    def stops(self) -> tuple[Any, ...]:
        """The values of a static page: of a pick, every subset."""
        if self.kind != "pick":
            return self.grid or self.values
        n = len(self.values)
        return tuple(tuple(v for j, v in enumerate(self.values) if i >> j & 1) for i in range(2**n))


@dataclass(frozen=True)
class Question:
    """A question that moving the controls answers.

    Attributes
    ----------
    answer : computes the right number from the chapter itself. tolerance : how far off still counts as read off.
    where : what to set, for the page and for those who check their answer.
    """

    text: Text
    answer: Callable[[], float]
    tolerance: float
    where: Text


@dataclass(frozen=True)
class Chapter:
    """One idea of the notes with at most three handles on it.

    Attributes
    ----------
    key : its name in addresses and files.
    asks : the question that its page answers. says : what the notes say of it. section : where they do.
    work : (one value for each control, by its key) -> Answer; or, where that takes long, an iterator of `Progress` and
        `Answer`s, of which the last is the answer.
    live : whether the answers on the way are pictures to watch, begun and stopped by the reader.
    terms : the chapter's words explained, for a reader who has met none of them.
    code : (one value for each control) -> Python that prints the same numbers by the library's own calls, to copy.
    """

    number: int
    key: str
    title: Text
    asks: Text
    says: Text
    section: Text
    controls: tuple[Control, ...]
    work: Callable[..., Answer] | Callable[..., Iterator[Progress | Answer]]
    to_try: Text
    question: Question
    code: Callable[..., str]
    long: bool = False
    live: bool = False
    terms: Text | None = None

    @property
    def start(self) -> Settings:
        """The controls as they stand when the page opens."""
        return {control.key: control.start for control in self.controls}

    def settle(self, given: Mapping[str, Any] | None = None) -> Settings:
        """A value for each control: what is given, the start elsewhere.

        Raises
        ------
        ValueError : a control that there is not, or a value that it cannot have.
        """
        found, controls = self.start, {control.key: control for control in self.controls}
        for key, value in (given or {}).items():
            if key not in controls:
                raise ValueError(f"{self.key} has the controls {', '.join(controls)}; there is no {key!r}")
            found[key] = controls[key].settle(value)
        return found

    def steps(self, given: Mapping[str, Any] | None = None) -> Iterator[Progress | Answer]:
        """The answer, and before it what there is to see or to wait for on the way."""
        found = self.work(**self.settle(given))
        if isinstance(found, Answer):
            yield found
        else:
            yield from found

    def compute(self, given: Mapping[str, Any] | None = None) -> Answer:
        """Figure, numbers and sentence for these values of the controls.

        >>> from allmasks.lab import chapter
        >>> figure, numbers, sentence = chapter(1).compute({"p": 0.5})
        >>> sentence.en[:26]
        'With p = 0.5 each unit is '
        """
        last = None
        for step in self.steps(given):
            last = step if isinstance(step, Answer) else last
        assert last is not None, "a chapter ends with an answer"
        return last


def words(
    key: str, en: str, ko: str, value: float, error: float | None = None, kind: Guarantee | None = None
) -> Number:
    """A `Number` whose label is said in both languages."""
    if error is not None and math.isnan(error):
        kind = "uncontrolled" if kind is None else kind
    return Number(key, Text(en, ko), float(value), None if error is None else float(error), kind)


def nothing_chosen(en: str, ko: str) -> Answer:
    """The answer where all was deselected: an empty picture and a sentence that says what to do."""
    layout = {"height": 320, "xaxis": {"visible": False}, "yaxis": {"visible": False}}
    return Answer({"data": [], "layout": layout}, (), Text(en, ko))
