"""Losses of a model's output, one number an example, in float64: what E_m[L] averages.

Each is a value with `per_example(output, target) -> (n,)`, `example_weight(target) -> (n,) | None` and, where the
loss of a linear output splits into scalar scores, `score_terms`, which the exact last layer uses.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CallableLoss", "CrossEntropy", "Logistic", "ModelLoss", "Poisson", "SquaredError", "model_loss"]


@dataclass(frozen=True, eq=False)
class ModelLoss:
    """Base of the losses: sums over an example's outputs unless a subclass says otherwise."""

    @property
    def name(self) -> str:
        """How reports call it, also the name accepted as `loss=`."""
        raise NotImplementedError

    units: str = "loss"

    score_loss: str | None = None
    """Name of the score loss that each output obeys by itself, where there is one."""

    def check(self, output: Tensor, target: Any) -> Tensor:
        """The target in the shape and dtype the loss needs, or a ValueError that says what is needed."""
        y = torch.as_tensor(target, device=output.device)
        if y.shape != output.shape:
            trimmed_output, trimmed_y = _without_unit_axes(output.shape), _without_unit_axes(y.shape)
            if trimmed_output != trimmed_y or y.numel() != output.numel():
                raise ValueError(
                    f"loss {self.name!r} needs targets of the output's shape {tuple(output.shape)}, got "
                    f"{tuple(y.shape)}"
                )
            y = y.reshape(output.shape)
        if y.is_floating_point() and not bool(torch.isfinite(y).all()):
            raise ValueError("the targets contain NaN or infinite values; remove those examples")
        return y

    def per_example(self, output: Tensor, target: Tensor) -> Tensor:
        """(n,) float64 losses of outputs (n, ...) against targets as `check` returns them."""
        losses = self._elementwise(output.double(), target.double())
        return losses.reshape(len(output), -1).sum(dim=1)

    def _elementwise(self, score: Tensor, y: Tensor) -> Tensor:
        raise NotImplementedError

    def example_weight(self, target: Tensor) -> Tensor | None:
        """(n,) weight of each example within the mean, or None for equal weights."""
        return None

    def score_terms(self, weight: Tensor, bias: Tensor | None, target: Tensor) -> list[ScoreTerm] | None:
        """The loss of output = weight h + bias as a sum of score losses, or None where it is not one."""
        if self.score_loss is None:
            return None
        y = target.reshape(len(target), -1).double()
        return [
            ScoreTerm(weight[k], None if bias is None else bias[k], y[:, k], self.score_loss)
            for k in range(len(weight))
        ]


@dataclass(frozen=True, eq=False)
class ScoreTerm:
    """One scalar score S = weight · h + bias whose loss is `loss(S, target)`, a name of `allmasks.losses`.

    mass : (n,) what each row's loss is multiplied by; None for 1.
    """

    weight: Tensor
    bias: Tensor | None
    target: Tensor
    loss: str
    mass: Tensor | None = None


@dataclass(frozen=True, eq=False)
class SquaredError(ModelLoss):
    """Σ_k (z_k − y_k)²."""

    units: str = "target units squared"
    score_loss: str | None = "squared_error"

    @property
    def name(self) -> str:
        return "squared_error"

    def _elementwise(self, score: Tensor, y: Tensor) -> Tensor:
        return (score - y) ** 2


@dataclass(frozen=True, eq=False)
class Logistic(ModelLoss):
    """Σ_k log(1 + e^{z_k}) − y_k z_k, targets 0 or 1."""

    units: str = "nats"
    score_loss: str | None = "logistic"

    @property
    def name(self) -> str:
        return "logistic"

    def check(self, output: Tensor, target: Any) -> Tensor:
        y = super().check(output, target)
        bad = (y != 0) & (y != 1)
        if bool(bad.any()):
            raise ValueError(f"loss 'logistic' needs targets 0 or 1, got {y[bad].flatten()[0].item():g}")
        return y

    def _elementwise(self, score: Tensor, y: Tensor) -> Tensor:
        return F.softplus(score, threshold=math.inf) - y * score


