"""What a function is, as a short text: its code, and all the values that its code would use.

Names do not tell functions apart: every lambda is `<lambda>`, every `functools.partial` of one function has that
function's name, and so have the bound methods of two instances. A fingerprint follows code, defaults, closure, bound
state and the globals that the code names, through functions, classes and modules of one's own; what is installed counts
by its name. Two processes compute the same one. It is taken before a call, so state that a function changes while it
runs is not followed.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
)
from typing import Any

import numpy as np

__all__ = ["NotReadable", "filled", "fingerprint"]


_Seen = dict[int, tuple[int, Any]]


class NotReadable(TypeError):
    """A value whose contents cannot be read the same way by another process."""


def fingerprint(value: Any) -> str:
    """A digest of a function (or any value): equal for equal code and values, in every process.

    Raises
    ------
    NotReadable : the function uses a value whose contents cannot be read, such as an open file.

    >>> fingerprint(lambda x: x + 1) == fingerprint(lambda x: x + 1), fingerprint(lambda x: x + 2)
    (True, '...')
    >>> fingerprint(functools.partial(round, ndigits=1)) == fingerprint(functools.partial(round, ndigits=2))
    False
    """
    digest = hashlib.sha256()
    for part in _parts(value, {}):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:24]


def _parts(value: Any, seen: _Seen) -> Iterator[bytes]:
    """The value as bytes, one piece after another; what was met before is called by its number."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        yield f"{type(value).__name__}:{value!r}".encode()
        return
    if isinstance(value, np.generic):
        yield from _parts(value.item(), seen)
        return
    if id(value) in seen:
        yield f"again:{seen[id(value)][0]}".encode()
        return
    # Kept alive as long as its number is: another object must not get the same address.
    seen[id(value)] = len(seen), value
    yield f"{type(value).__module__}.{type(value).__qualname__}".encode()
    yield from _contents(value, seen)


def _contents(value: Any, seen: _Seen) -> Iterator[bytes]:
    if isinstance(value, FunctionType):
        yield from _function(value, seen)
    elif isinstance(value, MethodType | BuiltinFunctionType | MethodWrapperType):
        yield from _bound(value, seen)
    elif isinstance(value, functools.partial):
        yield from _parts((value.func, value.args, value.keywords, vars(value)), seen)
    elif isinstance(value, CodeType):
        yield from _code(value, seen)
    elif isinstance(value, ModuleType):
        yield f"{value.__name__} {getattr(value, '__version__', '')}".encode()
    elif isinstance(value, type):
        yield from _class(value, seen)
    elif isinstance(value, np.ufunc):
        yield value.__name__.encode()
    elif isinstance(value, staticmethod | classmethod):
        yield from _parts(value.__func__, seen)
    elif isinstance(value, property):
        yield from _parts((value.fget, value.fset), seen)
    elif type(value) in (list, tuple):
        yield str(len(value)).encode()
        for item in value:
            yield from _parts(item, seen)
    elif type(value) is dict:
        yield str(len(value)).encode()
        for key, item in value.items():
            yield from _parts(key, seen)
            yield from _parts(item, seen)
    elif isinstance(value, set | frozenset):
        yield from sorted(fingerprint(item).encode() for item in value)
    elif type(value) is np.ndarray and value.dtype != object:
        yield f"{value.dtype.str}{value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif hasattr(value, "detach") and hasattr(value, "numpy"):
        yield str(value.dtype).encode()
        yield from _parts(_as_array(value), seen)
    else:
        yield from _reduced(value, seen)


def _is_installed(module: str | None) -> bool:
    """Whether a module is Python's, a package's or this library's: known by its name, and not changed by its user."""
    root = (module or "builtins").partition(".")[0]
    if (root in sys.stdlib_module_names and root != "__main__") or root == "allmasks":
        return True
    loaded = sys.modules.get(root)
    file = getattr(loaded, "__file__", None) or next(iter(getattr(loaded, "__path__", ())), "")
    return not {"site-packages", "dist-packages"}.isdisjoint(Path(file).parts)


