"""The masks before a last Linear integrated exactly: torch in and out, the formulas of `allmasks.scores` inside."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from allmasks.expect.loss import ScoreTerm
from allmasks.methods import ClosedForm, Method
from allmasks.results import Guarantee, weakest
from allmasks.scores import expected_score_loss

__all__ = ["TermsResult", "expected_score_terms"]


@dataclass(frozen=True)
class TermsResult:
    """Sum over score terms of the mean loss of each row: value carries gradients, error does not."""

    value: Tensor
    error: Tensor
    scale: Tensor
    guarantee: Guarantee
    method: Method


def expected_score_terms(
    hidden: Tensor, terms: list[ScoreTerm], p: float, *, repeat: int = 1, method: Method | None = None
) -> TermsResult:
    """Σ_k E over masks of loss_k(w_k · (m ⊙ h) / (1 − p) + b_k), for each row of `hidden`.

    Parameters
    ----------
    hidden : (repeat * n, d) inputs of the dropout; n targets are repeated `repeat` times.
    """
    value = hidden.new_zeros(len(hidden), dtype=torch.float64)
    error, scale = torch.zeros_like(value), torch.zeros_like(value)
    guarantees: list[Guarantee] = []
    used: Method | None = method
    for term in terms:
        bias = term.bias if term.bias is not None else hidden.new_zeros(())
        run = _Run(term.loss, p, term.target.repeat(repeat), method)
        mass = torch.ones(1, dtype=torch.float64, device=value.device)
        if term.mass is not None:
            mass = term.mass.repeat(repeat).to(value.device)
        value = value + mass * _ScoreExpectation.apply(run, hidden, term.weight, bias)
        error = error + mass * run.error.to(error.device)
        # How far one relative rounding of each product moves the score, times the loss's slope of at most ~1.
        h, w = hidden.detach().double(), term.weight.detach().double()
        scale = scale + mass * (h.abs() @ w.abs() + bias.detach().double().abs()) * run.slope_scale.to(scale.device)
        guarantees.append(run.guarantee)
        used = run.method
    assert used is not None
    return TermsResult(value, error, scale, weakest(*guarantees), used)


class _Run:
    """One score expectation: what the forward pass leaves for the caller and for the backward pass."""

    error: Tensor
    slope_scale: Tensor
    guarantee: Guarantee
    method: Method

    def __init__(self, loss: str, p: float, target: Tensor, method: Method | None) -> None:
        self.loss, self.p, self.requested = loss, p, method
        self.target = _numpy(target)

    def call(self, hidden: Tensor, weight: Tensor, bias: Tensor, **extra: Any) -> Any:
        return expected_score_loss(
            _numpy(weight),
            _numpy(hidden),
            self.target,
            self.p,
            loss=self.loss,
            intercept=float(bias),
            method=self.requested,
            **extra,
        )


class _ScoreExpectation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: _Run, hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        result = run.call(hidden, weight, bias)
        run.guarantee, run.method = result.guarantee, result.method
        run.error = torch.from_numpy(np.asarray(result.per_example_error))
        value = torch.from_numpy(np.asarray(result.per_example))
        run.slope_scale = torch.ones_like(value)
        if run.loss == "squared_error":
            run.slope_scale = 2 * value.clamp(min=0).sqrt()
        elif run.loss == "poisson":
            run.slope_scale = 1 + value.abs()
        ctx.run = run
        ctx.save_for_backward(hidden, weight, bias)
        return value.to(hidden.device)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, *_twice_differentiable(ctx.run, upstream, hidden, weight, bias)
        grad_hidden, grad_weight, grad_bias = torch.zeros_like(hidden), torch.zeros_like(weight), torch.zeros_like(bias)
        # The score room averages with weights of 0 or more; a signed upstream gradient takes two such means.
        for sign in (1.0, -1.0):
            share = _numpy((sign * upstream).clamp(min=0))
            total = float(share.sum())
            if total == 0:
                continue
            grad = ctx.run.call(hidden, weight, bias, sample_weight=share, return_grad=True).grad
            grad_hidden += sign * total * torch.from_numpy(grad["X"]).to(hidden)
            grad_weight += sign * total * torch.from_numpy(grad["weights"]).to(weight)
            grad_bias += sign * total * float(grad["intercept"])
        return None, grad_hidden, grad_weight, grad_bias


def _twice_differentiable(
    run: _Run, upstream: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, ...]:
    """The same gradients with a graph, where the formula can be written down in torch."""
    # Objects of their own: the gradient by one must not run on through the graph of another.
    own = [t.view_as(t) for t in (hidden, weight, bias)]
    hidden, weight, bias = own
    h, w, b = (t.double() for t in (hidden, weight, bias))
    p, score = run.p, h @ w + b
    target = torch.from_numpy(run.target).to(h)
    if run.loss == "squared_error" and isinstance(run.method, ClosedForm):
        value = (score - target) ** 2 + p / (1 - p) * (h**2 @ w**2)
    elif run.loss == "poisson" and isinstance(run.method, ClosedForm):
        # log E exp(a m / (1 − p)) of one unit, m being 1 with probability 1 − p.
        raised = h * w / (1 - p)
        log_moments = torch.logaddexp(raised + math.log1p(-p), torch.full_like(raised, math.log(p) if p else -math.inf))
        value = (log_moments.sum(dim=-1) + b).exp() - target * score
    else:
        raise RuntimeError(
            f"the formula for the last layer's masks ({run.loss}, {run.method!r}) has no second derivative here; pass "
            "the loss as a callable that returns one loss per example: then every mask goes through the model"
        )
    wanted = [t for t in own if t.requires_grad]
    found = iter(torch.autograd.grad((upstream * value).sum(), wanted, create_graph=True))
    return tuple(next(found) if t.requires_grad else torch.zeros_like(t) for t in own)


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().cpu().numpy()