@dataclass(frozen=True, eq=False)
class Poisson(ModelLoss):
    """Σ_k e^{z_k} − y_k z_k (log link; the constant log y! is left out), targets ≥ 0."""

    units: str = "nats"
    score_loss: str | None = "poisson"

    @property
    def name(self) -> str:
        return "poisson"

    def check(self, output: Tensor, target: Any) -> Tensor:
        y = super().check(output, target)
        if bool((y < 0).any()):
            raise ValueError(f"loss 'poisson' needs targets of 0 or more, got {y.min().item():g}")
        return y

    def _elementwise(self, score: Tensor, y: Tensor) -> Tensor:
        return score.exp() - y * score


@dataclass(frozen=True, eq=False)
class CrossEntropy(ModelLoss):
    """Softmax cross-entropy as torch.nn.CrossEntropyLoss; tokens are averaged within an example.

    Outputs (n, C) or (n, C, ...), or class-last (n, ..., C) as language models give; targets are class numbers,
    or probabilities of the output's shape. With class weights the mean over examples is weighted by them, as
    torch's "mean" reduction is.
    """

    weight: Tensor | None = None
    ignore_index: int = -100
    label_smoothing: float = 0.0
    units: str = "nats"
    score_loss: str | None = None

    @property
    def name(self) -> str:
        return "cross_entropy"

    def check(self, output: Tensor, target: Any) -> Tensor:
        y = torch.as_tensor(target, device=output.device)
        if output.ndim < 2:
            raise ValueError(f"loss 'cross_entropy' needs outputs (n, classes, ...), got {tuple(output.shape)}")
        if y.is_floating_point():
            if y.shape != output.shape:
                raise ValueError(
                    f"loss 'cross_entropy' with float targets needs class probabilities of shape "
                    f"{tuple(output.shape)}, got {tuple(y.shape)}; class numbers must be integers"
                )
            if not bool(torch.isfinite(y).all()):
                raise ValueError("the targets contain NaN or infinite values; remove those examples")
            return y
        if y.dtype == torch.bool:
            raise ValueError("loss 'cross_entropy' needs integer class numbers, got booleans; use y.long()")
        y = y.long()
        if y.ndim == output.ndim and y.shape[-1] == 1:
            y = y.squeeze(-1)
        classes = output.shape[_class_axis(output, y)]
        bad = ((y < 0) | (y >= classes)) & (y != self.ignore_index)
        if bool(bad.any()):
            raise ValueError(
                f"class numbers must lie in 0 … {classes - 1} (the model has {classes} outputs), "
                f"got {y[bad].flatten()[0].item()}"
            )
        return y

    def per_example(self, output: Tensor, target: Tensor) -> Tensor:
        if target.is_floating_point():
            losses = F.cross_entropy(
                output.double(),
                target.double(),
                weight=None if self.weight is None else self.weight.to(output.device).double(),
                label_smoothing=self.label_smoothing,
                reduction="none",
            )
            return losses.reshape(len(output), -1).mean(dim=1)
        logits = output.double().movedim(_class_axis(output, target), 1)
        weight = None if self.weight is None else self.weight.to(output.device).double()
        losses = F.cross_entropy(
            logits,
            target,
            weight=weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction="none",
        ).reshape(len(output), -1)
        mass = self._mass(target).reshape(len(output), -1)
        total = mass.sum(dim=1)
        # An example of which nothing counts has weight 0 in the mean; its own loss is 0, not 0/0.
        return losses.sum(dim=1) / torch.where(total > 0, total, torch.ones_like(total))

    def example_weight(self, target: Tensor) -> Tensor | None:
        if target.is_floating_point():
            return None
        if self.weight is None and not bool((target == self.ignore_index).any()):
            return None
        mass = self._mass(target).reshape(len(target), -1)
        counted = (target != self.ignore_index).reshape(len(target), -1).sum(dim=1)
        return mass.sum(dim=1) / counted.clamp(min=1)

    def _mass(self, target: Tensor) -> Tensor:
        counted = target != self.ignore_index
        if self.weight is None:
            return counted.double()
        weight = self.weight.to(target.device).double()
        return torch.where(counted, weight[target.clamp(min=0)], 0.0)

    def score_terms(self, weight: Tensor, bias: Tensor | None, target: Tensor) -> list[ScoreTerm] | None:
        # Two classes: (t0 + t1) log(e^{z0} + e^{z1}) − t·z is t0 + t1 times the logistic loss of z1 − z0 with target
        # t1 / (t0 + t1). Shares that were rounded, in float32 say, do not add up to 1.
        if len(weight) != 2 or self.weight is not None or bool((target == self.ignore_index).any()):
            return None
        if target.is_floating_point():
            if target.ndim != 2 or bool((target < 0).any()):
                return None
            shares = target.double()
        elif target.ndim == 1:
            shares = F.one_hot(target, 2).double()
        else:
            return None
        shares = shares * (1 - self.label_smoothing) + self.label_smoothing / 2
        mass = shares.sum(dim=1)
        share = torch.where(mass > 0, shares[:, 1] / torch.where(mass > 0, mass, 1.0), 0.0)
        difference = None if bias is None else bias[1] - bias[0]
        return [ScoreTerm(weight[1] - weight[0], difference, share, "logistic", mass)]


