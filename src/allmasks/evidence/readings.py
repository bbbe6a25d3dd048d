"""A run's raw results as JSON lines, and the run made from them again: what a page stands on, small enough to keep."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from allmasks.evidence.claim import Claim, Criterion, Effect, Picture, Series
from allmasks.evidence.claims import CLAIMS
from allmasks.evidence.findings import Evidence, conclude
from allmasks.language import Text

__all__ = ["from_lines", "to_lines"]

_DIGITS = 6


def to_lines(found: Evidence) -> str:
    """One line of what was run, one a reading with an effect a seed, one a picture."""
    rows: list[dict[str, Any]] = [{"run": {name: getattr(found, name) for name in _RUN}}]
    for finding in found.findings:
        criteria = {criterion.key: criterion for criterion in finding.criteria}
        for reading in finding.readings:
            criterion = criteria[reading.criterion]
            rows.append(
                {
                    "claim": finding.key,
                    "criterion": reading.criterion,
                    "dataset": reading.dataset,
                    "kind": criterion.kind,
                    "minimum": criterion.minimum,
                    "values": list(reading.values),
                }
            )
        rows += [{"claim": finding.key, "picture": _rounded(asdict(picture))} for picture in finding.pictures]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


_RUN = ("datasets", "linear_datasets", "seeds", "quick", "null", "seconds", "step_seconds", "scale", "more")


def from_lines(text: str, claims: Sequence[Claim] = CLAIMS) -> Evidence:
    """The run, judged again by its raw readings. `claims` : of a full run, `FULL_CLAIMS`.

    Raises
    ------
    ValueError : lines that are not of a run, or of a claim or criterion that is not in the code any more.
    """
    try:
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        head = rows[0]["run"]
    except (ValueError, LookupError, TypeError) as problem:
        raise ValueError(
            f"these are no raw readings ({problem}): give the readings.jsonl that evidence wrote"
        ) from None
    table = {claim.key: claim for claim in claims}
    found: list[tuple[Claim, Criterion, Effect]] = []
    pictures: dict[str, list[Picture]] = {}
    for row in rows[1:]:
        claim = table.get(row["claim"])
        if claim is None:
            raise ValueError(f"no claim {row['claim']!r}; the claims are {', '.join(table)}")
        if "picture" in row:
            pictures.setdefault(claim.key, []).append(_picture(row["picture"]))
            continue
        criterion = next((c for c in claim.criteria if c.key == row["criterion"]), None)
        if criterion is None or (criterion.kind, criterion.minimum) != (row["kind"], row["minimum"]):
            raise ValueError(f"the criterion {row['criterion']!r} of {claim.key} is not what it was; run it again")
        found.append((claim, criterion, Effect(criterion.key, row["dataset"], tuple(row["values"]))))
    keys = {claim.key for claim, *_ in found}
    return conclude(
        [claim for claim in claims if claim.key in keys],
        found,
        pictures,
        datasets=tuple(head["datasets"]),
        linear_datasets=tuple(head["linear_datasets"]),
        seeds=tuple(head["seeds"]),
        quick=head["quick"],
        null=head["null"],
        seconds=head["seconds"],
        step_seconds=head["step_seconds"],
        scale=head["scale"],
        more=tuple(head["more"]),
    )


def _rounded(value: Any) -> Any:
    """Pictures are looked at: six digits do."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, dict):
        return {name: _rounded(v) for name, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list | tuple) else value


def _picture(raw: dict[str, Any]) -> Picture:
    series = [Series(**(one | {"name": Text(**one["name"])})) for one in raw["series"]]
    words = {name: Text(**raw[name]) for name in ("title", "x", "y")}
    categories = [Text(**one) for one in raw["categories"]]
    return Picture(series=series, log_x=raw["log_x"], log_y=raw["log_y"], categories=categories, **words)
