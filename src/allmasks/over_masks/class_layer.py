"""The masks before a last Linear under a softmax integrated between proven bounds: torch in and out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from allmasks.methods import SoftmaxBounds
from allmasks.scores.class_scores import ClassProblem, check_classes
from allmasks.scores.softmax import bounded_losses

__all__ = ["ClassTerm", "bounded_class_loss"]


@dataclass(frozen=True, eq=False)
class ClassTerm:
    """Class scores S = weight h + bias whose loss is Σ_k t_k (log Σ_l e^{S_l} − S_k).

    target : (n, K) float64 t_k, 0 or more: the share of each class, times what the class weighs.
    """

    weight: Tensor
    bias: Tensor | None
    target: Tensor


def bounded_class_loss(
    hidden: Tensor, term: ClassTerm, p: float, *, repeat: int, rule: SoftmaxBounds, round_off: float
) -> tuple[Tensor, Tensor, Tensor]:
    """E over masks of the loss of weight (m ⊙ h) / (1 − p) + bias, for each row of `hidden`.

    Parameters
    ----------
    hidden : (repeat * n, d) inputs of the dropout; n targets are repeated `repeat` times.
    round_off : by how much of itself the model's arithmetic may be off in each product that its outputs add up.

    Returns
    -------
    Middles of the bounds, which carry gradients; what they may be off by; and half of the bounds' width alone.
    """
    bias = hidden.new_zeros(len(term.weight)) if term.bias is None else term.bias
    run = _Run(p, _numpy(term.target.repeat(repeat, 1)), rule)
    value = _ClassExpectation.apply(run, hidden, term.weight, bias)
    half = torch.from_numpy(run.half).to(value.device)
    # A score moves by at most this share of Σ mⱼ |w h| / (1 − p) + |b|, and all of them by no more than the largest of
    # their steps, whose mean over masks is Σ max_k |w_kj h_j|; so does the log-sum-exp, and a score beside it.
    steps = hidden.detach().double().abs() @ term.weight.detach().double().abs().amax(dim=0)
    mass = torch.from_numpy(run.target.sum(axis=1)).to(value.device)
    moved = 2 * round_off * mass * (steps + bias.detach().double().abs().amax())
    return value, half + moved + round_off * value.detach().abs(), half


class _Run:
    """One expectation: what the forward pass leaves for the caller and for the backward pass."""

    half: np.ndarray

    def __init__(self, p: float, target: np.ndarray, rule: SoftmaxBounds) -> None:
        self.p, self.target, self.rule = p, target, rule

    def problem(self, hidden: Tensor, weight: Tensor, bias: Tensor) -> ClassProblem:
        return check_classes(_numpy(weight), _numpy(hidden), self.p, _numpy(bias), None)


class _ClassExpectation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: _Run, hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        found = bounded_losses(run.problem(hidden, weight, bias), run.target, run.rule, False)
        run.half = found.error
        ctx.run = run
        ctx.save_for_backward(hidden, weight, bias)
        return torch.from_numpy(found.value).to(hidden.device)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled():
            raise RuntimeError(
                f"the bounds of the softmax ({ctx.run.rule!r}) have no second derivative; pass the loss as a callable "
                "that returns one loss per example: then every mask goes through the model"
            )
        run: _Run = ctx.run
        problem = run.problem(hidden, weight, bias)
        weighted = ClassProblem(problem.weights, problem.X, problem.p, problem.intercept, _numpy(upstream))
        grad = bounded_losses(weighted, run.target, run.rule, True).gradient
        assert grad is not None
        found = (torch.from_numpy(np.asarray(g)) for g in (grad.X, grad.weights, grad.intercept))
        to_hidden, to_weight, to_bias = (g.to(t) for g, t in zip(found, (hidden, weight, bias), strict=True))
        return None, to_hidden, to_weight, to_bias


def _numpy(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().double().cpu().numpy())
