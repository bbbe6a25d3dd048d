"""numba's threads: a launch that leaves torch's number alone; and one thread, where others share out the work."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import Any

import numba

__all__ = ["launch", "one_thread", "parallel"]


def parallel(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`numba.njit(cache=True, parallel=True)`, with numba's threads launched by `launch`."""

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        kernel = numba.njit(cache=True, parallel=True, **options)(function)

        @functools.wraps(function)
        def call(*args: Any) -> Any:
            launch()
            return kernel(*args)

        return call

    return compiled


@lru_cache(maxsize=1)
def launch() -> int:
    """Start numba's threads, once a process, and return how many there are.

    With OpenMP the launch sets how many threads the caller's parallel regions have, which is torch's own setting:
    training would go on with another number, and so with other last digits.
    """
    torch = sys.modules.get("torch")
    before = None if torch is None else torch.get_num_threads()
    try:
        return numba.get_num_threads()
    finally:
        if torch is not None and torch.get_num_threads() != before:
            torch.set_num_threads(before)


@contextmanager
def one_thread() -> Iterator[None]:
    """numba's kernels on the calling thread alone; its setting, which is each thread's own, comes back as it was."""
    with _turn():
        before = numba.get_num_threads()
        numba.set_num_threads(1)
        try:
            yield
        finally:
            numba.set_num_threads(before)


@lru_cache(maxsize=1)
def _turn() -> Any:
    """numba's own pool must not be entered by two threads at once; OpenMP and TBB may."""
    launch()
    return threading.Lock() if numba.threading_layer() == "workqueue" else nullcontext()
