"""Exact predictions lie within their own errors, whatever the dtype and the size of logits and rates: against mpmath,
from the net's weights, over every mask."""

import mpmath as mp
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

import allmasks as am
from allmasks.methods import Enumeration
from model_cases import generator
from truth import every_mask

mp.mp.dps = 40


def numbers(tensor):
    return [[mp.mpf(v) for v in row] for row in tensor.double().tolist()]


def every_output(net, x):
    """(probability, outputs) of every mask of a Sequential of Dropout, Linear and Tanh."""
    layers = [(m.p, None) if isinstance(m, nn.Dropout) else (None, m) for m in net]
    widths = []
    for (p, _), layer in zip(layers, list(net)[1:], strict=False):
        if p is not None:
            widths.append(layer.in_features)
    for bits in every_mask([0.5] * sum(widths))[0].astype(int).tolist():
        h, at, weight = [mp.mpf(float(v)) for v in x[0]], 0, mp.mpf(1)
        for p, layer in layers:
            if p is not None:
                q, mine = 1 - mp.mpf(p), bits[at : at + len(h)]
                at += len(h)
                weight *= q ** sum(mine) * mp.mpf(p) ** (len(h) - sum(mine))
                h = [v / q if kept else mp.mpf(0) for v, kept in zip(h, mine, strict=True)]
            elif isinstance(layer, nn.Linear):
                bias = numbers(layer.bias[None])[0]
                h = [mp.fdot(row, h) + b for row, b in zip(numbers(layer.weight), bias, strict=True)]
            else:
                h = [mp.tanh(v) for v in h]
        yield weight, h


def entropy(p, rest):
    """−p log p, where 1 − p = rest is known to its own digits."""
    if p == 0:
        return mp.mpf(0)
    return -p * (mp.log1p(-rest) if p > 0.5 else mp.log(p))


def chances(task, z):
    """Each output's probabilities: pairs (1, 0) for binary, all classes otherwise."""
    if task == "binary":
        return [[1 / (1 + mp.exp(-v)), 1 / (1 + mp.exp(v))] for v in z]
    terms = [mp.exp(v - max(z)) for v in z]
    return [[t / mp.fsum(terms) for t in terms]]


def entropies(table):
    return [mp.fsum(entropy(p, mp.fsum(row[:i] + row[i + 1 :])) for i, p in enumerate(row)) for row in table]


def truth(net, x, task, y, precision):
    masks = list(every_output(net, x))

    def mean(rows):
        return [mp.fsum(w * v for (w, _), v in zip(masks, column, strict=True)) for column in zip(*rows, strict=True)]

    found = {}
    if task == "regression":
        values = [z for _, z in masks]
        fits = [
            mp.fprod(
                mp.sqrt(precision / (2 * mp.pi)) * mp.exp(-precision * (v - t) ** 2 / 2)
                for v, t in zip(z, y, strict=True)
            )
            for _, z in masks
        ]
    else:
        tables = [chances(task, z) for _, z in masks]
        values = [[row[0] for row in table] if task == "binary" else table[0] for table in tables]
        averaged = [mean([table[i] for table in tables]) for i in range(len(tables[0]))]
        each = mean([entropies(table) for table in tables])
        found = {"entropy": entropies(averaged), "expected_entropy": each}
        found["mutual_information"] = [a - b for a, b in zip(found["entropy"], each, strict=True)]
        picked = [0 if t else 1 for t in y] if task == "binary" else [int(y[0])]
        fits = [mp.fprod(row[k] for row, k in zip(table, picked, strict=True)) for table in tables]
    found["mean"] = mean(values)
    squares = mean([[(v - m) ** 2 for v, m in zip(row, found["mean"], strict=True)] for row in values])
    found["std"] = [mp.sqrt(s) for s in squares]
    found["log_likelihood"] = [mp.log(mp.fsum(w * f for (w, _), f in zip(masks, fits, strict=True)))]
    return found


def assert_within(result, expected):
    assert result.guarantee == "exact"
    for name, values in expected.items():
        got, error = (getattr(result, name + end).flatten().tolist() for end in ("", "_error"))
        for a, t, e in zip(got, values, error, strict=True):
            assert abs(mp.mpf(a) - t) <= mp.mpf(e), (name, a, mp.nstr(t, 20), e)


RATES = st.sampled_from([0.5, 0.1, 0.3, 0.9, 0.999, 0.001, 1e-6, 0.999999])


def problem(task, dtype, two, outputs, p, size, units=3, seed=1, listed=True):
    return dict(zip(FIELDS, (task, dtype, two, outputs, p, size, units, seed, listed), strict=True))


