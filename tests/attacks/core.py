"""What rooms share: faults, refusals, and the loop that draws, checks, shrinks and counts.

A room draws a case from a generator, calls the library and holds the answer against a truth of its own. A clear refusal
(`ValueError`, `TypeError`, `MethodNotApplicable` …) is counted, not a fault, unless the case is plain enough that
there is nothing to refuse; any other exception, any warning and any call that hangs is a fault.
"""

from __future__ import annotations

import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

MAX = float(np.finfo(np.float64).max)
HANG_S = 90
DIGITS = (120, 700)
"""Of the truths that are asked for before a miss is called one; the second where 1e-300 stands beside 1."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: `kind` groups alike ones, `text` has the numbers."""

    kind: str
    text: str


class Refused(Exception):
    """The library refused the case in words."""


class Hang(Exception):
    """A call worked for longer than `HANG_S` seconds."""


class Room(Protocol):
    name: str

    def draw(self, rng: np.random.Generator) -> Any: ...

    def check(self, case: Any) -> list[Fault]: ...

    def call(self, case: Any) -> str: ...

    def smaller(self, case: Any) -> Iterator[Any]: ...


@dataclass
class Tally:
    accepted: int = 0
    refused: int = 0
    failed: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    stopped: int | None = None
    """Number of the case that `stop_at` stopped at."""


def generator(seed: int, room: str, number: int) -> np.random.Generator:
    """The generator of one case: its room, its number and the seed decide it, so each can be drawn again alone."""
    return np.random.default_rng([seed, *room.encode(), number])


