"""Process-wide settings: as they were before a call, however it ends. What runs inside is not all ours."""

from __future__ import annotations

import functools
import random
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np
import torch

__all__ = [
    "bytes_only",
    "draw_only",
    "generator_states",
    "leaves_no_trace",
    "moved_generators",
    "seed_hosts",
    "set_generator_states",
    "settings_kept",
]

_P = ParamSpec("_P")
_R = TypeVar("_R")


class _Setting(NamedTuple):
    name: str
    get: Callable[[], Any]
    put: Callable[[Any], Any]


def _attribute(owner: Any, name: str) -> _Setting:
    return _Setting(f"{owner.__name__}.{name}", lambda: getattr(owner, name), lambda value: setattr(owner, name, value))


SETTINGS: tuple[_Setting, ...] = (
    _Setting("threads", torch.get_num_threads, torch.set_num_threads),
    _Setting("gradients", torch.is_grad_enabled, torch._C._set_grad_enabled),
    _Setting("default dtype", torch.get_default_dtype, torch.set_default_dtype),
    _Setting(
        "deterministic algorithms",
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        lambda kept: torch.use_deterministic_algorithms(kept[0], warn_only=kept[1]),
    ),
    _Setting(
        "anomaly detection",
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda kept: torch.autograd.set_detect_anomaly(*kept),
    ),
    _Setting("matmul precision", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    _Setting(
        "autocast",
        lambda: (torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")),
        lambda kept: [torch.set_autocast_enabled(*one) for one in zip(("cpu", "cuda"), kept, strict=True)],
    ),
    *(_attribute(torch.backends.cudnn, name) for name in ("enabled", "benchmark", "deterministic", "allow_tf32")),
    _attribute(torch.backends.mkldnn, "enabled"),
    _Setting(
        "attention kernels",
        lambda: (
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
            torch.backends.cuda.math_sdp_enabled(),
        ),
        lambda kept: (
            torch.backends.cuda.enable_flash_sdp(kept[0]),
            torch.backends.cuda.enable_mem_efficient_sdp(kept[1]),
            torch.backends.cuda.enable_math_sdp(kept[2]),
        ),
    ),
    _Setting("NumPy's floating-point errors", np.geterr, lambda kept: np.seterr(**kept)),
    _Setting("warning filters", lambda: list(warnings.filters), lambda kept: _put_filters(kept)),
)
"""Each is read before a call and, if it differs, written after it."""


def _put_filters(kept: list[Any]) -> None:
    warnings.filters[:] = kept  # type: ignore[index]
    getattr(warnings, "_filters_mutated", lambda: None)()


@contextmanager
def settings_kept() -> Iterator[None]:
    """Every process-wide setting and every global generator is as before at the end, however one leaves."""
    before = [(setting, setting.get()) for setting in SETTINGS]
    states = generator_states()
    try:
        yield
    finally:
        for setting, kept in before:
            if setting.get() != kept:
                setting.put(kept)
        set_generator_states(states)


def leaves_no_trace(call: Callable[_P, _R]) -> Callable[_P, _R]:
    """A call after which every process-wide setting is as before.

    Inside, inference mode is off, and with it only what it forbids: its tensors do not count their writes, by which
    we know what a model has changed. Gradients stay off where it was on.
    """

    @functools.wraps(call)
    def careful(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with settings_kept():
            if not torch.is_inference_mode_enabled():
                return call(*args, **kwargs)
            with torch.inference_mode(False), torch.no_grad():
                return call(*args, **kwargs)

    return careful


def generator_states() -> dict[str, Any]:
    """The state of each global generator a model might draw from."""
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state(),  # noqa: NPY002 - the legacy generator is the one models draw from
        "python": random.getstate(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def set_generator_states(states: dict[str, Any]) -> None:
    """Put each global generator where `generator_states` found it."""
    torch.set_rng_state(states["torch"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    random.setstate(states["python"])
    if "cuda" in states:
        torch.cuda.set_rng_state_all(states["cuda"])


def moved_generators(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Which generators beside torch's have been drawn from between two calls of `generator_states`."""
    moved = []
    if before["python"] != after["python"]:
        moved.append("Python's random")
    old, new = before["numpy"], after["numpy"]
    if old[2:] != new[2:] or not np.array_equal(old[1], new[1]):
        moved.append("NumPy's global generator")
    return moved


def seed_hosts(seed: int) -> None:
    """Python's and NumPy's global generators begin anew."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002


_FORCED = 128
"""Words that are forced: 64 numbers."""


def bytes_only(value: float, size: int, k: int) -> bytes:
    """What the system is made to give when it is asked for the k-th time: one number in [0, 1), then others."""
    if 2 * k >= _FORCED:  # who rejects what it draws and draws again would never end
        return np.random.default_rng(k).bytes(size)
    word = min(int(value * 2**32), 2**32 - 1).to_bytes(4, "big")
    return (word * (size // 4 + 1))[:size]


def draw_only(value: float, generators: Iterable[Any]) -> None:
    """Let Python's and NumPy's global generators, and such of their kind among these, give one number in [0, 1).

    All are Mersenne twisters, and what one gives next is a permutation of the bits of a word of its state: 624 words
    are put there, the first of which come out as this number. The others are mixed: who rejects what it draws and
    draws again, as normal numbers do, would never end.
    """
    word = _stored(min(int(value * 2**32), 2**32 - 1))
    words = np.random.default_rng(0).integers(0, 2**32, 624, dtype=np.uint32)
    words[:_FORCED] = word
    state = (3, (*words.tolist(), 0), None)
    random.setstate(state)
    np.random.set_state(("MT19937", words, 0, 0, 0.0))  # noqa: NPY002
    for generator in generators:
        if isinstance(generator, random.Random) and type(generator).random is random.Random.random:
            generator.setstate(state)
        elif (
            isinstance(generator, np.random.RandomState)
            and generator.get_state(legacy=False)["bit_generator"] == "MT19937"
        ):
            generator.set_state(("MT19937", words, 0, 0, 0.0))


def _stored(given: int) -> int:
    """The word of a Mersenne twister's state that comes out as `given`: its tempering undone."""
    word = given ^ (given >> 18)
    word ^= (word << 15) & 0xEFC60000
    undone = word
    for _ in range(4):
        undone = word ^ ((undone << 7) & 0x9D2C5680)
    word = undone & 0xFFFFFFFF
    undone = word
    for _ in range(2):
        undone = word ^ (undone >> 11)
    return undone & 0xFFFFFFFF
