"""What a model is made of, kept so that it can be put back: attributes, containers, tensors and their very bytes.

A forward pass may write anywhere: weights renormalised in place, an embedding's `max_norm`, buffers made at the first
call, `self.attention = a`. Signs that cost nothing (identities, versions, addresses) are looked at before every pass,
so that each begins from the same state. Bytes, which `.data` changes without a sign, are compared after the first pass,
from then on if that showed any such write, and when the model is given back.
"""

from __future__ import annotations

import random
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import is_dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["State", "version_of"]

_BOXES = (dict, OrderedDict, defaultdict, list, set, deque)
_GENERATORS = (np.random.Generator, np.random.RandomState, torch.Generator, random.Random)
_OTHERS = (np.ndarray, *_GENERATORS)
_FLAG = "training"
"""The one attribute that is no part of the state: whoever looks at a model sets it."""

_WRAPPERS = ("torch.distributed", "torch._dynamo", "torch.jit", "torch.fx")
"""Modules from here keep books of their own in their attributes, which go on."""


class State:
    """Everything a model holds, as it was when this was made.

    Parameters
    ----------
    only_buffers : for models sharded by FSDP, whose parameters come and go during a pass.
    """

    def __init__(self, model: nn.Module, *, only_buffers: bool = False) -> None:
        found = _Found()
        for module in model.modules():
            if only_buffers:
                found.tensors.update((id(b), b) for b in module._buffers.values() if b is not None)
            else:
                found.module(module)
        self._attributes = [_KeptAttributes(attributes) for attributes in found.attributes.values()]
        self._boxes = [_KeptBox(box) for box in found.boxes.values()]
        self._others = [_KeptOther(*_access(other)) for other in found.others.values()]
        self.generators = [other for other in found.others.values() if isinstance(other, _GENERATORS)]
        self._storages: dict[int, _KeptStorage] = {}
        self._tensors = [_KeptTensor(part) for tensor in found.tensors.values() for part in _plain_parts(tensor)]
        for kept in self._tensors:
            if kept.storage is not None:
                storage = self._storages.setdefault(kept.storage._cdata, _KeptStorage(kept.storage))
                storage.cover(kept.alias)
        with torch.no_grad():
            for storage in self._storages.values():
                storage.copy()
        self._begun = self._looked_closely = self._hidden_writes = self._unchanged = False

    def begin(self) -> None:
        """To be called before each pass: puts back what the one before has changed."""
        self.settle()
        self._begun = True

    def settle(self, *, closely: bool = False) -> None:
        """Put back what has changed; `closely`: bytes are compared even where there is no sign of a change."""
        for attributes in self._attributes:
            attributes.put_back()
        for box in self._boxes:
            box.put_back()
        after_first = self._begun and not self._looked_closely
        self._looked_closely |= self._begun
        with torch.no_grad():
            touched = [kept for kept in self._tensors if kept.touched()]
            for kept in touched:
                kept.point_back()
            signs = {kept.storage._cdata for kept in touched if kept.storage is not None}
            if after_first and not closely and not signs and self._unchanged:
                pass  # just compared
            elif closely or after_first or self._hidden_writes:
                changed = {key for key, storage in self._storages.items() if storage.put_back()}
                self._hidden_writes |= bool(changed - signs)
            else:
                for key in signs:
                    self._storages[key].put_back()
            for kept in touched:
                kept.set_version()
        if closely:
            for other in self._others:
                other.put_back()

    def drawn_from(self, before: Sequence[Any]) -> list[Any]:
        """The model's own generators that are no longer in the states `before`, as `generator_states` gave them."""
        return [
            generator
            for generator, then, now in zip(self.generators, before, self.generator_states(), strict=True)
            if not _equal(then, now)
        ]

    def generator_states(self) -> list[Any]:
        """Where each of the model's own generators is."""
        return [_access(generator)[0]() for generator in self.generators]

    def set_generator_states(self, states: Sequence[Any]) -> None:
        """Put each of them where `generator_states` found it."""
        for generator, state in zip(self.generators, states, strict=True):
            _access(generator)[1](state)

    def written(self) -> list[Tensor]:
        """The tensors that are not what they were: what the last pass has written."""
        changed = {key for key, storage in self._storages.items() if storage.changed()}
        self._unchanged = not changed
        return [
            kept.tensor
            for kept in self._tensors
            if kept.elsewhere() or (kept.storage is not None and kept.storage._cdata in changed)
        ]


