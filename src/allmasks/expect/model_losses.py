"""The named losses and callables, and the one meant by a name, a torch loss module or a callable.

Each is a value with `per_example(output, target) -> (n,)`, `example_weight(output, target) -> (n,) | None` and, where
the loss of a linear output splits into scalar scores, `score_terms`, which the exact last layer uses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from allmasks.expect.class_losses import CrossEntropy
from allmasks.expect.loss import ModelLoss, log_one_plus_exp
from allmasks.expect.torch_losses import torch_loss

__all__ = ["CallableLoss", "Logistic", "Poisson", "SquaredError", "is_loss", "model_loss"]


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
    """Σ_k log(1 + e^{z_k}) − y_k z_k, targets in [0, 1]."""

    units: str = "nats"
    score_loss: str | None = "logistic"

    @property
    def name(self) -> str:
        return "logistic"

    def check(self, output: Tensor, target: Any) -> Tensor:
        y = super().check(output, target)
        bad = ~((y >= 0) & (y <= 1))
        if bool(bad.any()):
            raise ValueError(
                f"loss 'logistic' needs targets 0 or 1, or probabilities in between, got {y[bad].flatten()[0].item():g}"
            )
        return y

    def _elementwise(self, score: Tensor, y: Tensor) -> Tensor:
        # Two terms of one sign: the difference above would lose all its digits where the score is large and right.
        return y * log_one_plus_exp(-score) + (1 - y) * log_one_plus_exp(score)

    def hits(self, output: Tensor, target: Tensor) -> Tensor | None:
        if bool(((target != 0) & (target != 1)).any()):
            return None
        return (output > 0) == (target > 0.5)


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

    def magnitude(self, output: Tensor, target: Tensor, losses: Tensor) -> Tensor:
        z, y = output.detach().double(), target.double()
        return (z.exp() + y * z.abs()).reshape(len(z), -1).sum(dim=1)


@dataclass(frozen=True, eq=False)
class CallableLoss(ModelLoss):
    """A callable (output, target) -> one loss per example; it gets the model's output as it is, whatever that is."""

    whole_output: ClassVar[bool] = True
    needs_target: ClassVar[bool] = False
    function: Callable[[Any, Any], Tensor] = lambda output, target: output
    one_will_do: bool = False
    """Whether a single number is one row: the loss of an input that is one whole."""

    @property
    def name(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def check(self, output: Any, target: Any) -> Any:
        return target

    def per_example(self, output: Any, target: Any) -> Tensor:
        losses = self.function(output, target)
        if not isinstance(losses, Tensor):
            raise TypeError(f"the loss must return a tensor, one loss per example; {self.name} returned {losses!r}")
        if losses.ndim == 0 and self.one_will_do:
            return losses.double()[None]
        if losses.ndim != 1:
            raise ValueError(
                f"the loss must return one loss per example, shape (n,); {self.name} returned shape "
                f'{tuple(losses.shape)}. Use reduction="none" and average over everything but the examples'
            )
        return losses.double()


_NAMED: dict[str, type[ModelLoss]] = {
    "squared_error": SquaredError,
    "logistic": Logistic,
    "cross_entropy": CrossEntropy,
    "poisson": Poisson,
}


def model_loss(loss: Any) -> ModelLoss:
    """The loss as a value: from its name, a torch loss module, or a callable that returns one loss per example.

    >>> model_loss("cross_entropy").name
    'cross_entropy'
    >>> model_loss(nn.CrossEntropyLoss(label_smoothing=0.1)).label_smoothing
    0.1
    """
    if isinstance(loss, ModelLoss):
        return loss
    if isinstance(loss, str):
        if loss not in _NAMED:
            raise ValueError(f"unknown loss {loss!r}: use one of {', '.join(map(repr, _NAMED))}, or a callable")
        return _NAMED[loss]()
    if isinstance(loss, type) and issubclass(loss, nn.Module):
        raise TypeError(f"loss is the class {loss.__name__}; pass an instance, {loss.__name__}()")
    found = torch_loss(loss)
    if found is not None:
        return found
    if isinstance(loss, nn.Module) and getattr(loss, "reduction", "none") != "none":
        raise ValueError(f'{loss} averages over examples; build it with reduction="none"')
    if callable(loss):
        return CallableLoss(function=loss)
    raise TypeError(f"loss must be a name or a callable, got {type(loss).__name__}")


def is_loss(value: Any) -> bool:
    """Whether an argument can only be meant as a loss, and not as data."""
    return isinstance(value, str | ModelLoss | nn.Module) or (callable(value) and not isinstance(value, Tensor))
