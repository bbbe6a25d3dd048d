"""Where a training layer's key comes from: torch's generator, or a numbered stream of a seed's own.

Without a seed, each call takes 64 bits from torch's CPU generator: `torch.manual_seed`, a resumed generator state and
checkpointing's preserved state work as they always have. With a seed, call number t takes `derive_key(seed, t)`. The
count is the seed's, not the layer's: two layers with one seed share the stream and never drop the same units.

Recomputation in backward (torch.utils.checkpoint) must draw the same mask again. Without a seed the restored generator
does that. With one, a call that may be recomputed also draws a ticket from the generator and notes which count it
took; the recomputation draws the same ticket and looks it up (`tickets`).

A DataLoader's workers start with the same counts: in a worker, the stream is that of the seed and the worker's seed.
"""

from __future__ import annotations

import ctypes
import threading
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.utils.data
from torch import Tensor

from allmasks.kernels.reference import derive_key, threefry2x32
from allmasks.nn.tickets import Tickets

__all__ = [
    "check_key",
    "check_key_tensor",
    "check_seed",
    "draw_key",
    "need_seed",
    "next_key",
    "rng_state",
    "seed",
    "seeded_key",
    "set_rng_state",
    "signed",
]

_BLOCK = 256
"""Keys of a stream made at once: one call of the generator costs as much for hundreds as for one."""

_LOWEST = -(2**63)
_RANK_STEP = 0x9E3779B97F4A7C15

_DISTRIBUTED = torch.distributed.is_available()


class _Word(threading.local):
    """A tensor to draw into, one a thread, and its memory: making one, or `item()`, takes as long as drawing."""

    def __init__(self) -> None:
        # Whatever the mode of the first call: an inference tensor could not be drawn into afterwards.
        with torch.inference_mode(False), torch._C._DisableTorchDispatch():
            self.tensor = torch.empty((), dtype=torch.int64, device="cpu")
        self.memory = ctypes.c_int64.from_address(self.tensor.data_ptr())


_word = _Word()
_lock = threading.Lock()
_counts: dict[int, int] = {}
_blocks: dict[int, tuple[int, list[int]]] = {}
_tickets = Tickets()
_same_on_ranks = False


def check_seed(value: Any) -> int | None:
    """A layer's seed as an int, or None.

    Raises
    ------
    TypeError, ValueError : if it is no whole number from 0 to 2**64 - 1.
    """
    return None if value is None else need_seed(value)


def need_seed(value: Any) -> int:
    """The same where None is no seed."""
    if type(value) is int and 0 <= value < 2**64:
        return value
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"seed must be an integer from 0 to 2**64 - 1 or None, got {value!r}")
    if not 0 <= value < 2**64:
        raise ValueError(f"seed must be an integer from 0 to 2**64 - 1, got {value}")
    return int(value)


def check_key(value: Any) -> int:
    """A key, 64 bits as an int or an int64 tensor of one element, as one signed number.

    Raises
    ------
    TypeError, ValueError : if it is something else.
    """
    if isinstance(value, Tensor):
        if value.dtype != torch.int64 or value.ndim:
            raise TypeError(
                f"key must be an int64 tensor without axes, got {value.dtype} of shape {tuple(value.shape)}"
            )
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"key must be 64 bits as an integer or an int64 tensor, got {value!r}")
    if not -(2**63) <= value < 2**64:
        raise ValueError(f"key must be 64 bits, from -2**63 to 2**64 - 1, got {value}")
    return signed(int(value))


def check_key_tensor(key: Tensor) -> Tensor:
    """The key, or a TypeError unless it is an int64 tensor without axes."""
    if key.dtype != torch.int64 or key.ndim:
        raise TypeError(f"key must be an int64 tensor without axes, got {key.dtype} of shape {tuple(key.shape)}")
    return key


def signed(word: int) -> int:
    """64 bits as operators take them."""
    return word - 2**64 if word >= 2**63 else word


def next_key(seed: int | None) -> int:
    """The key of a layer's next call."""
    return draw_key() if seed is None else seeded_key(seed)


def draw_key() -> int:
    """64 bits from torch's CPU generator, another number on each rank of a distributed run."""
    _word.tensor.random_(_LOWEST, None)
    key: int = _word.memory.value
    if _DISTRIBUTED and torch.distributed.is_initialized() and not _same_on_ranks:
        key = (key ^ (torch.distributed.get_rank() * _RANK_STEP)) & (2**64 - 1)
        key = key - 2**64 if key >= 2**63 else key
    return key


