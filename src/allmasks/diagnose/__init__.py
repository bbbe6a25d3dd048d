"""What the expected loss is made of: who pays the penalty, and how well it is known."""

from allmasks.diagnose.audit import Audit, ConvergencePoint, SitePenalty, audit
from allmasks.diagnose.co_adaptation import CoAdaptation, co_adaptation
from allmasks.diagnose.concentration import Concentration, concentration
from allmasks.diagnose.robustness import Robustness, robustness
from allmasks.diagnose.unit_penalty import UnitPenalty, unit_penalty

__all__ = [
    "Audit",
    "CoAdaptation",
    "Concentration",
    "ConvergencePoint",
    "Robustness",
    "SitePenalty",
    "UnitPenalty",
    "audit",
    "co_adaptation",
    "concentration",
    "robustness",
    "unit_penalty",
]