@contextmanager
def time_limit() -> Iterator[None]:
    """Raise `Hang` in the main thread after `HANG_S` seconds of work, or ten times as many of waiting.

    Work is the process's own: on a busy machine kernels may take minutes to compile. No limit without POSIX timers.
    """
    if not hasattr(signal, "SIGPROF"):
        yield
        return

    def ring(*_: Any) -> None:
        raise Hang

    previous = [(number, signal.signal(number, ring)) for number in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, HANG_S)
    signal.setitimer(signal.ITIMER_REAL, 10 * HANG_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in previous:
            signal.signal(number, handler)


def examine(room: Room, case: Any) -> list[Fault]:
    """The faults of a case; raises `Refused`."""
    from allmasks import errors

    allowed = (ValueError, TypeError, *(e for e in vars(errors).values() if _is_error(e)))
    try:
        with warnings.catch_warnings(record=True) as told, time_limit():
            warnings.simplefilter("always")
            faults = room.check(case)
        return faults + _leaked(told)
    except Refused:
        raise
    except Hang:
        return [Fault("hangs", f"no answer after {HANG_S} s of work")]
    except allowed as error:
        text = f"{type(error).__name__}: {error}"
        if getattr(case, "plain", False):
            return [Fault("refuses a plain problem", text)]
        if _obscure(error):
            return [Fault(f"obscure {type(error).__name__}", text + _where(error))]
        raise Refused(text) from None
    except Exception as error:  # whatever else is a fault of the library's or the attacker's: both must be seen
        return [Fault(f"raises {type(error).__name__}", f"{error}{_where(error)}")]


def _leaked(told: list[warnings.WarningMessage]) -> list[Fault]:
    """Warnings that say nothing to a user: of arithmetic, and of what will one day be gone."""
    faults = []
    for one in told:
        # A callable of the attack's own may overflow: that is its user's to hear.
        own = "attacks" in one.filename
        if issubclass(one.category, RuntimeWarning | DeprecationWarning | FutureWarning) and not own:
            where = f"{one.filename.rsplit('/', 1)[-1]}:{one.lineno}"
            faults.append(Fault(f"leaks a {one.category.__name__}", f"{str(one.message)[:200]} ({where})"))
    return faults


def _is_error(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Exception)


def _obscure(error: BaseException) -> bool:
    """Whether a ValueError or TypeError came out of NumPy, SciPy or torch rather than of the library's own checks."""
    frames = traceback.extract_tb(error.__traceback__)
    return not frames or ("allmasks" not in frames[-1].filename and "sklearn" not in frames[-1].filename)


def _where(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f" ({frame.filename.rsplit('/', 1)[-1]}:{frame.lineno})"


def shrink(room: Room, case: Any, found_fault: Fault, seconds: float = 5.0) -> Any:
    """The smallest case of this kind of fault that the room's own ways of making one smaller lead to."""
    end = time.monotonic() + seconds
    found = True
    while found and time.monotonic() < end:
        found = False
        for candidate in room.smaller(case):
            if time.monotonic() > end:
                break
            try:
                faults = examine(room, candidate)
            except Refused:
                continue
            except Exception:  # a candidate may make no sense
                continue
            if any(_alike(fault, found_fault) for fault in faults):
                case, found = candidate, True
                break
    return case


def _alike(one: Fault, other: Fault) -> bool:
    """Whether two faults are the same thing: a smaller case may be refused for a reason of its own."""
    words = one.kind.startswith(("refuses", "raises", "obscure"))
    return one.kind == other.kind and (not words or one.text[:40] == other.text[:40])


def attack(
    room: Room,
    seed: int,
    *,
    seconds: float,
    cases: int | None = None,
    first: int = 0,
    show: int = 3,
    say: Callable[[str], None] = print,
    stop_at: Callable[[Fault], bool] | None = None,
) -> Tally:
    """Draw and examine cases until the time is up, or so many are accepted; print up to `show` faults of each kind.

    stop_at : stop at the first fault of which this is true (for planted faults).
    """
    tally, number, end = Tally(), first, time.monotonic() + seconds
    while time.monotonic() < end and (cases is None or tally.accepted < cases):
        case = room.draw(generator(seed, room.name, number))
        try:
            faults = examine(room, case)
        except KeyboardInterrupt:  # what was found until then is still to be told
            return tally
        except Refused as refusal:
            tally.refused += 1
            tally.refusals[str(refusal)[:70]] += 1
            number += 1
            continue
        tally.accepted += 1
        if faults:
            tally.failed += 1
        for fault in {fault.kind: fault for fault in faults}.values():
            tally.kinds[fault.kind] += 1
            if stop_at is not None and stop_at(fault):
                tally.stopped = number
                return tally
            if tally.kinds[fault.kind] <= show:
                small = shrink(room, case, fault)
                again = next((f for f in examine(room, small) if f.kind == fault.kind), fault)
                replay = f"python tests/attack.py --rooms {room.name} --seed {seed} --case {number}"
                say(f"\n[{room.name}] {fault.kind}: {again.text}\n    {room.call(small)}\n    # {replay}")
        number += 1
    return tally


def holds(
    what: str,
    value: Any,
    error: Any,
    guarantee: str,
    truth: Any,
    slack: Any = 0.0,
    *,
    sure: Callable[[int], Any] | None = None,
) -> list[Fault]:
    """Whether values lie as near the truth as their guarantee says.

    slack : what the truth itself may be off by. sure : the truth in so many digits, asked before a miss is called one.
    """
    value, error, truth, slack = (np.atleast_1d(np.asarray(v)) for v in (value, error, truth, slack))
    if guarantee == "uncontrolled":
        # What is beyond the largest double may say so of its error too.
        good = (np.isnan(error.astype(float)) | (np.isinf(error) & ~np.isfinite(value))).all()
        return [] if good else [Fault(f"{what}: uncontrolled with an error", f"error {error}")]
    if guarantee == "statistical":
        return []
    value, error = value.astype(np.longdouble), error.astype(np.longdouble)
    missing = np.isnan(value) | np.isnan(error) | (error < 0)
    if missing.any():
        i = int(np.flatnonzero(missing.ravel())[0])
        return [Fault(f"{what}: NaN, {guarantee}", f"{value.ravel()[i]} ± {error.ravel()[i]}, truth {_flat(truth, i)}")]
    # "estimated" makes no proof, but a value ten times its error away is no estimate either.
    factor = 10 if guarantee == "estimated" else 1
    outside = _outside(value, factor * error + slack, truth)
    for digits in DIGITS if sure is not None else ():
        if outside.any():
            truth = np.atleast_1d(np.asarray(sure(digits)))
            outside = _outside(value, factor * error, truth)
    if not outside.any():
        return []
    i = int(np.flatnonzero(outside.ravel())[0])
    v, e, t = float(value.ravel()[i]), float(error.ravel()[i]), _flat(truth, i)
    ratio = abs(v - t) / e if e else np.inf
    return [Fault(f"{what} off, {guarantee}", f"{v!r} ± {e:.2g}, truth {t!r}: {float(ratio):.3g} times its error")]


def _flat(array: Any, i: int) -> float:
    flat = np.asarray(array).ravel()
    return float(flat[i % len(flat)])


def _outside(value: Any, allowed: Any, truth: Any) -> Any:
    with np.errstate(invalid="ignore", over="ignore"):
        truth = np.asarray(truth, np.longdouble)
        beyond = np.abs(truth) > MAX  # no double can say it: infinity with its sign can, or an infinite error
        said = (np.isinf(value) & (np.sign(value) == np.sign(truth))) | np.isinf(allowed)
        near = np.abs(value - truth) <= allowed
        return np.where(beyond, ~said & ~near, ~near)
