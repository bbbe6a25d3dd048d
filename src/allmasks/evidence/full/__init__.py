"""The claims at the scale where they were made: MNIST by size, three layers of 1 024 units, text, regression."""

from allmasks.evidence.full.campaign import run_full
from allmasks.evidence.full.claims_at_scale import FULL_CLAIMS

__all__ = ["FULL_CLAIMS", "run_full"]
