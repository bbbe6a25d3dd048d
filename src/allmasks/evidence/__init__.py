"""The founding notes' claims, each put to the test on real data, with a verdict that can go against them."""

from allmasks.evidence.claim import VERDICTS, Claim, Criterion, Effect
from allmasks.evidence.claims import CLAIMS
from allmasks.evidence.runner import Evidence, Finding, run

__all__ = ["CLAIMS", "VERDICTS", "Claim", "Criterion", "Effect", "Evidence", "Finding", "run"]
