"""Exact errors of float32 nets contain the mean over the net's own float32 outputs, and that of exact arithmetic."""

import numpy as np
import pytest
import torch
from torch import nn

import allmasks as am
from allmasks.methods import Enumeration
from truth import every_mask

Long = np.longdouble
N, D = 60, 6


def losses(name, z, y):
    """(n,) losses of long double outputs (n, k)."""
    if name == "squared_error":
        return ((z - y) ** 2).sum(axis=1)
    if name == "poisson":
        return (np.exp(z) - y * z).sum(axis=1)
    if name == "logistic":
        return (y * np.logaddexp(Long(0), -z) + (1 - y) * np.logaddexp(Long(0), z)).sum(axis=1)
    top = z.max(axis=1, keepdims=True)
    return (top[:, 0] + np.log(np.exp(z - top).sum(axis=1))) - z[np.arange(len(z)), y]


def problem(name, outputs, p, scale, dtype, seed):
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Dropout(p), nn.Linear(D, outputs))
    with torch.no_grad():
        # Products of both signs: outputs are differences of what they are made of.
        net[1].weight.copy_(torch.from_numpy(rng.normal(size=(outputs, D)) * scale))
    x = torch.from_numpy(rng.normal(size=(N, D)))
    y = {
        "squared_error": lambda: rng.normal(size=(N, outputs)),
        "poisson": lambda: rng.poisson(2, size=(N, outputs)).astype(float),
        "logistic": lambda: rng.random((N, outputs)).round(),
        "cross_entropy": lambda: rng.integers(outputs, size=N),
    }[name]()
    return net.to(dtype), x.to(dtype), y


def truths(name, net, x, y, p):
    """Means in long double: of the outputs that torch computes in the net's own dtype, and of exact ones."""
    head = net[1]
    w, b = (t.detach().double().numpy().astype(Long) for t in (head.weight, head.bias))
    h, q = x.double().numpy().astype(Long), 1 - Long(p)
    own, exact = np.zeros(N, Long), np.zeros(N, Long)
    for kept, share in zip(*every_mask([p] * D, Long), strict=True):
        with torch.no_grad():
            z = head(x * torch.from_numpy(kept.astype(int)) * (1.0 / (1.0 - p))).double().numpy().astype(Long)
        own += share * losses(name, z, y)
        exact += share * losses(name, (h * kept / q) @ w.T + b, y)
    return own, exact


CASES = [
    (name, outputs, p, scale)
    for name, outputs in (
        ("squared_error", 2),
        ("poisson", 1),
        ("logistic", 2),
        ("cross_entropy", 2),
        ("cross_entropy", 4),
    )
    for p, scale in ((0.5, 1.0), (0.999, 0.02), (0.999, 0.03), (0.99999, 0.0005), (0.0, 3.0))
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("name", "outputs", "p", "scale"), CASES)
def test_the_error_holds_for_the_models_own_arithmetic(name, outputs, p, scale, dtype):
    net, x, y = problem(name, outputs, p, scale, dtype, seed=int(1000 * scale) + outputs)
    own, exact = truths(name, net, x, y, p)
    for method in (None, Enumeration()):
        with torch.no_grad():
            found = am.expected_loss(net, x, torch.from_numpy(y), name, method=method)
        assert found.guarantee == "exact"
        value, error = (t.numpy() for t in (found.per_example, found.per_example_error))
        for truth in (own, exact):
            outside = np.abs(value - truth) > error
            assert not outside.any(), (np.abs(value - truth) / error).max()
            assert abs(found.value.item() - truth.mean()) <= float(found.error)
        # A bound that says something: no more than about a thousand roundings of the loss under a typical mask.
        if p == 0.5:
            assert np.median(error / (1 + np.abs(value))) < 2e3 * torch.finfo(dtype).eps


@pytest.mark.parametrize("loss", ["logistic", nn.BCEWithLogitsLoss(reduction="sum"), nn.SoftMarginLoss()])
@pytest.mark.parametrize("size", [1.0, 40.0, 680.0, 710.0, 1e4, 1e30])
def test_logits_of_any_size(loss, size):
    """log(1 + e^z) − z y where e^z overflows, and where the two terms are equal to the last digit."""
    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        net[1].weight.fill_(size)
    x = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [1.0, 1.0]]).double()
    y = torch.tensor([[1.0], [0.0], [0.0]]).double()
    given = 2 * y - 1 if isinstance(loss, nn.SoftMarginLoss) else y
    # Scores 0 (¼), 2 size (½) and 4 size (¼), the right way round in the first two rows.
    right = [np.logaddexp(Long(0), -Long(k) * Long(size)) for k in (0, 2, 4)]
    wrong = [np.logaddexp(Long(0), Long(k) * Long(size)) for k in (0, 2, 4)]
    truth = [(a[0] + 2 * a[1] + a[2]) / 4 for a in (right, right, wrong)]
    for method in (None, Enumeration()):
        found = am.expected_loss(net, x, given, loss, method=method)
        for i in range(3):
            assert abs(found.per_example[i].item() - truth[i]) <= float(found.per_example_error[i])
        assert bool(torch.isfinite(found.per_example_error).all())
        (gradient,) = torch.autograd.grad(found.value, net[1].weight)
        assert bool(torch.isfinite(gradient).all())


def test_unit_penalty_where_the_exponential_overflows():
    """The issue's input: a penalty of 0 is 0, and not infinite minus infinite."""
    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1000.0, 1000.0]]))
    x, y = torch.tensor([[1.0, 1.0]]).double(), torch.zeros(1, 1).double()
    (found,) = am.diagnose.unit_penalty(net, (x, y), "logistic")
    assert found.penalty.tolist() == [0.0, 0.0]
    assert np.isfinite(found.penalty_error).all()
    assert np.isfinite(found.second_order).all()


def test_an_example_without_a_formula_anywhere_in_the_data():
    """Targets that no formula takes may come after the first examples; then masks are listed."""
    net, x, y = problem("cross_entropy", 2, 0.5, 1.0, torch.float64, seed=3)
    target = torch.from_numpy(y)
    target[50] = -100
    found = am.expected_loss(net, x, target, "cross_entropy", batch_size=16)
    listed = am.expected_loss(net, x, target, "cross_entropy", method=Enumeration())
    assert found.guarantee == "exact"
    assert found.value.item() == pytest.approx(listed.value.item(), rel=1e-13)
    net, x, _ = problem("poisson", 1, 0.5, 0.1, torch.float64, seed=3)
    loss = nn.PoissonNLLLoss()
    # The last target is none of the Poisson loss of a score, and torch takes it.
    target = torch.where(torch.arange(60) == 59, -1.0, 1.0).double()[:, None]
    assert am.expected_loss(net, x, target, loss).n_masks == 2**D
