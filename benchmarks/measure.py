"""How the benchmarks measure: medians of calls that take turns, and a table printed row by row, as it is measured."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Rows", "Timing", "in_turn", "machine", "median", "once", "small"]

Call = Callable[[], Any]
Clock = Callable[[], float]

LIMIT = 10.0
"""Seconds after which no further repeat of a call is begun: a benchmark ends while someone waits for it."""


class Timing(NamedTuple):
    """Median seconds of a call, and its last answer."""

    seconds: float
    answer: Any


def machine() -> str:
    """The processor's name, as the system gives it, and how many there are."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} processors"


def once(call: Call, clock: Clock = time.perf_counter) -> Timing:
    """One call; `time.process_time` as the clock counts what all threads spend."""
    start = clock()
    answer = call()
    return Timing(clock() - start, answer)


def median(call: Call, repeats: int = 3, *, limit: float = LIMIT, clock: Clock = time.perf_counter) -> Timing:
    """A call by itself. The first one warms up and does not count, unless none was begun after it."""
    return in_turn({"": call}, repeats, limit=limit, clock=clock)[""]


def in_turn(
    calls: Mapping[str, Call], repeats: int = 3, *, limit: float = LIMIT, clock: Clock = time.perf_counter
) -> dict[str, Timing]:
    """Each call's median over rounds of all: none pays alone for what ran before it, or for a busy minute."""
    begun, rounds = time.perf_counter(), []
    while not rounds or (len(rounds) <= repeats and time.perf_counter() - begun < limit * len(calls)):
        rounds.append({name: once(call, clock) for name, call in calls.items()})
    counted = rounds[1:] or rounds
    return {
        name: Timing(statistics.median(r[name].seconds for r in counted), rounds[-1][name].answer) for name in calls
    }


TURN = 0.02
"""Seconds of one turn of a small call: about what one call of `F.dropout` of 2^20 takes."""


def small(calls: Mapping[str, Call], seconds: float = 2.0, inner: int = 1, fresh: bool = False) -> dict[str, float]:
    """Median seconds of calls of microseconds, in turn so that a change of the machine's mood meets all of them.

    A turn is one call that is not timed and then `TURN` seconds of calls that are, five at least. So each is timed as
    in a loop of its own: the allocator holds what it frees and torch's threads are awake.
    With `fresh` the very first call of each turn is timed, and only that. After `F.dropout` of 2^20, whose generator
    leaves the second thread asleep and whose mask and output the allocator gives back to the system, that call pays
    for both: several times as much as the next.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(3):
            call()
    gc.collect()
    gc.disable()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 7:
        for name, call in calls.items():
            if not fresh:
                call()
            turn = time.perf_counter() + (0.0 if fresh else TURN)
            count = 0
            while count < (1 if fresh else 5) or time.perf_counter() < turn:
                start = time.perf_counter()
                for _ in range(inner):
                    call()
                times[name].append((time.perf_counter() - start) / inner)
                count += 1
    gc.enable()
    return {name: statistics.median(values) for name, values in times.items()}


class Rows:
    """A table of Markdown, for a terminal and for a page: each row is printed when it is known.

    Columns are as wide as their heads, or as the width given: `("model", 24)`.
    """

    def __init__(self, *columns: str | tuple[str, int]) -> None:
        heads = [(c, len(c)) if isinstance(c, str) else c for c in columns]
        self.widths = [max(width, len(head)) for head, width in heads]
        self.add(*(head for head, _ in heads))
        print("|" + "|".join("-" * (width + 2) for width in self.widths) + "|", flush=True)

    def add(self, *cells: object) -> None:
        """Prints a row; numbers come as they are to be read."""
        padded = (str(cell).ljust(width) for cell, width in zip(cells, self.widths, strict=True))
        print("| " + " | ".join(padded) + " |", flush=True)
