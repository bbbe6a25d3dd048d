"""What the expected loss is made of: who pays the penalty, and how well it is known."""

from allmasks.diagnose.audit import Audit, ConvergencePoint, SitePenalty, audit
from allmasks.diagnose.co_adaptation import CoAdaptation, co_adaptation
from allmasks.diagnose.compare import STANDARD_ARMS, Arm, Comparison, Outcome, compare, effective_penalty
from allmasks.diagnose.concentration import Concentration, concentration
from allmasks.diagnose.gap import LossGap
from allmasks.diagnose.instruments import SiteInstruments
from allmasks.diagnose.rate import LinearRateCurve, RateCurve, linear_rate_curve, rate_curve
from allmasks.diagnose.robustness import Robustness, robustness
from allmasks.diagnose.site_rates import RateRace
from allmasks.diagnose.unit_penalty import UnitPenalty, unit_penalty

__all__ = [
    "STANDARD_ARMS",
    "Arm",
    "Audit",
    "CoAdaptation",
    "Comparison",
    "Concentration",
    "ConvergencePoint",
    "LinearRateCurve",
    "LossGap",
    "Outcome",
    "RateCurve",
    "RateRace",
    "Robustness",
    "SiteInstruments",
    "SitePenalty",
    "UnitPenalty",
    "audit",
    "co_adaptation",
    "compare",
    "concentration",
    "effective_penalty",
    "linear_rate_curve",
    "rate_curve",
    "robustness",
    "unit_penalty",
]
