"""Threads for compiled code: torch's own OpenMP team, so that no second pool spins against it.

numba's threads would be a pool beside torch's, and after each parallel region both wait by spinning: on few cores the
one can keep the other from its work. So the body is handed to `GOMP_parallel` of the very OpenMP that torch runs on
(GNU's, or LLVM's and Intel's, which have the entry too on Linux). Where there is none, Python threads run it: compiled
code holds no lock of theirs.

A body takes one address, of a block of 64-bit numbers whose first is the next task's number. Every thread takes tasks
by `next_task` until none is left; which thread does what, and how many come, changes nothing. The block is bytes that
are packed anew for each call, and compiled code counts in them: they are quicker to make than named fields.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache
from pathlib import Path
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = ["alone", "next_task", "run"]


@intrinsic
def next_task(context: Any, address: Any) -> Any:
    """The number at this address, which is raised by one for whoever asks next."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(64)
        return builder.atomic_rmw("add", builder.inttoptr(args[0], word.as_pointer()), word(1), "monotonic")

    return types.int64(types.int64), generate


@lru_cache(maxsize=64)
def alone(body: int) -> Callable[[bytes], None]:
    """The compiled body at this address as a function of its block, on the caller's thread."""
    return ctypes.CFUNCTYPE(None, ctypes.c_char_p)(body)


def run(body: int, block: bytes, threads: int) -> None:
    """Call the compiled `body(block)` on up to `threads` threads and return when all are done.

    A process that was forked from another starts none: it lacks its parent's.
    """
    if threads < 2 or _forked:
        alone(body)(block)
        return
    region = _region()
    if region is not None:
        region(body, block, threads, 0)
    else:
        _on_pool(alone(body), block, threads)


def _on_pool(body: Callable[[bytes], None], block: bytes, threads: int) -> None:
    others = [_pool(threads - 1).submit(body, block) for _ in range(threads - 1)]
    try:
        body(block)
    finally:  # whatever interrupts this thread, the memory they write to is not let go before they are done
        wait(others)
    for other in others:
        other.result()


@lru_cache(maxsize=1)
def _region() -> Any:
    """GOMP_parallel(function, argument, threads, flags) of the OpenMP that torch is linked to, or None."""
    torch = sys.modules.get("torch")
    if torch is None or not sys.platform.startswith("linux"):
        return None
    try:
        # A name is looked up in the library's own dependencies, in order: what torch itself calls is what is found.
        found = ctypes.CDLL(str(Path(str(torch.__file__)).parent / "lib" / "libtorch_cpu.so")).GOMP_parallel
    except (OSError, AttributeError):
        return None
    found.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint]
    found.restype = None
    return found


@lru_cache(maxsize=8)
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="allmasks")


_forked = False


def _after_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
