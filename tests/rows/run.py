"""`python tests/architectures.py`: every row of the table judged, printed, and written to the documentation."""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rows.judge import Verdict, judged

HEAD = """# Architectures

What `am.find_dropout` makes of {n} models, printed by `python tests/architectures.py --write docs/architectures.md`. All
are tiny, with random weights; the truth is every random draw that happens in training mode, counted as it reaches torch's
dispatcher (single numbers that skip a layer count where setting them to 0 changes the output). **Right**: as many sites as
draws, each of which can be given masks. **Refused, with a way on**: named, and right once what is named is left off.

{right} are right, {refused} are refused with a way on, {rest} are neither. To add one, add a row in `tests/rows/`.

| model | sites | draws | verdict | to be left off |
|---|---:|---:|---|---|
"""


def verdict_of(case: Any) -> Verdict | None:
    """None where the row's package is not installed."""
    if case.needs and find_spec(case.needs) is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return judged(case.name, case(), case.batch_dim)


def main(table: Sequence[Any], expected: dict[str, str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--write", help="the page of the documentation")
    parser.add_argument(
        "--moments", type=int, metavar="N", help="hold mean, spread and E_m[L] of N rows against passes"
    )
    parser.add_argument("--state", action="store_true", help="hold the state of every row after success and exceptions")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rows = [case for case in table if given.only.lower() in case.name.lower()]
    if given.state:
        from rows.state import main as state

        return state(rows, given.seed)
    if given.moments:
        from rows.moments import main as moments

        return moments(rows, given.moments, given.seed)
    found: list[Verdict] = []
    began = time.process_time()
    for case in rows:
        try:
            verdict = verdict_of(case)
        except Exception as error:
            verdict = Verdict(case.name, 0, 0, "error", (), f"{type(error).__name__}: {error}")
        if verdict is None:
            print(f"skipped, {case.needs} is not installed: {case.name}")
            continue
        found.append(verdict)
        surprise = "" if (verdict.verdict == "right") != (case.name in expected) else "  (not as foreseen)"
        print(f"{verdict.name}: {verdict.verdict}, {verdict.sites} sites, {verdict.draws} draws{surprise}", flush=True)
        if verdict.verdict != "right":
            print(f"    {verdict.why[:300]}\n    leave_off={verdict.left}", flush=True)
    right = sum(v.verdict == "right" for v in found)
    refused = sum(v.verdict == "refused, with a way on" for v in found)
    rest = len(found) - right - refused
    print(f"{len(found)} rows: {right} right, {refused} refused with a way on, {rest} neither; "
          f"{time.process_time() - began:.0f} processor seconds")  # fmt: skip
    if given.write:
        text = HEAD.format(n=len(found), right=right, refused=refused, rest=rest)
        for v in found:
            left = ", ".join(f"`{name}`" for name in v.left)
            text += f"| {v.name} | {v.sites} | {v.draws} | {v.verdict} | {left} |\n"
        Path(given.write).write_text(text, encoding="utf-8")