@dataclass(frozen=True, eq=False)
class CallableLoss(ModelLoss):
    """A callable (output, target) -> one loss per example."""

    function: Callable[[Any, Any], Tensor] = lambda output, target: output

    @property
    def name(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def check(self, output: Any, target: Any) -> Any:
        return target

    def per_example(self, output: Any, target: Any) -> Tensor:
        losses = self.function(output, target)
        if not isinstance(losses, Tensor):
            raise TypeError(f"the loss must return a tensor, one loss per example; {self.name} returned {losses!r}")
        if losses.ndim != 1:
            raise ValueError(
                f"the loss must return one loss per example, shape (n,); {self.name} returned shape "
                f'{tuple(losses.shape)}. Use reduction="none" and average over everything but the examples'
            )
        return losses.double()


def model_loss(loss: Any) -> ModelLoss:
    """The loss as a value: from its name, a torch loss module, or a callable that returns one loss per example.

    >>> model_loss("cross_entropy").name
    'cross_entropy'
    >>> model_loss(nn.CrossEntropyLoss(label_smoothing=0.1)).label_smoothing
    0.1
    """
    named = {kind().name: kind for kind in (SquaredError, Logistic, CrossEntropy, Poisson)}
    if isinstance(loss, ModelLoss):
        return loss
    if isinstance(loss, str):
        if loss not in named:
            raise ValueError(f"unknown loss {loss!r}: use one of {', '.join(map(repr, named))}, or a callable")
        return named[loss]()
    if isinstance(loss, nn.CrossEntropyLoss):
        return CrossEntropy(
            weight=loss.weight, ignore_index=loss.ignore_index, label_smoothing=float(loss.label_smoothing)
        )
    if isinstance(loss, nn.BCEWithLogitsLoss) and loss.pos_weight is None and loss.weight is None:
        return Logistic()
    if isinstance(loss, nn.MSELoss):
        return SquaredError()
    if isinstance(loss, nn.Module) and getattr(loss, "reduction", "none") != "none":
        raise ValueError(f'{loss} averages over examples; build it with reduction="none"')
    if callable(loss):
        return CallableLoss(function=loss)
    raise TypeError(f"loss must be a name or a callable, got {type(loss).__name__}")


def _class_axis(output: Tensor, target: Tensor) -> int:
    """Axis of the classes: 1 as torch has it, or the last as language models have it."""
    if output.shape[:1] + output.shape[2:] == target.shape:
        return 1
    if output.shape[:-1] == target.shape:
        return -1
    raise ValueError(
        f"loss 'cross_entropy': outputs {tuple(output.shape)} and targets {tuple(target.shape)} do not fit; for "
        f"outputs (n, C, ...) or (n, ..., C) the targets are class numbers of shape (n, ...)"
    )


def _without_unit_axes(shape: torch.Size) -> tuple[int, ...]:
    return tuple(shape[:1]) + tuple(n for n in shape[1:] if n != 1)
