"""Examples from a file: one or several inputs, and labels of any shape that a loss takes."""

from __future__ import annotations

import inspect
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from allmasks.inputs.paths import existing, first_line, some
from allmasks.inputs.tensor_files import read_tensors

if TYPE_CHECKING:
    import torch
    from torch import nn

    Inputs = torch.Tensor | tuple[torch.Tensor, ...] | dict[str, torch.Tensor]

__all__ = ["as_taken", "first_rows", "load_data"]

LABELS = ("y", "target")
"""Names of the column that holds the label, in .csv and .parquet files."""

_NUMBERED = re.compile(r"X([2-9]|[1-9]\d+)?")


def load_data(path: str | Path, option: str = "--data") -> tuple[Inputs, torch.Tensor]:
    """Inputs and labels (n, …): whole numbers as int64, all others as float32.

    Several inputs come as a tuple, in order, where they are named X, X2, X3 …; as a dict where they have other names,
    which are then those of the arguments of `forward`.

    Parameters
    ----------
    path : arrays X (n, …) and y (n, …) in an .npz, .safetensors or .pt file (a dict, or the pair of both), or a .csv or
        .parquet table with a column y or target.
    option : the command line's, for messages.

    Raises
    ------
    ValueError : corrupt file, a pickle, missing names, columns that are no numbers, an index for a column, NaN or
        infinite values, arrays of different lengths, no rows.
    OSError : no such file.
    """
    import torch

    file = existing(path, option)
    if file.suffix not in _READERS:
        raise ValueError(
            f"{option} must end in {', '.join(list(_READERS)[:-1])} or {list(_READERS)[-1]}, got {file.name}"
        )
    arrays = _READERS[file.suffix](file, option)
    y = arrays.pop("y")
    for name, array in arrays.items():
        if array.ndim < (2 if len(arrays) == 1 else 1):
            raise ValueError(
                f"{option} {file}: {name} must have one row an example, shape (n, …), got shape {array.shape}"
            )
        if y.ndim == 0 or len(array) != len(y):
            raise ValueError(
                f"{option} {file}: {name} and y must have as many rows, got shapes {array.shape} and {y.shape}"
            )
    if len(y) == 0:
        raise ValueError(f"{option} {file} has no rows")
    inputs = {name: torch.from_numpy(_numbers(array, name, file, option)) for name, array in arrays.items()}
    labels = torch.from_numpy(_numbers(y, "y", file, option))
    if len(inputs) == 1 and "X" in inputs:
        return inputs["X"], labels
    if all(map(_NUMBERED.fullmatch, inputs)):
        return tuple(inputs[name] for name in sorted(inputs, key=lambda name: int(name[1:] or 1))), labels
    return inputs, labels


def _numbers(array: NDArray[Any], name: str, file: Path, option: str) -> NDArray[Any]:
    """The array as int64 or float32, all of it finite."""
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{option} {file}: {name} must hold numbers, got dtype {array.dtype}")
    if array.dtype.kind in "iub":
        return array.astype(np.int64)
    with np.errstate(over="ignore"):
        single = array.astype(np.float32)
    bad = ~np.isfinite(single)
    if bad.any():
        row = int(np.argwhere(bad)[0][0])
        raise ValueError(
            f"{option} {file}: {name} has {int(bad.sum())} NaN or infinite values (the first in row {row}): "
            "remove or fill them"
        )
    return single


def _checked(held: Mapping[str, Any], file: Path, option: str, save: str) -> dict[str, Any]:
    """The arrays by name, if there are inputs and labels among them."""
    missing = [] if "y" in held else ["y"]
    if not set(held) - {"y"} or (missing and "X" not in held):
        missing.insert(0, "X")
    if missing:
        only = some(list(held)) or "nothing"
        raise ValueError(f"{option} {file} has no array {' and '.join(missing)}, only {only}: save with {save}")
    return dict(held)


def _npz(file: Path, option: str) -> dict[str, Any]:
    if not zipfile.is_zipfile(file):
        with file.open("rb") as start:
            single = start.read(6) == b"\x93NUMPY"
        what = (
            "holds a single array" if single else "is not a readable .npz file (corrupt, or a pickle, which is refused)"
        )
        raise ValueError(f"{option} {file} {what}: save both arrays with np.savez(file, X=X, y=y)")
    try:
        with file.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
            held = {name: archive[name] for name in archive.files}
    except Exception as problem:
        if "pickle" in str(problem):
            raise ValueError(
                f"{option} {file} holds pickled objects, which could run code and are refused: "
                "save plain arrays of numbers with np.savez(file, X=X, y=y)"
            ) from None
        raise ValueError(f"{option} {file} is not a readable .npz file: {first_line(problem)}") from None
    return _checked(held, file, option, "np.savez(file, X=X, y=y)")


