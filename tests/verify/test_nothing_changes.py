"""What `verify` borrows it gives back, whatever happens: parameters, buffers, generators, flags, hooks, gradients."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import allmasks as am


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm, self.drop, self.b = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.4), nn.Linear(16, 3)
        self.fails, self.calls = None, 0

    def forward(self, x):
        self.calls += 1
        if self.fails is not None and self.calls > 5:
            raise self.fails
        return self.b(self.drop(self.norm(self.a(x)).tanh()))


def state(model, optimizer, generator):
    return {
        "parameters": [p.detach().clone() for p in model.parameters()],
        "buffers": [b.clone() for b in model.buffers()],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "same": [id(p) for p in model.parameters()] + [id(p.grad) for p in model.parameters()],
        "flags": [(m.training, *(p.requires_grad for p in m.parameters(recurse=False))) for m in model.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()],
        "everywhere": [len(nn.modules.module._global_forward_hooks), len(nn.modules.module._global_forward_pre_hooks)],
        "seeds": [
            torch.get_rng_state(),
            torch.from_numpy(np.random.get_state()[1].astype(np.int64)),  # noqa: NPY002
            generator.get_state(),
        ],
        "words": [random.getstate(), np.random.get_state()[2:]],  # noqa: NPY002
        "optimizer": [len(optimizer.state), optimizer.param_groups[0]["lr"]],
        "modes": [torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.get_default_dtype()],
    }


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def setting():
    model, generator = Net(), torch.Generator().manual_seed(5)
    model.norm.eval()
    model.b.weight.requires_grad_(False)
    for p in model.a.parameters():
        p.grad = torch.randn_like(p)
    model.drop.register_forward_hook(lambda module, args, output: None)
    x, y = torch.randn(16, 6), torch.randint(0, 3, (16,))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def step():
        random.random(), np.random.rand(), torch.rand(1, generator=generator)  # noqa: NPY002
        return F.cross_entropy(model(x), y)

    return model, x, y, optimizer, generator, step


@pytest.mark.parametrize("fails", [None, OSError("the disk is full"), KeyboardInterrupt()], ids=str)
@pytest.mark.parametrize("own", [True, False])
def test_everything_is_as_before(own, fails):
    model, x, y, optimizer, generator, step = setting()
    before = state(model, optimizer, generator)
    model.fails = fails
    if fails is None:
        assert am.verify(model, x, y, "cross_entropy", step=step if own else None, passes=16).ok
    else:
        with pytest.raises(type(fails)):
            am.verify(model, x, y, "cross_entropy", step=step if own else None, passes=16)
    after = state(model, optimizer, generator)
    assert [name for name in before if not equal(before[name], after[name])] == []


def test_a_step_that_raises_in_backward_or_moves_parameters_leaves_nothing_behind():
    model, x, y, optimizer, generator, _ = setting()
    model.norm.train()
    before = state(model, optimizer, generator)

    def moves():
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    with pytest.raises(ValueError, match=r"step\(\) moved the parameters"):
        am.verify(model, x, y, "cross_entropy", step=moves, passes=16)

    class Breaks(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return value.clone()

        @staticmethod
        def backward(ctx, grad):
            raise RuntimeError("no way back")

    with pytest.raises(RuntimeError, match="no way back"):
        am.verify(model, x, y, "cross_entropy", step=lambda: Breaks.apply(F.cross_entropy(model(x), y)), passes=16)
    assert all(equal(before[name], state(model, optimizer, generator)[name]) for name in before if name != "optimizer")
