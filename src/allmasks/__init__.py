"""allmasks: what dropout does over *all* masks.

Names are loaded when first used, so that `import allmasks` stays light: no torch, nothing compiled.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "ExpectedLoss": "allmasks.results",
    "ScoreMoments": "allmasks.results",
    "MethodNotApplicable": "allmasks.errors",
    "UncontrolledRandomness": "allmasks.errors",
    "RankFailed": "allmasks.errors",
    "DropoutWrong": "allmasks.errors",
    "save": "allmasks.saved",
    "load": "allmasks.saved",
    "show_versions": "allmasks.doctor",
    "expected_score_loss": "allmasks.dropped_scores",
    "expected_score": "allmasks.dropped_scores",
    "DropoutSite": "allmasks.sites",
    "find_dropout": "allmasks.sites",
    "register_dropout": "allmasks.sites",
    "expected_loss": "allmasks.expect",
    "plan_expected_loss": "allmasks.expect",
    "Plan": "allmasks.over_masks.plan",
    "shard": "allmasks.over_masks.shards",
    "predict": "allmasks.prediction",
    "plan_prediction": "allmasks.prediction",
    "Prediction": "allmasks.prediction.result",
    "evaluate": "allmasks.evaluation",
    "Evaluation": "allmasks.evaluation",
    "Metric": "allmasks.evaluation",
    "calibrate": "allmasks.evaluation.recalibration",
    "Calibration": "allmasks.evaluation.recalibration",
    "conformal": "allmasks.evaluation.conformal",
    "Conformal": "allmasks.evaluation.conformal",
    "as_estimator": "allmasks.evaluation.estimator",
    "thinned": "allmasks.thinning",
    "Thinned": "allmasks.thinning",
    "verify": "allmasks.verification",
    "Verification": "allmasks.verification",
    "Finding": "allmasks.verification",
    "audit": "allmasks.diagnose",
    "Audit": "allmasks.diagnose",
    "compare": "allmasks.diagnose",
    "Comparison": "allmasks.diagnose",
    "rate_curve": "allmasks.diagnose",
    "RateCurve": "allmasks.diagnose",
    "RateRace": "allmasks.diagnose",
    "Monitor": "allmasks.monitor",
    "convert": "allmasks.nn",
    "seed": "allmasks.nn",
    "rng_state": "allmasks.nn",
    "set_rng_state": "allmasks.nn",
}
"""Public names and the room each lives in."""

_ROOMS = (
    "errors",
    "results",
    "methods",
    "samplers",
    "masks",
    "losses",
    "linear_model",
    "sites",
    "nn",
    "expect",
    "diagnose",
    "monitor",
    "report",
)

__all__ = ["__version__", *_HOME, *_ROOMS]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif name in _ROOMS:
        value = importlib.import_module(f"allmasks.{name}")
    else:
        raise AttributeError(f"module 'allmasks' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
