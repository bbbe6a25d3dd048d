"""Derivatives of any order of E_m[L], against torch's own through a sum over every mask written out."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import allmasks as am
from allmasks.methods import ClosedForm, Enumeration, MonteCarlo
from model_cases import every_thinned

P = 0.3
X = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.tensor([[1.0], [0.0], [0.0], [1.0]], dtype=torch.float64)


def chain(*, both=False):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = [nn.Dropout(P)] if both else []
        return nn.Sequential(*first, nn.Linear(3, 4), nn.Tanh(), nn.Dropout(P), nn.Linear(4, 1)).double()


LOSSES = {
    "squared_error": lambda s, y: (s - y) ** 2,
    "logistic": lambda s, y: F.softplus(s) - y * s,
    "poisson": lambda s, y: s.exp() - y * s,
}


def written_out(net, x, loss):
    """(n,) the loss of each example over every mask, as one graph."""
    widths = [3, 4] if isinstance(net[0], nn.Dropout) else [4]
    return sum(weight * LOSSES[loss](under(x), Y)[:, 0] for weight, under in every_thinned(net, widths))


def derivatives(value, net, x):
    """First; gradient of the gradient penalty; and of that gradient's own square."""
    wanted = (*net.parameters(), x)
    first = torch.autograd.grad(value, wanted, create_graph=True)
    penalty = sum((g**2).sum() for g in first)
    second = torch.autograd.grad(penalty, wanted, create_graph=True)
    third = torch.autograd.grad(sum((g**2).sum() for g in second) + value * penalty, wanted)
    return [*first, *second, *third]


CASES = [
    ("squared_error", None, False), ("squared_error", ClosedForm(), False), ("squared_error", None, True),
    ("squared_error", Enumeration(), True), ("poisson", ClosedForm(), False), ("poisson", Enumeration(), False),
    ("logistic", Enumeration(), False), ("logistic", Enumeration(), True),
]  # fmt: skip


@pytest.mark.parametrize(("loss", "method", "both"), CASES)
def test_derivatives_to_the_third_order(loss, method, both):
    net, x = chain(both=both), X.clone().requires_grad_()
    weight = torch.tensor([1.0, 2.0, 0.0, 3.0], dtype=torch.float64)
    for read, by_hand in (
        (lambda r: r.value, lambda rows: rows.mean()),
        (lambda r: (r.per_example * weight).exp().sum(), lambda rows: (rows * weight).exp().sum()),
    ):
        own = read(am.expected_loss(net, x, Y, loss, method=method))
        right = by_hand(written_out(net, x, loss))
        for a, b in zip(derivatives(own, net, x), derivatives(right, net, x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("batch_size", [1, None])
def test_sampled_masks_and_a_loop_over_them(batch_size):
    # What is sampled is a mean over fixed masks, so its derivatives are differences of its values.
    class Branches(nn.Sequential):
        def forward(self, h):
            h = super().forward(h)
            return h if bool(((h == h) | (h != h)).all()) else -h  # always h, but vmap has no rule for it

    for make in (lambda: chain(both=True), lambda: Branches(*chain(both=True))):
        net = make()
        wanted = tuple(net.parameters())

        def gradients(net=net, wanted=wanted, **more):
            value = am.expected_loss(
                net, X, Y, "squared_error", method=MonteCarlo(n_masks=32), batch_size=batch_size
            ).value
            return torch.autograd.grad(value, wanted, **more)

        first = gradients(create_graph=True)
        second = torch.autograd.grad(sum((g**2).sum() for g in first), wanted)
        step = 1e-5
        sizes = []
        for sign in (1, -1):
            with torch.no_grad():
                for w, s in zip(wanted, second, strict=True):
                    w += sign * step * s
            sizes.append(sum(float((g**2).sum()) for g in gradients()))
            with torch.no_grad():
                for w, s in zip(wanted, second, strict=True):
                    w -= sign * step * s
        along = sum(float((s**2).sum()) for s in second)
        assert (sizes[0] - sizes[1]) / (2 * step) == pytest.approx(along, rel=1e-6)


def test_a_gradient_penalty_trains():
    net = chain()
    value = am.expected_loss(net, X, Y, "squared_error").value
    grads = torch.autograd.grad(value, tuple(net.parameters()), create_graph=True)
    assert all(g.requires_grad for g in grads)
    sum((g**2).sum() for g in grads).backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in net.parameters())


@pytest.mark.parametrize("score", [-800.0, -300.0, 0.5, 300.0])
def test_curvature_where_a_unit_all_but_decides_the_poisson_mean(score):
    p = 0.999
    net = nn.Sequential(nn.Dropout(p), nn.Linear(1, 1)).double()
    with torch.no_grad():
        net[1].weight.fill_(score * (1 - p))
        net[1].bias.fill_(0.25)
    x, y = torch.ones(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    first = torch.autograd.grad(am.expected_loss(net, x, y, "poisson").value, net[1].weight, create_graph=True)
    (second,) = torch.autograd.grad(first[0].sum(), net[1].weight)
    kept = math.exp(score + 0.25)  # E[e^S] = p e^b + (1 − p) e^(w/(1−p) + b)
    torch.testing.assert_close(first[0].item(), kept - 1, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(second.item(), kept / (1 - p), rtol=1e-11, atol=1e-300)


def test_a_formula_without_second_derivative_says_so():
    net = chain()
    value = am.expected_loss(net, X, Y, "logistic").value
    grads = torch.autograd.grad(value, tuple(net.parameters()), create_graph=True)
    with pytest.raises(RuntimeError, match=r"logistic, Fourier\(\)\) has no second derivative.*callable"):
        sum((g**2).sum() for g in grads).backward()
    assert all(module.training for module in net.modules())  # given back all the same
    torch.autograd.grad(am.expected_loss(net, X, Y, "logistic").value, tuple(net.parameters()))


def test_no_gradient_where_there_is_none():
    net = chain()
    found = am.predict(net, X, task="regression")
    assert not found.mean.requires_grad
    with torch.no_grad():
        assert not am.expected_loss(net, X, Y, "squared_error").value.requires_grad
