"""Attack the library with random problems: `python tests/attack.py --seconds 60 --seed 0`.

Every room draws problems of its kind, holds value, error, gradient and state against truths that use nothing of the
library (enumeration in extended precision, mpmath, scikit-learn, closed forms) and prints each fault with a small call
that shows it. Exit code 1 on any fault.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from attacks import core

ROOMS = ("scores", "models", "estimators", "predictions", "tools", "statistical")


def room(name: str) -> Any:
    """A room by its name; torch is imported only for those that need it."""
    if name == "scores":
        from attacks.scores import Scores

        return Scores()
    if name == "models":
        from attacks.models import Models

        return Models()
    if name == "estimators":
        from attacks.estimators import Estimators

        return Estimators()
    if name == "predictions":
        from attacks.predictions import Predictions

        return Predictions()
    if name == "tools":
        from attacks.tools import Tools

        return Tools()
    raise SystemExit(f"unknown room {name!r}: choose from {', '.join(ROOMS)}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="time for all rooms together")
    parser.add_argument("--cases", type=int, help="stop a room once so many cases were accepted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rooms", default="scores,models,estimators,predictions,tools", help=f"of {', '.join(ROOMS)}")
    parser.add_argument("--case", type=int, help="this case alone, of the one room given")
    parser.add_argument("--show", type=int, default=3, help="faults of one kind that are printed")
    parser.add_argument("--runs", type=int, default=1000, help="seeds of a cell in the statistical room")
    parser.add_argument("--planted", action="store_true", help="plant known faults, and see that each is found")
    given = parser.parse_args(arguments)
    names = given.rooms.split(",")
    if given.planted:
        from attacks.planted import hunt

        return hunt(given.seed)
    if given.case is not None:
        return _replay(room(names[0]), given.seed, given.case)
    failed = False
    rows = []
    for name in names:
        seconds = given.seconds / len(names)
        if name == "statistical":
            from attacks.statistical import coverage

            failed |= coverage(given.seed, given.runs, seconds)
            continue
        start = time.monotonic()
        tally = core.attack(room(name), given.seed, seconds=seconds, cases=given.cases, show=given.show)
        rows.append((name, tally, time.monotonic() - start))
        failed |= tally.failed > 0
    _table(rows)
    return int(failed)


def _replay(one: Any, seed: int, number: int) -> int:
    case = one.draw(core.generator(seed, one.name, number))
    print(one.call(case))
    try:
        faults = core.examine(one, case)
    except core.Refused as refusal:
        print(f"refused: {refusal}")
        return 0
    for fault in faults:
        print(f"{fault.kind}: {fault.text}")
    return int(bool(faults))


def _table(rows: list[tuple[str, core.Tally, float]]) -> None:
    if not rows:
        return
    print(f"\n{'room':<14}{'accepted':>10}{'refused':>10}{'failed':>10}{'seconds':>10}")
    for name, tally, seconds in rows:
        print(f"{name:<14}{tally.accepted:>10}{tally.refused:>10}{tally.failed:>10}{seconds:>10.0f}")
        for kind, count in tally.kinds.most_common():
            print(f"    {count:>6} × {kind}")
        for text, count in tally.refusals.most_common(8):
            print(f"    {count:>6} refused: {text}")


if __name__ == "__main__":
    sys.exit(main())
