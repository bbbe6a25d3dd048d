"""What is summed over masks, and the quantities that follow: one place for sampled, enumerated and integrated masks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from allmasks.prediction.round_off import Fit
from allmasks.prediction.task import Task

__all__ = ["DENSITIES", "QUANTITIES", "features", "likelihood_features", "quantities", "within_bounds"]

DENSITIES = ("density", "density_low", "density_high")
QUANTITIES = ("mean", "std", "entropy", "expected_entropy", "mutual_information")


def features(value: Tensor, entropy: Tensor | None, center: Tensor) -> dict[str, Tensor]:
    """First and second powers about `center` (the prediction in eval mode: sums then cancel little), and entropies."""
    deviation = value - center
    result = {"first": deviation, "second": deviation**2}
    if entropy is not None:
        result["entropy"] = entropy
    return result


def quantities(task: Task, center: Tensor) -> dict[str, Callable[[dict[str, Tensor]], Tensor]]:
    """Each quantity as a function of the features' means."""

    def std(m: dict[str, Tensor]) -> Tensor:
        return (m["second"] - m["first"] ** 2).clamp(min=0).sqrt()

    def entropy(m: dict[str, Tensor]) -> Tensor:
        return task.entropy((m["first"] + center).clamp(0.0, 1.0))

    result: dict[str, Callable[[dict[str, Tensor]], Tensor]] = {"mean": lambda m: m["first"] + center, "std": std}
    if task.classifies:
        result |= {
            "entropy": entropy,
            "expected_entropy": lambda m: m["entropy"],
            "mutual_information": lambda m: entropy(m) - m["entropy"],
        }
    return result


def within_bounds(name: str, task: Task, value: Tensor) -> Tensor:
    """Bias corrections may step over a bound; what is reported does not."""
    if name in ("std", "entropy", "expected_entropy", "mutual_information"):
        return value.clamp(min=0.0)
    return value.clamp(0.0, 1.0) if task.classifies else value


def likelihood_features(fit: Fit, reference: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """exp(log-likelihood - reference) and its bounds, with the reference raised to the largest seen.

    Returns the features, the factor that turns what was summed before to the new reference, and that reference, which
    is -inf as long as no mask has any likelihood.
    """
    raised = torch.maximum(reference, fit.log.amax(dim=0))
    base = torch.where(raised.isfinite(), raised, 0.0)
    factor = torch.where(reference.isfinite(), (reference - base).exp(), (-base).clamp(max=700.0).exp())
    found = {"density": fit.log, "density_low": fit.low, "density_high": fit.high}
    return {name: (logs - base).exp() for name, logs in found.items()}, factor, raised