def _bound(value: Any, seen: _Seen) -> Iterator[bytes]:
    """A method of an instance or class, and a built-in function, which may be one of an instance too."""
    yield value.__name__.encode()
    holder = value.__self__
    home = sys.modules.get(type(holder).__module__)
    if holder is None or isinstance(holder, ModuleType) or getattr(home, value.__name__, None) is value:
        # A function of a module, such as random.random: its hidden state is the process's.
        yield str(getattr(holder, "__name__", getattr(value, "__module__", ""))).encode()
        return
    if isinstance(value, MethodType):
        yield from _parts(value.__func__, seen)
    yield from _parts(holder, seen)


def _class(value: type, seen: _Seen) -> Iterator[bytes]:
    yield f"{value.__module__}.{value.__qualname__}".encode()
    if issubclass(value, enum.Enum):
        yield from _parts([(member.name, member.value) for member in value], seen)
    if _is_installed(value.__module__) or issubclass(value, enum.Enum):
        return
    yield from _parts(value.__bases__, seen)
    for name, held in vars(value).items():
        written = isinstance(held, FunctionType | staticmethod | classmethod | property)
        of_python = (name.startswith("__") and name.endswith("__")) or name.startswith("_abc_")
        if written or not (of_python or isinstance(held, GetSetDescriptorType | MemberDescriptorType)):
            yield name.encode()
            yield from _parts(held, seen)


def _function(value: FunctionType, seen: _Seen) -> Iterator[bytes]:
    yield from _code(value.__code__, seen)
    cells = [cell.cell_contents for cell in value.__closure__ or () if filled(cell)]
    yield from _parts((value.__defaults__, value.__kwdefaults__, cells), seen)
    if vars(value):
        yield from _parts(vars(value), seen)
    names = list(dict.fromkeys(_global_names(value.__code__)))
    yield from _named(value.__globals__, names, seen)


def _named(
    held: dict[str, Any], names: list[str], seen: _Seen, within: frozenset[str] = frozenset()
) -> Iterator[bytes]:
    """What code finds under these names in its globals, and in modules of one's own that it finds there."""
    for name in names:
        if name not in held:
            continue
        yield name.encode()
        found = held[name]
        if isinstance(found, FunctionType) and _is_installed(found.__module__) and "<" not in found.__qualname__:
            yield f"{found.__module__}.{found.__qualname__}".encode()
        elif isinstance(found, ModuleType) and not _is_installed(found.__name__):
            yield from _parts(found, seen)
            if found.__name__ not in within:
                yield from _named(vars(found), names, seen, within | {found.__name__})
        else:
            yield from _parts(found, seen)


def filled(cell: Any) -> bool:
    """Whether a closure's cell holds a value yet."""
    try:
        _ = cell.cell_contents
    except ValueError:  # a variable that is assigned later
        return False
    return True


def _code(code: CodeType, seen: _Seen) -> Iterator[bytes]:
    # Without file names and line numbers: a comment above a function does not make it another one.
    yield code.co_code
    yield from _parts((code.co_names, code.co_varnames, code.co_freevars, code.co_argcount, code.co_flags), seen)
    for constant in code.co_consts:
        yield from _parts(constant, seen)


def _global_names(code: CodeType) -> Iterator[str]:
    """Names that the code, and functions written inside it, may look up."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _global_names(constant)


def _as_array(tensor: Any) -> Any:
    try:
        found = tensor.detach().cpu().to_dense().resolve_conj().resolve_neg()
        try:
            return found.numpy()
        except TypeError:  # a type that NumPy does not have, such as bfloat16
            return found.float().numpy()
    except Exception as problem:
        raise NotReadable(f"a tensor cannot be read: {problem}") from None


def _reduced(value: Any, seen: _Seen) -> Iterator[bytes]:
    """An object of a class: what pickle would rebuild it from."""
    try:
        reduced = value.__reduce_ex__(4)
    except Exception as problem:
        raise NotReadable(f"a value of type {type(value).__qualname__} cannot be read: {problem}") from None
    if isinstance(reduced, str):
        if hasattr(value, "__wrapped__"):  # as functools.cache makes
            yield from _parts(value.__wrapped__, seen)
        elif "<" in reduced:
            raise NotReadable(f"a value of type {type(value).__qualname__} has only a name, {reduced}")
        yield f"{type(value).__module__}.{reduced}".encode()
        return
    rebuild, arguments, *rest = reduced
    yield getattr(rebuild, "__qualname__", type(rebuild).__qualname__).encode()
    for argument in arguments:
        yield from _parts(argument, seen)
    for state in rest:
        yield from _parts(list(state) if isinstance(state, Iterator) else state, seen)
