"""What the pictures are drawn from: bins, steps and histograms, in plain numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from allmasks.evaluation.calibration_error import binned
from allmasks.evaluation.classes import Classes, Mixed
from allmasks.evaluation.measures import Floats
from allmasks.evaluation.regressions import Regressions
from allmasks.evaluation.selective import Selective

__all__ = ["class_curves", "ood_curves", "regression_curves"]

_STEPS = 100
_BINS = 10


def class_curves(masks: Classes, eval_mode: Classes, n_bins: int) -> dict[str, Any]:
    """Reliability and risk by coverage, of both readings; error rate by entropy."""
    found: dict[str, Any] = {}
    for name, c in (("masks", masks), ("weight_scaling", eval_mode)):
        number, stated, seen, error = binned(c.confidence, ~c.wrong, n_bins)
        found[f"reliability_{name}"] = {"n": number, "stated": stated, "seen": seen, "error": error}
        answered, risk, _ = (v[0] for v in Selective(c.confidence, c.wrong).curve())
        at = np.unique(np.linspace(0, len(risk) - 1, min(_STEPS, len(risk))).round().astype(int))
        found[f"risk_{name}"] = {"coverage": answered[at], "risk": risk[at]}
    found["spread"] = _by_bins(masks.entropy, masks.wrong.astype(float), root=False)
    return found


def ood_curves(both: Mixed) -> dict[str, Any]:
    """Histograms of each score, within the distribution and outside it."""
    found: dict[str, Any] = {}
    for name in ("entropy", "mutual_information"):
        score = both.score(name)
        edges = np.histogram_bin_edges(score, bins=30)
        inside, outside = (np.histogram(score[part], edges)[0] for part in (~both.foreign, both.foreign))
        found[f"ood_{name}"] = {"edges": edges, "inside": inside / inside.sum(), "outside": outside / outside.sum()}
    return found


def regression_curves(known: Regressions) -> dict[str, Any]:
    """PIT histogram, and root mean square error by spread."""
    found: dict[str, Any] = {}
    if known.pit is not None:
        counts, edges = np.histogram(np.clip(known.pit, 0.0, 1.0), bins=20, range=(0, 1))
        found["pit"] = {"edges": edges, "n": counts}
    if known.variance is not None:
        found["spread"] = _by_bins(np.sqrt(known.variance), (known.y - known.mean) ** 2, root=True)
    return found


def _by_bins(spread: Floats, loss: Floats, *, root: bool) -> dict[str, Any]:
    """Ten bins of equal mass of the spread: its mean, that of the loss, and the loss's standard error."""
    order = np.argsort(spread, kind="stable")
    parts = [part for part in np.array_split(order, min(_BINS, len(order))) if len(part)]
    stated = np.array([float(np.sqrt((spread[p] ** 2).mean())) if root else float(spread[p].mean()) for p in parts])
    seen = np.array([float(loss[p].mean()) for p in parts])
    error = np.array([float(loss[p].std(ddof=1)) / math.sqrt(len(p)) if len(p) > 1 else math.nan for p in parts])
    if root:
        seen = np.sqrt(seen)
        error = np.divide(error, 2 * seen, out=np.zeros_like(error), where=seen > 0)
    return {"spread": stated, "seen": seen, "error": error, "n": [len(p) for p in parts]}
