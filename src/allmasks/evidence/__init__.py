"""The founding notes' claims, each put to the test on real data, with a verdict that can go against them."""

from allmasks.evidence.claim import VERDICTS, Claim, Criterion, Effect
from allmasks.evidence.claims import CLAIMS
from allmasks.evidence.findings import Evidence, Finding
from allmasks.evidence.full import FULL_CLAIMS, run_full
from allmasks.evidence.readings import from_lines, to_lines
from allmasks.evidence.runner import run

__all__ = [
    "CLAIMS",
    "FULL_CLAIMS",
    "VERDICTS",
    "Claim",
    "Criterion",
    "Effect",
    "Evidence",
    "Finding",
    "from_lines",
    "run",
    "run_full",
    "to_lines",
]