FIELDS = ("task", "dtype", "two", "outputs", "p", "size", "units", "seed", "listed")
PROBLEMS = st.builds(
    problem,
    st.sampled_from(["regression", "binary", "multiclass"]),
    st.sampled_from([torch.float32, torch.float64]),
    st.booleans(),
    st.integers(1, 3),
    RATES,
    st.integers(-4, 4).map(lambda power: 10.0**power),
    st.integers(1, 3),
    st.integers(0, 10**6),
    st.booleans(),
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(PROBLEMS)
@example(problem("multiclass", torch.float64, True, 3, 0.999999, 1e3))
@example(problem("binary", torch.float32, True, 2, 0.1, 100.0))
@example(problem("binary", torch.float32, False, 1, 0.999, 10.0, listed=False))
@example(problem("regression", torch.float32, False, 1, 0.9, 100.0, listed=False))
def test_exact_predictions_are_off_by_no_more_than_their_errors(problem):
    draw = generator(problem["seed"])
    units, outputs = problem["units"], problem["outputs"] + (problem["task"] == "multiclass")
    layers = [nn.Dropout(problem["p"]), nn.Linear(units, outputs)]
    if problem["two"]:
        layers = [nn.Dropout(problem["p"]), nn.Linear(units, 2), nn.Tanh(), nn.Dropout(0.3), nn.Linear(2, outputs)]
    net = nn.Sequential(*layers).to(problem["dtype"])
    with torch.no_grad():
        for parameter in net[-1].parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * problem["size"])
        if problem["two"]:
            for parameter in net[1].parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=draw))
    x = torch.randn(1, units, generator=draw).to(problem["dtype"])
    precision = None
    if problem["task"] == "regression":
        y = torch.randn(1, outputs, generator=draw) * min(problem["size"], 10.0)
        precision = float(min(1.0, problem["size"] ** -2) * 4)
    else:
        y = torch.randint(2, (1, outputs) if problem["task"] == "binary" else (1,), generator=draw)
    method = Enumeration() if problem["listed"] else None
    result = am.predict(net, x, task=problem["task"], y=y, noise_precision=precision, method=method)
    targets = [mp.mpf(float(v)) for v in y.flatten()]
    assert_within(result, truth(net, x, problem["task"], targets, mp.mpf(precision or 1)))


def fixed(weight, p, dtype=torch.float64):
    weight = torch.as_tensor(weight, dtype=dtype)
    net = nn.Sequential(nn.Dropout(p), nn.Linear(weight.shape[1], len(weight))).to(dtype)
    with torch.no_grad():
        net[1].weight.copy_(weight)
        net[1].bias.zero_()
    return net


def test_a_likelihood_of_large_logits_is_finite():
    """Three eighths: −2.0794 was said, as if the mask that keeps the large logit had no likelihood."""
    found = am.predict(fixed([[400.0, 0.0], [0.0, 0.0]], 0.5), torch.ones(1, 2).double(), task="binary", y=[[1, 1]])
    assert found.log_likelihood.item() == pytest.approx(float(mp.log(mp.mpf(3) / 8)), abs=1e-14)
    assert float(found.log_likelihood_error) < 1e-11


@pytest.mark.parametrize("logit", [30.0, 700.0, 1e4, 1e200])
def test_likelihoods_far_out(logit):
    x = torch.ones(1, 1).double()
    binary = am.predict(fixed([[-logit]], 0.5), x, task="binary", y=[[1]], method=Enumeration())
    classes = am.predict(fixed([[logit], [0.0], [0.0]], 0.5), x, task="multiclass", y=torch.tensor([1]))
    for found, even in ((binary, mp.mpf(1) / 2), (classes, mp.mpf(1) / 3)):
        expected = mp.log((even + mp.exp(-2 * mp.mpf(logit)) / 1) / 2)
        assert abs(found.log_likelihood.item() - float(expected)) <= float(found.log_likelihood_error)


def test_an_impossible_target_of_probabilities_is_said_to_be_so():
    class Certain(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            return torch.sigmoid(self.drop(x) * 1e6)

    found = am.predict(Certain(), torch.ones(1, 1).double() * -1, task="binary", y=[[1]])
    assert found.log_likelihood.item() == pytest.approx(float(mp.log(mp.mpf(1) / 4)))
    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(1, 1), nn.Sigmoid()).double()
    with torch.no_grad():
        net[1].weight.zero_()
        net[1].bias.fill_(-1e6)
    found = am.predict(net, torch.ones(1, 1).double(), task="binary", y=[[1]])
    assert found.log_likelihood.item() == -torch.inf
    assert not bool(torch.isnan(found.log_likelihood_error).any())
