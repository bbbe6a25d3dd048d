"""What is summed over masks, and the quantities that follow: one place for sampled, enumerated and integrated masks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from allmasks.prediction.task import Task

__all__ = ["QUANTITIES", "features", "quantities"]

QUANTITIES = ("mean", "std", "entropy", "expected_entropy", "mutual_information")


def features(task: Task, value: Tensor, center: Tensor) -> dict[str, Tensor]:
    """First and second powers about `center` (the prediction in eval mode: sums then cancel little), and entropies."""
    deviation = value - center
    result = {"first": deviation, "second": deviation**2}
    if task.classifies:
        result["entropy"] = task.entropy(value)
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


def likelihood_feature(logs: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """exp(log-likelihood - reference) with the reference raised to the largest seen; (feature, new reference)."""
    raised = torch.maximum(reference, logs.amax(dim=0))
    return (logs - raised).exp(), raised
