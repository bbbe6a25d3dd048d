"""Two functions share a fingerprint only if they would do the same."""

import functools
import random
import subprocess
import sys
import threading
import types

import numpy as np
import pytest
import torch
from torch import nn

from allmasks.fingerprint import NotReadable, fingerprint

OFFSET = 1.0


def scaled(factor, x):
    return factor * x


class Trainer:
    def __init__(self, width):
        self.width = width

    def fit(self, p, seed):
        return self.width * p

    def __call__(self, p, seed):
        return self.width * p


def closed_over(value):
    return lambda p, seed: value


def twice():
    return lambda x: x + OFFSET


class Notes(dict):
    def __init__(self, version):
        self.version = version


def carrying(value):
    def fit(p, seed):
        return fit.scale * p

    fit.scale = value
    return fit


def made(value):
    class Fit:
        rate = value

        def __call__(self, p, seed):
            return self.rate * p

    return Fit


def holding(kind, value):
    return type("Fit", (), {"it": kind(lambda *_: value), "__call__": lambda self, p, seed: self.it})()


def reading(expression, **held):
    """A function of another file, which has imported a file of its user's."""
    helpers = types.ModuleType("helpers")
    for name, value in held.items():
        exec(f"{name} = {value}" if name != "f" else f"def f(p): return {value}", vars(helpers))
    names = {"helpers": helpers, "__name__": "script"} | ({"f": helpers.f} if "f" in held else {})
    exec(f"def fit(p, seed): return {expression}", names)
    return names["fit"]


def test_the_process_s_random_state_is_no_part_of_a_function():
    """Else no second call would find what the first one kept."""
    for draw in (random.random, random.randint, np.random.normal):
        before = fingerprint(closed_over(draw))
        draw(1, 2) if draw is not random.random else draw()
        assert fingerprint(closed_over(draw)) == before


def test_each_kind_that_a_name_does_not_tell_apart():
    net, other = nn.Linear(2, 2), nn.Linear(2, 2)
    kinds = {
        "partial": (functools.partial(scaled, 2), functools.partial(scaled, 3)),
        "partial by keyword": (functools.partial(scaled, x=2), functools.partial(scaled, x=3)),
        "callable object": (Trainer(1), Trainer(2)),
        "bound method": (Trainer(1).fit, Trainer(2).fit),
        "lambda": (lambda p, seed: p, lambda p, seed: -p),
        "constant": (lambda p, seed: p + 1, lambda p, seed: p + 2),
        "number and truth": (lambda: 1, lambda: True),
        "closure": (closed_over(1), closed_over(2)),
        "array": (closed_over(np.zeros(3)), closed_over(np.ones(3))),
        "dtype": (closed_over(np.zeros(3)), closed_over(np.zeros(3, np.float32))),
        "tensor": (closed_over(torch.zeros(2)), closed_over(torch.ones(2))),
        "bfloat16": (closed_over(torch.zeros(2).bfloat16()), closed_over(torch.ones(2).bfloat16())),
        "module": (closed_over(net), closed_over(other)),
        "attribute": (lambda x: x.min(), lambda x: x.max()),
        "function inside": (closed_over(lambda: 1), closed_over(lambda: 2)),
        "order": (closed_over([1, 2]), closed_over([2, 1])),
        "shared or equal": (closed_over([a := [1], a]), closed_over([[1], [2]])),
        "ufunc": (closed_over(np.sin), closed_over(np.cos)),
        "builtin": (closed_over(min), closed_over(max)),
        "method of a builtin": (closed_over({1: 2}.get), closed_over({1: 3}.get)),
        "operator of a number": (closed_over((5).__add__), closed_over((6).__add__)),
        "cached": (functools.lru_cache(closed_over(1)), functools.lru_cache(closed_over(2))),
        "attribute of a function": (carrying(1), carrying(2)),
        "attribute of a class": (closed_over(made(1)), closed_over(made(2))),
        "object of a class": (made(1)(), made(2)()),
        "object of a class whose parent differs": (type("C", (made(1),), {})(), type("C", (made(2),), {})()),
        "static method": (holding(staticmethod, 1), holding(staticmethod, 2)),
        "class method": (holding(classmethod, 1), holding(classmethod, 2)),
        "property": (holding(property, 1), holding(property, 2)),
        "module of one's own": (reading("helpers.lr * p", lr=0.1), reading("helpers.lr * p", lr=0.2)),
        "function of a module": (reading("helpers.f(p)", f="p + 1"), reading("helpers.f(p)", f="p + 2")),
        "function from a module": (reading("f(p)", f="p + 1"), reading("f(p)", f="p + 2")),
        "dict with a state": (closed_over(Notes(1)), closed_over(Notes(2))),
        "masked array": (closed_over(np.ma.array([1.0, 2.0], mask=[0, 1])), closed_over(np.ma.array([1.0, 2.0]))),
        "sparse": (closed_over(torch.eye(2).to_sparse()), closed_over((2 * torch.eye(2)).to_sparse())),
        "conjugate": (closed_over(torch.tensor([1j])), closed_over(torch.tensor([1j]).conj())),
        "object array": (closed_over(np.array([1, None])), closed_over(np.array([2, None]))),
        "generator": (closed_over(np.random.default_rng(1)), closed_over(np.random.default_rng(2))),
    }
    for name, (one, two) in kinds.items():
        assert fingerprint(one) != fingerprint(two), name
        assert fingerprint(one) == fingerprint(one), name
    assert fingerprint(closed_over({1, 2, "a"})) == fingerprint(closed_over({"a", 2, 1}))
    assert fingerprint(twice()) == fingerprint(twice())


def test_a_default_and_a_global_count(monkeypatch):
    def fit(p, width=8):
        return width * p + OFFSET

    before = fingerprint(fit)
    fit.__defaults__ = (9,)
    assert fingerprint(fit) != before
    fit.__defaults__ = (8,)
    assert fingerprint(fit) == before
    monkeypatch.setitem(globals(), "OFFSET", 2.0)
    assert fingerprint(fit) != before


def test_a_value_that_contains_itself_ends():
    loop = [1]
    loop.append(loop)
    assert fingerprint(closed_over(loop)) == fingerprint(closed_over(loop))


def test_another_process_computes_the_same():
    """String hashes differ between processes, and with them the order of sets."""
    program = (
        "import numpy as np, functools\nfrom allmasks.fingerprint import fingerprint\n"
        "X = np.arange(5.0); names = {'a', 'b', 'c', 'd'}\n"
        "def fit(p, seed, *, k=frozenset('xyz')):\n    return [n in names for n in ('a', 'q')], X.sum() in {1, 2, 3}\n"
        "print(fingerprint(functools.partial(fit, k=2)), fingerprint(fit))"
    )
    runs = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout for _ in "ab"
    }
    assert len(runs) == 1
    assert len(runs.pop().split()) == 2


def test_what_cannot_be_read_says_so(tmp_path):
    with open(tmp_path / "log", "w") as file, pytest.raises(NotReadable, match="a value of type TextIOWrapper"):
        fingerprint(closed_over(file))
    with pytest.raises(NotReadable, match="a value of type lock cannot be read"):
        fingerprint(closed_over(threading.Lock()))
    with pytest.raises(NotReadable, match="a tensor cannot be read"):
        fingerprint(closed_over(torch.empty(2, device="meta")))
