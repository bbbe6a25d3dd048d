"""What a loss of a model's output is: one number an example, in float64, and what each weighs in the mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from allmasks.over_masks.class_layer import ClassTerm
from allmasks.over_masks.last_layer import ScoreTerm

__all__ = ["ModelLoss", "class_term", "log_one_plus_exp", "score_terms"]


@dataclass(frozen=True, eq=False)
class ModelLoss:
    """Base of the losses: sums over an example's outputs unless a subclass says otherwise."""

    whole_output: ClassVar[bool] = False
    """Whether it is given the model's output as it is, whatever that is."""

    needs_target: ClassVar[bool] = True
    """Whether there is no loss without targets."""

    broadcasts: ClassVar[bool] = True
    """Whether targets (n,) fit outputs (n, 1)."""

    n_outputs: ClassVar[int] = 1
    """How many tensors of the model's output it is about; where more than one, `output` is a tuple."""

    @property
    def name(self) -> str:
        """How reports call it, also the name accepted as `loss=`."""
        raise NotImplementedError

    units: str = "loss"

    score_loss: str | None = None
    """Name of the score loss that each output obeys by itself, where there is one."""

    def check(self, output: Any, target: Any) -> Any:
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

    def check_inputs(self, inputs: Mapping[str, Any], target: Any) -> None:
        """Raise ValueError where the targets, beside a model's keyword inputs, cannot be meant for this loss."""

    def per_example(self, output: Any, target: Any) -> Tensor:
        """(n,) float64 losses of outputs (n, ...) against targets as `check` returns them."""
        losses = self._elementwise(output.double(), target.double())
        return losses.reshape(len(output), -1).sum(dim=1)

    def magnitude(self, output: Any, target: Any, losses: Tensor) -> Tensor:
        """(n,) magnitudes of the terms that these losses are sums of, of which rounding is a share."""
        return losses.detach().abs()

    def _elementwise(self, score: Tensor, y: Tensor) -> Tensor:
        raise NotImplementedError

    def example_weight(self, output: Any, target: Any) -> Tensor | None:
        """(n,) what each example weighs: divided by their total where `normalized`; None for all the same."""
        return None

    @property
    def normalized(self) -> bool:
        """Whether the value is a mean over examples; else a sum of theirs, as torch's "sum" is."""
        return True

    def hits(self, output: Tensor, target: Tensor) -> Tensor | None:
        """(n, ...) whether outputs (n, ...) say what the targets are; None where nothing is classified."""
        return None

    def class_shares(self, target: Tensor, classes: int) -> Tensor | None:
        """(n, K) t_k of an example's loss Σ_k t_k (log Σ e^S − S_k) of its outputs S; None where it is another one."""
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


def class_term(loss: ModelLoss, weight: Tensor, bias: Tensor | None, target: Any, n: int) -> ClassTerm | None:
    """The loss of n rows of a last Linear's outputs as one of a softmax, or None where it is not one."""
    if type(loss).class_shares is ModelLoss.class_shares:
        return None
    shares = loss.class_shares(loss.check(weight.new_zeros(n, len(weight)), target), len(weight))
    return None if shares is None else ClassTerm(weight, bias, shares)


def score_terms(loss: ModelLoss, weight: Tensor, bias: Tensor | None, target: Any, n: int) -> list[ScoreTerm] | None:
    """The loss of n rows of a last Linear's outputs as a sum of score losses, or None where it is not one."""
    squeezed = not loss.broadcasts and len(weight) == 1 and getattr(target, "ndim", 2) == 1
    like = weight.new_zeros(n) if squeezed else weight.new_zeros(n, len(weight))
    return loss.score_terms(weight, bias, loss.check(like, target))


def log_one_plus_exp(z: Tensor) -> Tensor:
    """log(1 + e^z) to full relative precision, and so its first two derivatives, whatever the size of z."""
    return -F.logsigmoid(-z)


def _without_unit_axes(shape: torch.Size) -> tuple[int, ...]:
    return tuple(shape[:1]) + tuple(n for n in shape[1:] if n != 1)
