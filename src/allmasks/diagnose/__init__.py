"""What the expected loss is made of: who pays the penalty, and how well it is known."""

from allmasks.diagnose.audit import Audit, ConvergencePoint, SitePenalty, audit

__all__ = ["Audit", "ConvergencePoint", "SitePenalty", "audit"]
