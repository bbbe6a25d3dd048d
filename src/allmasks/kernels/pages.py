"""Fresh memory: a tensor the allocator has just mapped costs more in page faults than in dropout.

glibc gives the end of its heap back to the system when the free part grows beyond a threshold, and maps it again, page
by page, at the next call. The threshold follows the largest block that was ever mapped on its own and freed, 32 MB at
most: a process that has freed none spends most of a layer's time on 4 MB in page faults. So one is taken and freed,
untouched, as any program of larger tensors does, and from then on glibc keeps up to 62 MB of free heap. Its price is
that of every such program: blocks that had a mapping of their own now lie in the heap, where what is below a block in
use cannot be given back.

Larger blocks are mapped anew each time, and large pages help them. 64 MB are 16 384 faults in pages of 4 KB and 32 in
pages of 2 MB. Linux gives large pages to who asks, where its setting is "madvise", as in most distributions ("always"
needs no asking, "never" refuses, and nothing changes). Asked for is only memory that is written as a whole at once, so
that no more of it is taken than otherwise, and only such sizes: smaller ones come with the pages of earlier tensors.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from functools import lru_cache
from typing import Any

__all__ = ["FRESH_FROM", "ask_for_large", "keep_freed"]

FRESH_FROM = 1 << 25
"""Bytes from which glibc always maps memory anew (its DEFAULT_MMAP_THRESHOLD_MAX where a long has 64 bits)."""

_MADV_HUGEPAGE = 14


def ask_for_large(address: int, size: int) -> None:
    """Advise the kernel that this memory, still untouched, is best mapped in large pages; never fails."""
    advise = _madvise()
    if advise is not None:
        start = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (address + size - start) // mmap.PAGESIZE * mmap.PAGESIZE
        if length > 0:
            advise(start, length, _MADV_HUGEPAGE)


@lru_cache(maxsize=1)
def keep_freed() -> None:
    """Let glibc keep what is freed below `FRESH_FROM`, once; its own environment variables for this go first."""
    try:
        library = ctypes.CDLL(None)
        # Another allocator in glibc's place has thresholds of its own; to it this is a block like any other.
        library.gnu_get_libc_version  # noqa: B018 - raises where the library is not glibc
        allocate, free = library.malloc, library.free
    except (OSError, TypeError, AttributeError):
        return
    allocate.argtypes, allocate.restype = [ctypes.c_size_t], ctypes.c_void_p
    free.argtypes, free.restype = [ctypes.c_void_p], None
    free(allocate(FRESH_FROM - (1 << 20)))  # FRESH_FROM itself would not count: glibc adds words of its own


@lru_cache(maxsize=1)
def _madvise() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    try:
        found = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return None
    found.argtypes, found.restype = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int], ctypes.c_int
    return found
