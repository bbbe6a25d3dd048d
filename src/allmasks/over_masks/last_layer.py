"""The masks before a last Linear integrated exactly: torch in and out, the formulas of `allmasks.scores` inside."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from allmasks.dropped_scores import expected_score_loss
from allmasks.methods import ClosedForm, Method
from allmasks.results import Guarantee, weakest

__all__ = ["ScoreTerm", "TermsResult", "expected_score_terms"]


@dataclass(frozen=True, eq=False)
class ScoreTerm:
    """One scalar score S = weight · h + bias whose loss is `loss(S, target)`, a name of `allmasks.losses`.

    mass : (n,) what each row's loss is multiplied by; None for 1.
    size, bias_size : magnitudes of the weights and bias that the model itself computes with, where the score is a
        difference of its outputs; None where they are those of `weight` and `bias`.
    """

    weight: Tensor
    bias: Tensor | None
    target: Tensor
    loss: str
    mass: Tensor | None = None
    size: Tensor | None = None
    bias_size: Tensor | None = None


@dataclass(frozen=True)
class TermsResult:
    """Sum over score terms of the mean loss of each row: value carries gradients, error does not."""

    value: Tensor
    error: Tensor
    guarantee: Guarantee
    method: Method


def expected_score_terms(
    hidden: Tensor,
    terms: list[ScoreTerm],
    p: float,
    *,
    repeat: int = 1,
    method: Method | None = None,
    round_off: float = 0.0,
) -> TermsResult:
    """Σ_k E over masks of loss_k(w_k · (m ⊙ h) / (1 − p) + b_k), for each row of `hidden`.

    Parameters
    ----------
    hidden : (repeat * n, d) inputs of the dropout; n targets are repeated `repeat` times.
    round_off : by how much of itself the model's arithmetic may be off in each product that its outputs add up.
    """
    value = hidden.new_zeros(len(hidden), dtype=torch.float64)
    error = torch.zeros_like(value)
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
        if round_off:
            error = error + mass * _moved(run, hidden.detach().double(), term, run.value.to(error.device), round_off)
        guarantees.append(run.guarantee)
        used = run.method
    assert used is not None
    return TermsResult(value, error, weakest(*guarantees), used)


def _moved(run: _Run, h: Tensor, term: ScoreTerm, value: Tensor, share: float) -> Tensor:
    """(n,) how far each row's mean loss can lie from that of a model whose products are off by this share.

    Under a mask m the score is then off by share · (Σ mⱼ|wⱼhⱼ|/(1−p) + |b|). Its mean has no 1/(1−p) left, which is all
    that a loss of slope 1 asks for; its second moment has one, and where the loss is exponential, so do the masks that
    make up the mean: there the moved score is integrated by the same product of factors as the score itself.
    """
    w = term.weight.detach().double()
    size = w.abs() if term.size is None else term.size.to(h)
    own = torch.zeros((), dtype=h.dtype, device=h.device) if term.bias is None else term.bias.detach().to(h)
    bias = own.abs() if term.bias_size is None else term.bias_size.to(h)
    p, q = run.p, 1.0 - run.p
    reach = h.abs() @ size + bias
    if run.loss == "squared_error":
        off = share * (reach**2 + p / q * (h**2 @ size**2)).sqrt()
        return 2 * value.clamp(min=0).sqrt() * off + off**2 + share * value
    if run.loss == "poisson":
        y = torch.from_numpy(run.target).to(h)
        products = h * w / q
        as_it_is = _log_factor(products, p)
        moved = (_log_factor(products + share * h.abs() * size / q, p) - as_it_is).sum(dim=1) + share * bias
        return (own + as_it_is.sum(dim=1)).exp() * moved.expm1() + share * (y * reach + value.abs())
    return share * (reach + value)


def _log_factor(product: Tensor, p: float) -> Tensor:
    """log(p + (1 − p) e^product), elementwise."""
    dropped = torch.full_like(product, math.log(p) if p else -math.inf)
    return torch.logaddexp(dropped, product + math.log1p(-p))


class _Run:
    """One score expectation: what the forward pass leaves for the caller and for the backward pass."""

    value: Tensor
    error: Tensor
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
        run.value = value
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
        # log E exp(a m / (1 − p)) of one unit, m being 1 with probability 1 − p; below 0 and above it from powers of at
        # most 1. logaddexp has no second derivative where one of its terms is nothing beside the other.
        raised = h * w / (1 - p)
        below, above = raised.where(raised < 0, 0.0), raised.where(raised >= 0, 0.0)
        log_moments = (p + (1 - p) * below.exp()).log() + above + (p * (-above).exp() + (1 - p)).log() if p else raised
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
