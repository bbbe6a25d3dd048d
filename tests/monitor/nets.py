"""A small net, its data, and a training by hand that is bit for bit repeatable."""

import numpy as np
import torch
from torch import nn

import allmasks as am


def net(seed=0):
    """The net, with every generator that training draws from at its start."""
    am.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    model = nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 8), nn.ReLU(), am.nn.Dropout(0.5),
        nn.Linear(8, 3),
    )  # fmt: skip
    with torch.no_grad():
        for layer in (model[0], model[4], model[7]):
            layer.weight *= 3
    return model


def data(n=24):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 4, generator=generator), torch.randint(0, 3, (n,), generator=generator)


def train(model, epochs, after_epoch=None, loader=None):
    """Returns everything that training leaves: weights, buffers, gradients, flags, and the next random numbers."""
    x, y = data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.train()
    for _ in range(epochs):
        for xb, yb in loader or [(x[:16], y[:16]), (x[16:], y[16:])]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(xb), yb).backward()
            optimizer.step()
        if after_epoch is not None:
            after_epoch()
    grads = [p.grad.clone() for p in model.parameters()]
    random = torch.rand(3), torch.tensor(np.random.random(3))  # noqa: NPY002 - the one models draw from
    flags = torch.tensor([m.training for m in model.modules()])
    return [*model.state_dict().values(), *grads, *random, flags]


def same(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
