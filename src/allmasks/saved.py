"""Results on disk: JSON that holds everything a result does, bit for bit, and that no code is run to read."""

from __future__ import annotations

import importlib
import json
import math
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from allmasks.files import check_writable, write_text
from allmasks.results import Note, Result

__all__ = ["load", "save"]

_FORMAT = "allmasks result 1"


def save(result: Result, path: str | Path) -> Path:
    """Write a result as JSON, which `load` gives back bit for bit; returns the path.

    Parameters
    ----------
    result : any result of allmasks: `ExpectedLoss`, `Prediction`, `Audit`, …. Tensors lose gradients and device.
    path : the file; it appears complete or not at all.

    Raises
    ------
    TypeError : no result, or one that holds something of your own, such as a loss function.
    OSError : the path cannot be written.

    Examples
    --------
    >>> import tempfile, allmasks as am
    >>> found = am.expected_score_loss([1.0, 2.0], [[1.0, 1.0]], [0.0], 0.5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     again = am.load(am.save(found, f"{folder}/found.json"))
    >>> again.value == found.value, again.guarantee, again.method
    (True, 'exact', Fourier())
    """
    if not isinstance(result, Result) or not is_dataclass(result):
        raise TypeError(f"save takes a result of allmasks, got {type(result).__name__}")
    from allmasks import __version__

    text = json.dumps(
        {"format": _FORMAT, "version": __version__, "result": _encoded(result, type(result).__name__)},
        ensure_ascii=False,
        allow_nan=False,
    )
    return write_text(check_writable(path, "save"), text + "\n")


def load(path: str | Path) -> Any:
    """The result that `save` wrote.

    Raises
    ------
    ValueError : no such JSON. OSError : no such file.
    """
    file = Path(path)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as problem:
        raise ValueError(f"{file} is no JSON: {problem}") from None
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise ValueError(
            f"{file} was not written by am.save (to_dict and --json write numbers to read, which do not come back)"
        )
    try:
        return _decoded(found["result"])
    except (KeyError, TypeError, AttributeError, ImportError) as problem:
        raise ValueError(f"{file} cannot be read by this version of allmasks: {problem}") from None


def _encoded(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool | int) or type(value) is str:
        return value
    if isinstance(value, float) and not isinstance(value, np.generic):
        return float(value) if math.isfinite(value) else {"float": str(float(value))}
    if isinstance(value, Note):
        return {"note": value.template, "fields": _encoded(value.fields, where)}
    if isinstance(value, str):
        return str(value)
    if isinstance(value, dict):
        return {"dict": [[_encoded(k, where), _encoded(v, where)] for k, v in value.items()]}
    if isinstance(value, tuple | list):
        if type(value) not in (tuple, list):
            _no(where, value)
        return {type(value).__name__: [_encoded(v, where) for v in value]}
    if isinstance(value, np.ndarray | np.generic) or hasattr(value, "detach"):
        return _array(value, where)
    if is_dataclass(value) and not isinstance(value, type) and type(value).__module__.startswith("allmasks."):
        held = {f.name: _encoded(getattr(value, f.name), f"{where}.{f.name}") for f in fields(value)}
        return {"class": f"{type(value).__module__}:{type(value).__qualname__}", "fields": held}
    return _no(where, value)


def _array(value: Any, where: str) -> dict[str, Any]:
    torch_like = hasattr(value, "detach")
    if torch_like:
        value = value.detach().cpu()
        dtype = str(value.dtype).removeprefix("torch.")
        # NumPy has no bfloat16; float32 holds every one of its numbers.
        array = (value.float() if dtype == "bfloat16" else value).numpy()
    else:
        array, dtype = np.asarray(value), str(value.dtype)
    if array.dtype.kind not in "fiub":
        _no(where, value)
    kind = "tensor" if torch_like else "array" if isinstance(value, np.ndarray) else "scalar"
    flat = [_encoded(v, where) for v in array.ravel().tolist()]
    return {kind: dtype, "shape": list(array.shape), "values": flat}


def _no(where: str, value: Any = None) -> Any:
    raise TypeError(f"{where} cannot be saved: it is a {type(value).__name__}, and only numbers and allmasks' own are")


def _decoded(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "float" in value:
        return float(value["float"])
    if "note" in value:
        return Note(value["note"], **_decoded(value["fields"]))
    if "dict" in value:
        return {_decoded(k): _decoded(v) for k, v in value["dict"]}
    if "tuple" in value:
        return tuple(_decoded(v) for v in value["tuple"])
    if "list" in value:
        return [_decoded(v) for v in value["list"]]
    if "class" in value:
        return _object(value)
    shape, held = value["shape"], [_decoded(v) for v in value["values"]]
    if "tensor" in value:
        import torch

        return torch.tensor(held, dtype=getattr(torch, value["tensor"])).reshape(shape)
    array = np.array(held, dtype=value.get("array") or value["scalar"]).reshape(shape)
    return array if "array" in value else array[()]


def _object(value: dict[str, Any]) -> Any:
    module, _, name = value["class"].partition(":")
    if not module.startswith("allmasks."):
        raise TypeError(f"{value['class']} is not allmasks' own")
    cls = getattr(importlib.import_module(module), name)
    if not (isinstance(cls, type) and is_dataclass(cls)):
        raise TypeError(f"{value['class']} is no result")
    made = object.__new__(cls)
    held = value["fields"]
    for f in fields(cls):
        # A field that a later version added has its default.
        content = _decoded(held[f.name]) if f.name in held else f.default
        object.__setattr__(made, f.name, content)
    return made
