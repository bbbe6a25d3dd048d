"""What a function is, as a short text: its code, and all the values that its code would use.

Names do not tell functions apart: every lambda is `<lambda>`, every `functools.partial` of one function has that
function's name, and so have the bound methods of two instances. A fingerprint follows code, defaults, closure, bound
state and the globals that the code names; two processes compute the same one. It is taken before a call, so state that
a function changes while it runs is not followed.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, MethodWrapperType, ModuleType
from typing import Any

import numpy as np

__all__ = ["NotReadable", "fingerprint"]


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
    elif isinstance(value, MethodType):
        yield from _parts(value.__func__, seen)
        yield from _parts(value.__self__, seen)
    elif isinstance(value, functools.partial):
        yield from _parts((value.func, value.args, value.keywords), seen)
    elif isinstance(value, CodeType):
        yield from _code(value, seen)
    elif isinstance(value, ModuleType):
        yield f"{value.__name__} {getattr(value, '__version__', '')}".encode()
    elif isinstance(value, type | BuiltinFunctionType | MethodWrapperType | np.ufunc):
        yield f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value.__name__)}".encode()
        if isinstance(value, type) and value.__module__ == "__main__":
            yield from _parts({k: v for k, v in vars(value).items() if isinstance(v, FunctionType)}, seen)
    elif isinstance(value, list | tuple):
        yield str(len(value)).encode()
        for item in value:
            yield from _parts(item, seen)
    elif isinstance(value, dict):
        yield str(len(value)).encode()
        for key, item in value.items():
            yield from _parts(key, seen)
            yield from _parts(item, seen)
    elif isinstance(value, set | frozenset):
        yield from sorted(fingerprint(item).encode() for item in value)
    elif isinstance(value, np.ndarray) and value.dtype != object:
        yield f"{value.dtype.str}{value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif hasattr(value, "detach") and hasattr(value, "numpy"):
        yield str(value.dtype).encode()
        yield from _parts(_as_array(value), seen)
    else:
        yield from _reduced(value, seen)


def _function(value: FunctionType, seen: _Seen) -> Iterator[bytes]:
    yield from _code(value.__code__, seen)
    cells = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
    yield from _parts((value.__defaults__, value.__kwdefaults__, cells), seen)
    for name in _global_names(value.__code__):
        if name in value.__globals__:
            yield name.encode()
            found = value.__globals__[name]
            if isinstance(found, FunctionType) and found.__module__ != value.__module__:
                # Another module's function is a library's: its name is enough, as a version is of a module.
                yield f"{found.__module__}.{found.__qualname__}".encode()
            else:
                yield from _parts(found, seen)


def _filled(cell: Any) -> bool:
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
    found = tensor.detach().cpu()
    try:
        return found.numpy()
    except TypeError:  # a type that NumPy does not have, such as bfloat16
        return found.float().numpy()


def _reduced(value: Any, seen: _Seen) -> Iterator[bytes]:
    """An object of a class: what pickle would rebuild it from."""
    try:
        reduced = value.__reduce_ex__(4)
    except Exception as problem:
        raise NotReadable(f"a value of type {type(value).__qualname__} cannot be read: {problem}") from None
    if isinstance(reduced, str):
        yield f"{type(value).__module__}.{reduced}".encode()
        return
    rebuild, arguments, *rest = reduced
    yield getattr(rebuild, "__qualname__", type(rebuild).__qualname__).encode()
    for argument in arguments:
        yield from _parts(argument, seen)
    for state in rest:
        yield from _parts(list(state) if isinstance(state, Iterator) else state, seen)
