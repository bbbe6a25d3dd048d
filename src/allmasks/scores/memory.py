"""Memory as the kernels take it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["unlocked"]


def unlocked(array: NDArray[Any]) -> NDArray[Any]:
    """The same memory, not marked read-only.

    To Numba a read-only array (as joblib maps large ones) is another type, for which every kernel would be compiled
    anew. Nothing here writes to rows.

    >>> locked = np.arange(3.0)
    >>> locked.setflags(write=False)
    >>> unlocked(locked).flags.writeable, np.shares_memory(locked, unlocked(locked))
    (True, True)
    """
    return array if array.flags.writeable else np.asarray(_Unlocked(array))


class _Unlocked:
    """The memory of an array by its address; keeps the array alive."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        own = array.__array_interface__
        self.__array_interface__ = {**own, "data": (own["data"][0], False)}