def seeded_key(seed: int) -> int:
    """The next key of a seed's stream; in recomputation, the one the call took at first. The same on every rank."""
    backward = torch._C._current_graph_task_id() != -1
    ticket = (seed, draw_key()) if backward or _may_be_recomputed() else None
    with _lock:
        if backward:
            count = _tickets.find(ticket)  # type: ignore[arg-type]
        else:
            count = _counts.get(seed, 0)
            _counts[seed] = count + 1
            if ticket is not None:
                _tickets.note(ticket, count)
        return _key(_stream(seed), count)


def _may_be_recomputed() -> bool:
    """Checkpointing runs its forward without gradients, or under hooks on what is saved."""
    return not torch.is_grad_enabled() or torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


_worker = torch.utils.data.get_worker_info


def _stream(seed: int) -> int:
    """The seed of the stream: the seed itself, or one of its own in a worker of a DataLoader, anew in each epoch."""
    worker = _worker()
    return seed if worker is None else _stream_of_worker(seed, worker.seed & (2**64 - 1))


@lru_cache(maxsize=1024)
def _stream_of_worker(seed: int, worker_seed: int) -> int:
    low, high = derive_key(seed, worker_seed)
    return low | high << 32


def _key(seed: int, count: int) -> int:
    """`derive_key(seed, count)` as one signed number."""
    block, index = divmod(count, _BLOCK)
    held = _blocks.get(seed)
    if held is None or held[0] != block:
        counters = np.arange(block * _BLOCK, (block + 1) * _BLOCK, dtype=np.uint64)
        low, high = threefry2x32(
            (seed & 0xFFFFFFFF, seed >> 32), counters & np.uint64(0xFFFFFFFF), counters >> np.uint64(32)
        )
        held = (block, (low.astype(np.uint64) | (high.astype(np.uint64) << np.uint64(32))).view(np.int64).tolist())
        _blocks[seed] = held
    return held[1][index]


# -- what the user sees ----------------------------------------------------------------------------------------


def seed(n: int, *, same_on_ranks: bool = False) -> None:
    """Seed torch's CPU generator, from which layers without a seed take their keys, and start all seeds' streams anew.

    Parameters
    ----------
    n : an integer, as for `torch.manual_seed`.
    same_on_ranks : in a distributed run, whether layers without a seed draw the same masks on every rank whose
        generator is in the same state. By default ranks differ, whatever their generators. Layers with a seed
        agree on all ranks.

    Example
    -------
    >>> import torch, allmasks as am
    >>> am.seed(0)
    >>> first = am.nn.functional.dropout(torch.ones(100), 0.5)
    >>> am.seed(0)
    >>> torch.equal(first, am.nn.functional.dropout(torch.ones(100), 0.5))
    True
    """
    global _same_on_ranks
    torch.random.default_generator.manual_seed(int(n))
    with _lock:
        _counts.clear()
        _tickets.clear()
        _same_on_ranks = bool(same_on_ranks)


def rng_state() -> dict[str, Any]:
    """All that the masks of the next calls depend on: torch's CPU generator, and how far each seed's stream is.

    Save it beside the model's `state_dict` (`torch.save` and `torch.load(weights_only=True)` take it).

    Example
    -------
    >>> import torch, allmasks as am
    >>> layer = am.nn.Dropout(0.5, seed=7)
    >>> state = am.rng_state()
    >>> first = layer(torch.ones(100))
    >>> am.set_rng_state(state)
    >>> torch.equal(first, layer(torch.ones(100)))
    True
    """
    with _lock:
        return {
            "version": 1,
            "torch": torch.random.default_generator.get_state(),
            "seeds": dict(_counts),
            "same_on_ranks": _same_on_ranks,
        }


def set_rng_state(state: dict[str, Any]) -> None:
    """Go back to a state that `rng_state` gave; nothing changes if it is no such state.

    Raises
    ------
    ValueError : if `state` is not what `rng_state` returns.
    """
    global _same_on_ranks
    wanted = {"version": int, "torch": Tensor, "seeds": dict, "same_on_ranks": bool}
    if not isinstance(state, dict) or any(not isinstance(state.get(name), kind) for name, kind in wanted.items()):
        raise ValueError("state must be what am.rng_state() returned")
    if state["version"] != 1:
        raise ValueError(f"state is of version {state['version']}, and this release of allmasks reads version 1")
    counts = state["seeds"]
    if any(not isinstance(n, int) or not isinstance(count, int) or count < 0 for n, count in counts.items()):
        raise ValueError("state must be what am.rng_state() returned; its counts are not whole numbers")
    torch.random.default_generator.set_state(state["torch"])
    with _lock:
        _counts.clear()
        _counts.update(counts)
        _tickets.clear()
        _same_on_ranks = state["same_on_ranks"]
