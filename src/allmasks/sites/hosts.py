"""Python's and NumPy's uniform numbers seen while a model runs: LayerDrop's `random.random() < p` is a mask of one bit.

The functions in `random` and `numpy.random` are replaced, once for all threads, while any hold is open; each asks the
hold of its own thread and otherwise does what it did. Who has imported a function by name goes around us: that the
generator has moved is seen all the same.
"""

from __future__ import annotations

import functools
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from allmasks.sites.calls import Call
from allmasks.sites.draws import uniform_call

__all__ = ["Listener", "hosts_seen", "parse_host"]


class Listener(Protocol):
    """Who is asked when a function outside torch draws."""

    def host(self, name: str, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of the call."""
        ...


def _plain() -> tuple[tuple[int, ...] | None, float, float]:
    return None, 0.0, 1.0


def _between(a: float, b: float) -> tuple[tuple[int, ...] | None, float, float]:
    return None, float(a), float(b)


def _shaped(*shape: int) -> tuple[tuple[int, ...] | None, float, float]:
    return shape or None, 0.0, 1.0


def _sized(size: Any = None) -> tuple[tuple[int, ...] | None, float, float]:
    return None if size is None else tuple(np.atleast_1d(size).tolist()), 0.0, 1.0


def _uniform(low: float = 0.0, high: float = 1.0, size: Any = None) -> tuple[tuple[int, ...] | None, float, float]:
    return _sized(size)[0], float(low), float(high)


FUNCTIONS: dict[str, Callable[..., tuple[tuple[int, ...] | None, float, float]]] = {
    "random.random": _plain,
    "random.uniform": _between,
    "numpy.random.rand": _shaped,
    "numpy.random.uniform": _uniform,
    **{f"numpy.random.{name}": _sized for name in ("random", "random_sample", "ranf", "sample")},
}
"""How the arguments of each that gives uniform numbers are read: (shape, or None for a number; from; to)."""

_NO_DRAWS = ("seed", "getstate", "setstate", "get_state", "set_state", "default_rng", "get_bit_generator")

SEEN: dict[str, Any] = {
    **{
        f"{module.__name__}.{name}": module
        for module in (random, np.random)
        for name in module.__all__
        if name not in (*_NO_DRAWS, "set_bit_generator", "test") and not isinstance(getattr(module, name), type)
    },
    "os.urandom": os,
    "random._urandom": random,
}
"""Every function that draws, and where it lies; those that are no uniform numbers are named and no more."""


class _Open(threading.local):
    def __init__(self) -> None:
        self.listeners: list[Listener] = []


_open = _Open()
_lock = threading.Lock()
_users = 0
_originals: dict[str, Any] = {}


@contextmanager
def hosts_seen(listener: Listener) -> Iterator[None]:
    """What this thread draws from Python's and NumPy's global generators inside is answered by `listener`."""
    _open.listeners.append(listener)
    _replace()
    try:
        yield
    finally:
        _put_back()
        _open.listeners.pop()


def _replace() -> None:
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            for name, owner in SEEN.items():
                _originals[name] = original = getattr(owner, name.rpartition(".")[2])
                setattr(owner, name.rpartition(".")[2], _asking(name, original))


def _put_back() -> None:
    global _users
    with _lock:
        _users -= 1
        if _users == 0:
            for name, original in _originals.items():
                setattr(SEEN[name], name.rpartition(".")[2], original)
            _originals.clear()


def _asking(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def drawn(*args: Any, **kwargs: Any) -> Any:
        if not _open.listeners:
            return original(*args, **kwargs)
        return _open.listeners[-1].host(name, original, args, kwargs)

    return drawn


def parse_host(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    """The draw as a dropout call whose results are numbers or arrays, or None if its arguments are not understood."""
    try:
        shape, low, high = FUNCTIONS[name](*args, **kwargs)
    except (
        KeyError,
        TypeError,
        ValueError,
    ):  # wrong arguments, of which the function itself says more; or bounds in an array
        return None

    def put(values: Tensor) -> Any:
        values = low + (high - low) * values
        return float(values) if shape is None else values.numpy()

    return uniform_call(name.rpartition(".")[2], torch.zeros(shape or (), dtype=torch.float64), put)