def version_of(tensor: Tensor) -> int:
    """How often a tensor was written to; 0 for those of inference mode, which do not count."""
    return 0 if tensor.is_inference() else tensor._version


class _Found:
    """What there is to keep, each thing once."""

    def __init__(self) -> None:
        self.attributes: dict[int, dict[str, Any]] = {}
        self.boxes: dict[int, Any] = {}
        self.tensors: dict[int, Tensor] = {}
        self.others: dict[int, Any] = {}

    def module(self, module: nn.Module) -> None:
        if type(module).__module__.startswith(_WRAPPERS):
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                self.tensors[id(tensor)] = tensor
        else:
            self._own(vars(module))
            for value in _reached(type(module)):
                if _has_state(value, _GENERATORS):
                    self.others[id(value)] = value

    def _own(self, attributes: dict[str, Any]) -> None:
        if id(attributes) not in self.attributes:
            self.attributes[id(attributes)] = attributes
            for value in attributes.values():
                self._value(value)

    def _value(self, value: Any) -> None:
        kind = type(value)
        if isinstance(value, Tensor):
            self.tensors[id(value)] = value
        elif kind in _BOXES:
            if id(value) not in self.boxes:
                self.boxes[id(value)] = value
                for item in value.values() if isinstance(value, dict) else value:
                    self._value(item)
        elif isinstance(value, tuple):
            for item in value:
                self._value(item)
        elif isinstance(value, nn.Module):
            self.module(value)  # also one that is hidden in a list, which `modules()` does not tell of
        elif _has_state(value, _OTHERS):
            self.others[id(value)] = value
        elif kind is SimpleNamespace or (is_dataclass(kind) and hasattr(value, "__dict__")):
            self._own(vars(value))
        elif not isinstance(value, type) and type(getattr(value, "__dict__", None)) is dict:
            for inside in vars(value).values():
                if _has_state(inside, _GENERATORS):
                    self.others[id(inside)] = inside


def _has_state(value: Any, kinds: tuple[type, ...]) -> bool:
    """Whether it is one of these and can be put back: what the system draws cannot."""
    return isinstance(value, kinds) and not isinstance(value, random.SystemRandom)


def _reached(kind: type[nn.Module]) -> Iterator[Any]:
    """What the forward of a class uses of its module's globals, and of the functions around it."""
    code = getattr(kind.forward, "__code__", None)
    if code is None or kind.__module__.startswith("torch."):
        return
    names = kind.forward.__globals__
    yield from (names[name] for name in code.co_names if name in names)
    for cell in kind.forward.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not yet filled
            continue


class _KeptAttributes:
    """An object's attributes: which there are, and which objects they are."""

    def __init__(self, attributes: dict[str, Any]) -> None:
        self.attributes = attributes
        self.kept = {key: value for key, value in attributes.items() if key != _FLAG}
        self.ids = list(map(id, self.kept.values()))

    def put_back(self) -> None:
        if [id(value) for key, value in self.attributes.items() if key != _FLAG] != self.ids:
            flag = {_FLAG: self.attributes[_FLAG]} if _FLAG in self.attributes else {}
            self.attributes.clear()
            self.attributes.update(flag | self.kept)


class _KeptBox:
    """A dict, list, set or deque and which objects lay in it, in which order."""

    def __init__(self, box: Any) -> None:
        self.box = box
        self.kept = list(box.items()) if isinstance(box, dict) else list(box)
        self.ids = self._ids()

    def _ids(self) -> list[int]:
        if isinstance(self.box, dict):
            return [*map(id, self.box.keys()), *map(id, self.box.values())]
        return list(map(id, self.box))

    def put_back(self) -> None:
        if self._ids() == self.ids:
            return
        self.box.clear()
        if isinstance(self.box, list | deque):
            self.box.extend(self.kept)
        else:
            self.box.update(self.kept)


