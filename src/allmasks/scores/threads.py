"""One thread for the compiled scores of a call, where others already share out the work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import Any

import numba

__all__ = ["one_thread"]


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
    numba.get_num_threads()  # loads the layer
    return threading.Lock() if numba.threading_layer() == "workqueue" else nullcontext()
