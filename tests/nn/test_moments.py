"""Mean and variance of every layer are those of its docstring: a fixed number of masks, and a bias that is caught."""

import numpy as np
import pytest
import torch

import allmasks as am
from allmasks.masks import alpha_constants
from allmasks.nn.geometry import block_law
from allmasks.nn.law import drawn_law

K = 20_000
P = 0.3
f = am.nn.functional


def plain(x):
    law = drawn_law(P)
    return x, law.p / (1 - law.p) * x**2


def alpha(x):
    p = drawn_law(P).p
    c = alpha_constants(p)
    q = 1 - p
    return c.scale * (q * x + p * c.dropped) + c.shift, c.scale**2 * p * q * (x - c.dropped) ** 2


def blocks(x):
    kept = torch.from_numpy(block_law((1, *x.shape), 2, P).kept_probability())
    return x, (1 - kept) / kept * x**2


def unit_rates(x):
    return x, UNITS / (1 - UNITS) * x**2


UNITS = torch.tensor([0.0, 0.1, 0.5, 0.9], dtype=torch.float64)
"""32 bits decide: within 2**-33 of these."""

SHAPES = {1: (6,), 2: (3, 4), 3: (2, 4, 4), 4: (2, 3, 2, 2)}

# layer, the axes of one example, mean and variance of it over masks
CASES = {
    "Dropout": (am.nn.Dropout(P), 2, plain),
    "Dropout, rates": (am.nn.Dropout(UNITS), 2, unit_rates),
    "Dropout1d": (am.nn.Dropout1d(P), 2, plain),
    "Dropout2d": (am.nn.Dropout2d(P), 3, plain),
    "Dropout3d": (am.nn.Dropout3d(P), 4, plain),
    "AlphaDropout": (am.nn.AlphaDropout(P), 2, alpha),
    "FeatureAlphaDropout": (am.nn.FeatureAlphaDropout(P), 3, alpha),
    "GaussianDropout": (am.nn.GaussianDropout(P), 2, lambda x: (x, P / (1 - P) * x**2)),
    "LockedDropout": (am.nn.LockedDropout(P, batch_first=True), 2, plain),
    "DropPath": (am.nn.DropPath(P), 2, plain),
    "DropBlock2d": (am.nn.DropBlock2d(P, 2), 3, blocks),
}


def worst(values, expected):
    """The largest z-score over the elements; one that never varies must be right as it stands."""
    spread, gap = values.std(0) / len(values) ** 0.5, values.mean(0) - expected
    still = spread < 1e-12 * (1 + expected.abs())
    assert (gap[still].abs() < 1e-9).all()
    return float((gap[~still] / spread[~still]).abs().max())


def check(draws, mean, variance):
    squares = (draws - mean) ** 2
    varies = squares.std(0) > 1e-9  # at p = 1/2 the squares are all the same
    assert worst(draws, mean) < 4.5
    assert worst(squares, variance) < 4.5
    moving = draws.std(0) > 0
    assert worst(draws[:, moving] * 1.05, mean[moving]) > 4.5  # a mean 5 % off
    assert worst(squares[:, varies] * 1.1, variance[varies]) > 4.5  # a variance 10 % off


@pytest.mark.parametrize("name", CASES)
def test_mean_and_variance_are_those_of_the_docstring(name):
    layer, axes, moments = CASES[name]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(SHAPES[axes], generator=generator, dtype=torch.float64) + 1.5
    torch.manual_seed(5)
    check(layer(x.expand(K, *x.shape)), *moments(x))


def test_drop_connect():
    layer = am.nn.DropConnect(6, 3, p=P, dtype=torch.float64)
    x = torch.linspace(-1, 2, 6, dtype=torch.float64)
    law = drawn_law(P)
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(-1, 1, 18).reshape(3, 6))
        torch.manual_seed(5)
        draws = torch.stack([layer(x) for _ in range(K)])
        mean = layer.weight @ x + layer.bias
        check(draws, mean, law.p / (1 - law.p) * (layer.weight**2 @ x**2))


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.75, 5 / 256, 1e-3])
def test_the_mean_is_the_input_over_all_words(p):
    """Enumeration of the drawn law: every word (or 2**32 of them, counted) times its factor."""
    law = drawn_law(p)
    kept = np.arange(2**law.bits, dtype=np.uint32) < law.threshold if law.bits <= 16 else None
    count = law.threshold if kept is None else int(kept.sum())
    for dtype in (np.float32, np.float64):
        mean = count * float(dtype(law.scale)) / 2**law.bits
        assert abs(mean - 1.0) <= np.finfo(dtype).eps