class _KeptTensor:
    """Where a tensor's numbers lie, in which shape, and how often it had been written to."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.alias = tensor.detach()
        self.version = version_of(tensor)
        self.counts = not tensor.is_inference()
        self.requires_grad = tensor.requires_grad
        self.place = self._place()
        try:
            self.storage = None if tensor.is_meta else tensor.untyped_storage()
        except (NotImplementedError, RuntimeError):  # sparse and opaque tensors: version and identity must do
            self.storage = None

    def _place(self) -> tuple[Any, ...]:
        t = self.tensor
        try:
            return t.data_ptr(), t.shape, t.stride(), t.dtype
        except (NotImplementedError, RuntimeError):
            return ()

    def elsewhere(self) -> bool:
        return self._place() != self.place

    def touched(self) -> bool:
        return (
            (self.counts and self.tensor._version != self.version)
            or self.elsewhere()
            or self.tensor.requires_grad != self.requires_grad
        )

    def point_back(self) -> None:
        if self.elsewhere():
            self.tensor.data = self.alias
        if self.tensor.is_leaf and self.tensor.requires_grad != self.requires_grad:
            self.tensor.requires_grad_(self.requires_grad)

    def set_version(self) -> None:
        # A graph of the user's own, begun before we came, must still find the version that it has noted down.
        put = getattr(torch._C._autograd, "_unsafe_set_version_counter", None)
        if put is not None and self.counts and self.tensor._version != self.version:
            put((self.tensor,), (self.version,))


class _KeptStorage:
    """The bytes under some tensors, whatever views they are: compared and put back as bytes, NaN included."""

    def __init__(self, storage: Any) -> None:
        self.storage = storage
        self.lo, self.hi = storage.nbytes(), 0
        self.bytes = self.kept = torch.empty(0, dtype=torch.uint8)

    def cover(self, tensor: Tensor) -> None:
        if tensor.numel() == 0:
            return
        lo = int(tensor.storage_offset()) * tensor.element_size()
        span = 1 + sum(int((n - 1) * abs(step)) for n, step in zip(tensor.shape, tensor.stride(), strict=True))
        self.lo, self.hi = min(self.lo, lo), max(self.hi, lo + span * tensor.element_size())

    def copy(self) -> None:
        if self.lo >= self.hi:
            return
        # As 64-bit words where they fit, which are compared eight times as fast.
        lo, hi = self.lo // 8 * 8, -(-self.hi // 8) * 8
        size, dtype = (8, torch.int64) if hi <= self.storage.nbytes() else (1, torch.uint8)
        if size == 1:
            lo, hi = self.lo, self.hi
        empty = torch.empty(0, dtype=dtype, device=self.storage.device)
        self.hi = hi
        self.bytes = empty.set_(self.storage, lo // size, ((hi - lo) // size,), (1,))
        self.kept = self.bytes.clone()

    def changed(self) -> bool:
        return self.storage.nbytes() < self.hi or not torch.equal(self.bytes, self.kept)

    def put_back(self) -> bool:
        """Whether there was anything to put back."""
        if not self.changed():
            return False
        if self.storage.nbytes() < self.hi:
            self.storage.resize_(self.hi)
        self.bytes.copy_(self.kept)
        return True


class _KeptOther:
    """An array or a generator of the model's own: read by `get`, written by `put`."""

    def __init__(self, get: Callable[[], Any], put: Callable[[Any], object]) -> None:
        self.get, self.put, self.kept = get, put, get()

    def put_back(self) -> None:
        if not _equal(self.get(), self.kept):
            self.put(self.kept)


def _access(thing: Any) -> tuple[Callable[[], Any], Callable[[Any], object]]:
    if isinstance(thing, np.ndarray):

        def write(kept: np.ndarray) -> None:
            if thing.flags.writeable:
                thing[...] = kept

        return thing.copy, write
    if isinstance(thing, np.random.Generator):
        bits = thing.bit_generator
        return (lambda: bits.state), lambda kept: setattr(bits, "state", kept)
    if isinstance(thing, np.random.RandomState):
        return thing.get_state, thing.set_state
    if isinstance(thing, torch.Generator):
        return thing.get_state, thing.set_state
    return thing.getstate, thing.setstate


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)


def _plain_parts(tensor: Tensor) -> Iterator[Tensor]:
    """The tensor, or those that a wrapper around tensors is made of."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None or type(tensor) in (Tensor, nn.Parameter):
        yield tensor
        return
    names: Iterable[str] = flatten()[0]
    for name in names:
        yield from _plain_parts(getattr(tensor, name))
