"""What a run found: each claim with its verdict, and everything the verdict stands on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from allmasks.evidence.claim import Claim, Criterion, Effect, Picture, Verdict
from allmasks.evidence.judge import judge, verdict, with_power
from allmasks.language import Text
from allmasks.results import Reported

__all__ = ["Evidence", "Finding", "conclude"]


@dataclass(frozen=True)
class Finding:
    """One claim with its verdict, and everything the verdict stands on."""

    number: int
    key: str
    title: Text
    sentence: Text
    section: Text
    note: Text
    verdict: Verdict
    criteria: tuple[Criterion, ...]
    readings: tuple[Effect, ...]
    pictures: tuple[Picture, ...]
    comparative: bool


@dataclass(frozen=True, repr=False)
class Evidence(Reported):
    """The notes' claims, each measured. Equal settings give equal findings, bit for bit; only `seconds` differ.

    `scale` is "small" or "full"; `more`, what a larger budget would add to a full run.
    """

    findings: tuple[Finding, ...]
    datasets: tuple[str, ...]
    linear_datasets: tuple[str, ...]
    seeds: tuple[int, ...]
    quick: bool
    null: bool
    n_tests: int
    seconds: float
    step_seconds: dict[str, dict[str, float]]
    scale: str = "small"
    more: tuple[str, ...] = ()

    def __getitem__(self, key: str) -> Finding:
        return next(finding for finding in self.findings if finding.key == key)


def conclude(
    claims: Sequence[Claim],
    rows: Sequence[tuple[Claim, Criterion, Effect]],
    pictures: Mapping[str, Sequence[Picture]],
    **run: Any,
) -> Evidence:
    """Readings judged together, and the verdict of each claim. `run` : the remaining fields of `Evidence`."""
    judged = judge([(criterion, reading) for _, criterion, reading in rows])
    judged = with_power([(criterion, reading) for (_, criterion, _), reading in zip(rows, judged, strict=True)])
    findings = []
    for claim in claims:
        own = tuple(reading for (c, _, _), reading in zip(rows, judged, strict=True) if c is claim)
        findings.append(
            Finding(
                number=claim.number,
                key=claim.key,
                title=claim.title,
                sentence=claim.sentence,
                section=claim.section,
                note=claim.note,
                verdict=verdict(own),
                criteria=claim.criteria,
                readings=own,
                pictures=tuple(pictures.get(claim.key, ())),
                comparative=claim.comparative,
            )
        )
    return Evidence(findings=tuple(findings), n_tests=len(judged), **run)
