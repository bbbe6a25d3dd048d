"""Checkpointed parts: what backward computes again has the masks of the forward pass, in both kinds of torch's."""

import functools

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint as torchs
from torch import nn
from torch.utils.checkpoint import checkpoint

import allmasks as am
from allmasks.diagnose import unit_penalty
from allmasks.methods import Enumeration, MonteCarlo

X = torch.randn(4, 4, generator=torch.Generator().manual_seed(1)).double()
Y = torch.zeros(4, 1).double()
FEW = MonteCarlo(n_masks=8)


def part(function, h, kind):
    return function(h) if kind is None else checkpoint(function, h, use_reentrant=kind)


class Block(nn.Module):
    """Dropout as a module, as a function called by the part itself, and drawn by hand while training."""

    def __init__(self, kind):
        super().__init__()
        self.linear, self.drop, self.kind = nn.Linear(4, 4), nn.Dropout(0.5), kind

    def inner(self, h):
        h = F.dropout(self.drop(torch.tanh(self.linear(h))), 0.2, self.training)
        return h * torch.bernoulli(torch.full_like(h[:, :1], 0.9)) / 0.9 if self.training else h

    def forward(self, h):
        return part(self.inner, h, self.kind)


class Net(nn.Module):
    def __init__(self, kind=None, around=None):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.second, self.head = Block(kind), Block(kind), nn.Linear(4, 1)
        self.around = around

    def both(self, h):
        return self.second(self.first(h))

    def forward(self, h):
        return self.head(torch.tanh(part(self.both, h, self.around)))


class Attention(nn.Module):
    def __init__(self, kind=None):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.3, batch_first=True)
            self.head = nn.Linear(4, 1)
        self.kind = kind

    def forward(self, h):
        return self.head(part(self.layer, h[:, None, :].expand(-1, 3, -1), self.kind).mean(dim=1))


def derivatives(net, method, create_graph):
    x = X.clone().requires_grad_()
    result = am.expected_loss(net, x, Y, "squared_error", method=method)
    first = torch.autograd.grad(result.value, (*net.parameters(), x), create_graph=create_graph)
    if not create_graph:
        return [result.value.detach(), *first]
    penalty = sum((g**2).sum() for g in first)
    return [result.value.detach(), *first, *torch.autograd.grad(penalty, tuple(net.parameters()))]


@functools.cache
def right(make, create_graph):
    return derivatives(make().double(), FEW, create_graph)


KINDS = [(False, None), (True, None), (None, False), (None, True), (False, False), (True, True), (True, False)]


@pytest.mark.parametrize(("kind", "around"), KINDS)
def test_gradients_are_those_without_checkpoints(kind, around):
    ours = derivatives(Net(kind, around).double(), FEW, False)
    for a, b in zip(ours, right(Net, False), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [True, False])
def test_second_derivatives_too(kind):
    for a, b in zip(derivatives(Net(kind).double(), FEW, True), right(Net, True), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", [True, False])
def test_attention_inside(kind):
    ours = derivatives(Attention(kind).double(), FEW, False)
    for a, b in zip(ours, right(Attention, False), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def test_other_masks_in_the_recomputation_would_show(monkeypatch):
    # The planted fault: a recomputation that keeps what was dropped.
    from allmasks.sites.hold import _Again

    original = _Again.__init__

    def turned(self, model, wake, rest, answers):
        original(self, model, wake, rest, [a._replace(kept=None if a.kept is None else ~a.kept) for a in answers])

    monkeypatch.setattr(_Again, "__init__", turned)
    ours = derivatives(Net(False).double(), FEW, False)
    assert any(not torch.allclose(a, b, rtol=1e-3) for a, b in zip(ours, right(Net, False), strict=True))


@pytest.mark.parametrize("kind", [True, False])
def test_audit_and_unit_penalty(kind):
    net, plain = Net(kind).double(), Net().double()
    ours, wanted = (unit_penalty(one, (X, Y), "squared_error") for one in (net, plain))
    assert len(ours) == 4
    for a, b in zip(ours, wanted, strict=True):
        assert a.second_order == pytest.approx(b.second_order, rel=1e-9)
        assert a.penalty == pytest.approx(b.penalty, rel=1e-9)
    with torch.no_grad():
        found = am.audit(net, (X, Y), "squared_error", method=FEW, progress=False)
    assert len(found.per_site) == 6


def test_torchs_own_functions_are_back():
    before = torchs.CheckpointFunction, torchs._checkpoint_without_reentrant_generator
    for fails in (False, True):

        def loss(output, y, fails=fails):
            if fails:
                raise ZeroDivisionError
            return (output - y)[:, 0] ** 2

        if fails:
            with pytest.raises(ZeroDivisionError):
                am.expected_loss(Net(True).double(), X, Y, loss)
        else:
            am.expected_loss(Net(True).double(), X, Y, loss, method=FEW)
        assert (torchs.CheckpointFunction, torchs._checkpoint_without_reentrant_generator) == before


def test_exact_methods_and_a_frozen_part():
    # A reentrant part whose input needs no gradient leaves torch without one for its weights; ours has it.
    class Small(nn.Module):
        def __init__(self, kind):
            super().__init__()
            with torch.random.fork_rng():
                torch.manual_seed(0)
                self.body = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Dropout(0.5))
                self.head = nn.Linear(5, 1)
            self.kind = kind

        def forward(self, h):
            return self.head(part(self.body, h, self.kind))

    found = []
    for kind in (None, True, False):
        net = Small(kind).double()
        for method in (None, Enumeration()):
            value = am.expected_loss(net, X, Y, "squared_error", method=method).value
            found.append(torch.autograd.grad(value, net.body[0].weight)[0])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-10, atol=1e-13)