def _tensors(file: Path, option: str) -> dict[str, Any]:
    import torch

    function = "save_file({}, file)" if file.suffix == ".safetensors" else "torch.save({}, file)"
    how = function.format('{"X": X, "y": y}')
    held = read_tensors(file, option, f"save plain tensors with {how}")
    if isinstance(held, tuple | list) and len(held) == 2:
        held = dict(zip(("X", "y"), held, strict=True))
    if not isinstance(held, dict) or not all(isinstance(v, torch.Tensor) for v in held.values()):
        raise ValueError(f"{option} {file} must hold tensors by name, or the pair of X and y: save with {how}")
    return _checked({str(name): _as_array(tensor) for name, tensor in held.items()}, file, option, how)


def _as_array(tensor: torch.Tensor) -> NDArray[Any]:
    # NumPy has no bfloat16.
    return (tensor.float() if tensor.is_floating_point() else tensor).detach().numpy()


def _frame(file: Path, option: str) -> dict[str, Any]:
    try:
        import pandas as pd
    except ImportError:
        raise ValueError(f"{option} {file} needs pandas: pip install 'allmasks[data]', or give an .npz file") from None
    try:
        frame = pd.read_csv(file) if file.suffix == ".csv" else pd.read_parquet(file)
    except ImportError:
        raise ValueError(f"{option} {file} needs pyarrow: pip install 'allmasks[data]', or give an .npz file") from None
    except Exception as problem:
        raise ValueError(f"{option} {file} cannot be read: {first_line(problem)}") from None
    columns = [str(c) for c in frame.columns]
    labels = [c for c in LABELS if c in columns]
    if len(labels) != 1:
        what = "no label column" if not labels else "two label columns"
        raise ValueError(f"{option} {file} has {what}: name one of them y or target (columns: {some(columns)})")
    if len(frame) == 0:
        raise ValueError(f"{option} {file} has a header and no rows below it")
    frame.columns = columns
    texts = [c for c in columns if frame[c].dtype.kind not in "fiub"]
    if texts:
        raise ValueError(f"{option} {file}: columns must be numbers, these are not: {some(texts)}")
    nameless = columns[0].startswith(("Unnamed:", "__index_level_")) and frame[columns[0]].notna().all()
    first = frame[columns[0]].tolist()
    if nameless and first == list(range(int(first[0]), int(first[0]) + len(frame))):
        raise ValueError(
            f"{option} {file}: the first column has no name and counts the rows, so it is an index and no input: write "
            "the file with index=False, or give the column a name"
        )
    inputs = [c for c in columns if c != labels[0]]
    if not inputs:
        raise ValueError(f"{option} {file} has no input columns beside {labels[0]}")
    table = frame[inputs].to_numpy()
    return {"X": table if table.dtype.kind in "iub" else table.astype(np.float64), "y": frame[labels[0]].to_numpy()}


_READERS: dict[str, Callable[[Path, str], dict[str, Any]]] = {
    ".npz": _npz,
    ".safetensors": _tensors,
    ".pt": _tensors,
    ".pth": _tensors,
    ".csv": _frame,
    ".parquet": _frame,
}


def first_rows(x: Inputs, n: int) -> Inputs:
    """The first n examples, in the same form."""
    if isinstance(x, dict):
        return {name: tensor[:n] for name, tensor in x.items()}
    return tuple(tensor[:n] for tensor in x) if isinstance(x, tuple) else x[:n]


def as_taken(model: nn.Module, x: Inputs, option: str = "--data") -> tuple[Inputs, bool]:
    """The inputs in the model's own float type; and whether whole numbers had to become such.

    Whole numbers stay what they are if the model runs on them (token ids do); if it runs on floats alone, they are
    cast.

    Parameters
    ----------
    option : the command line's, for messages.
    """
    import torch

    if isinstance(x, dict):
        takes = inspect.signature(model.forward)
        try:
            takes.bind(**x)
        except TypeError as problem:
            raise ValueError(
                f"{option} has inputs named {some(list(x))}, but {type(model).__name__}.forward{takes} takes others "
                f"({problem}): name them as it does, or X, X2 … in its order"
            ) from None
    kind = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)

    def cast(tensor: torch.Tensor, whole: bool) -> torch.Tensor:
        return tensor.to(kind) if tensor.is_floating_point() or whole else tensor

    def each(change: Callable[[torch.Tensor], torch.Tensor]) -> Inputs:
        if isinstance(x, dict):
            return {name: change(tensor) for name, tensor in x.items()}
        return tuple(map(change, x)) if isinstance(x, tuple) else change(x)

    as_given = each(lambda tensor: cast(tensor, False))
    held = x.values() if isinstance(x, dict) else x if isinstance(x, tuple) else (x,)
    if all(tensor.is_floating_point() for tensor in held) or _runs(model, first_rows(as_given, 2)):
        return as_given, False
    as_floats = each(lambda tensor: cast(tensor, True))
    return (as_floats, True) if _runs(model, first_rows(as_floats, 2)) else (as_given, False)


def _runs(model: nn.Module, x: Inputs) -> bool:
    from allmasks.inputs.loss_choice import in_eval_mode

    try:
        in_eval_mode(model, x)
    except Exception:  # what is wrong with it will be said where it is run in earnest
        return False
    return True
