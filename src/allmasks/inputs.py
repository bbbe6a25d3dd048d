"""Strings and paths from the command line to models, weights and data. Every refusal is one line that helps."""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
import sys
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["default_loss", "existing", "load_data", "load_model", "load_weights", "parse_numbers"]

LABELS = ("y", "target")
"""Names of the column that holds the label, in .csv and .parquet files."""


def parse_numbers(texts: str | Iterable[str], *, name: str = "numbers") -> NDArray[np.float64]:
    """Numbers separated by spaces or commas, (n,) float64; ValueError names the one that is none.

    >>> parse_numbers(["2", "-1,3"]).tolist()
    [2.0, -1.0, 3.0]
    >>> parse_numbers("1 two", name="--w")
    Traceback (most recent call last):
    ...
    ValueError: --w must be numbers, got 'two'
    """
    pieces = " ".join([texts] if isinstance(texts, str) else texts).replace(",", " ").split()
    values = []
    for piece in pieces:
        try:
            values.append(float(piece))
        except ValueError:
            raise ValueError(f"{name} must be numbers, got {piece!r}") from None
    return np.array(values, np.float64)


def existing(path: str | Path, option: str) -> Path:
    """The path of a file that exists and is not empty, or an OSError or ValueError that names the option."""
    file = Path(path)
    if not file.exists():
        raise FileNotFoundError(f"{option} {file}: no such file")
    if not file.is_file():
        raise IsADirectoryError(f"{option} {file} is a folder: give a file")
    if file.stat().st_size == 0:
        raise ValueError(f"{option} {file}: the file is empty")
    return file


def _first_line(problem: BaseException) -> str:
    text = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {text[0]}" if text else type(problem).__name__


def load_model(spec: str) -> nn.Module:
    """The module that a factory returns, from "FILE.py:FACTORY".

    The file is imported by its path under a private name; modules beside it can be imported while it loads and
    while the factory runs. `sys.path` is afterwards as before.

    Raises
    ------
    ValueError : no such form, no such name, the file or the factory raises.
    TypeError : the name is not callable, or what it returns is no nn.Module.
    OSError : no such file.
    """
    path, colon, factory_name = spec.rpartition(":")
    if not colon or not path or not factory_name:
        raise ValueError(
            f"--model must be FILE.py:FACTORY, a file and the function that builds the model, got {spec!r}"
        )
    file = existing(path, "--model").resolve()
    name = "_allmasks_user_" + hashlib.sha256(str(file).encode()).hexdigest()[:16]
    found = importlib.util.spec_from_file_location(name, file)
    if found is None or found.loader is None:
        raise ValueError(f"--model {path} is not a Python file: its name must end in .py")
    module = importlib.util.module_from_spec(found)
    before = sys.path.copy()
    sys.path.insert(0, str(file.parent))
    # Dataclasses and pickles look their module up by name; it stays there for the model's lifetime.
    sys.modules[name] = module
    try:
        try:
            found.loader.exec_module(module)
        except (Exception, SystemExit) as problem:
            sys.modules.pop(name, None)
            raise ValueError(f"--model {path} cannot be imported: {_first_line(problem)}") from problem
        if not hasattr(module, factory_name):
            public = sorted(n for n, v in vars(module).items() if callable(v) and not n.startswith("_"))
            defined = [n for n in public if getattr(vars(module)[n], "__module__", None) == name]
            hint = f"; it defines {', '.join(defined)}" if defined else ""
            raise ValueError(f"--model {path} has no name {factory_name!r}{hint}")
        factory = getattr(module, factory_name)
        if not callable(factory):
            raise TypeError(
                f"--model {spec}: {factory_name} must be a function that returns an nn.Module, "
                f"got {type(factory).__name__}"
            )
        return _build(factory, spec)
    finally:
        sys.path[:] = before


def _build(factory: Any, spec: str) -> nn.Module:
    from torch import nn

    if isinstance(factory, nn.Module):
        return factory
    try:
        model = factory()
    except (Exception, SystemExit) as problem:
        raise ValueError(f"--model {spec}: the factory raised {_first_line(problem)}") from problem
    if not isinstance(model, nn.Module):
        raise TypeError(f"--model {spec}: the factory must return an nn.Module, it returned {type(model).__name__}")
    return model


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a state dict into the model, from .safetensors, or from .pt or .pth without unpickling code.

    Raises
    ------
    ValueError : corrupt file, an object that is no state dict, keys or shapes that differ from the model's.
    OSError : no such file.
    """
    import torch

    file = existing(path, "--weights")
    if file.suffix == ".safetensors":
        state: Any = _safetensors(file)
    elif file.suffix in (".pt", ".pth", ".bin"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about pickle protocols: what matters is refused below
                state = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            raise ValueError(
                f"--weights {file} is not a plain state dict: it is corrupt or a pickle that would run code when "
                "loaded, which is refused; save model.state_dict() instead"
            ) from None
        except Exception as problem:
            raise ValueError(f"--weights {file} cannot be read: {_first_line(problem)}") from None
    else:
        raise ValueError(f"--weights must end in .safetensors, .pt or .pth, got {file.name}")
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(f"--weights {file} holds no state dict of tensors: save model.state_dict()")
    own = model.state_dict()
    missing, unknown = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    wrong = [k for k in own if k in state and own[k].shape != state[k].shape]
    troubles = [
        *([f"missing {_some(missing)}"] if missing else []),
        *([f"not in the model {_some(unknown)}"] if unknown else []),
        *(f"{k} has shape {tuple(state[k].shape)} where the model has {tuple(own[k].shape)}" for k in wrong[:3]),
    ]
    if troubles:
        raise ValueError(f"--weights {file} does not fit the model: {'; '.join(troubles)}")
    bad = [k for k, v in state.items() if v.is_floating_point() and not bool(torch.isfinite(v).all())]
    if bad:
        raise ValueError(f"--weights {file} holds NaN or infinite values in {_some(bad)}")
    model.load_state_dict(state)


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def _safetensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise ValueError(
            f"--weights {file} needs the safetensors package: pip install 'allmasks[safetensors]'"
        ) from None
    try:
        loaded: dict[str, torch.Tensor] = load_file(file)
    except Exception as problem:
        raise ValueError(f"--weights {file} cannot be read: {_first_line(problem)}") from None
    return loaded


def load_data(path: str | Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs as float32 and labels: int64 where they are whole-number types, float32 otherwise.

    Parameters
    ----------
    path : .npz with arrays X (n, …) and y (n, …), or .csv or .parquet with a column y or target.

    Raises
    ------
    ValueError : corrupt file, a pickle, missing names, columns that are no numbers, NaN or infinite values, X and y
        of different lengths, no rows.
    OSError : no such file.
    """
    import torch

    file = existing(path, "--data")
    if file.suffix == ".npz":
        X, y = _npz(file)
    elif file.suffix in (".csv", ".parquet"):
        X, y = _frame(file)
    else:
        raise ValueError(f"--data must end in .npz, .csv or .parquet, got {file.name}")
    if X.ndim < 2:
        raise ValueError(f"--data {file}: X must have one row an example, shape (n, …), got shape {X.shape}")
    if len(X) != len(y) or y.ndim == 0:
        raise ValueError(f"--data {file}: X and y must have as many rows, got shapes {X.shape} and {y.shape}")
    if len(X) == 0:
        raise ValueError(f"--data {file} has no rows")
    for name, array in (("X", X), ("y", y)):
        if array.dtype.kind not in "fiub":
            raise ValueError(f"--data {file}: {name} must hold numbers, got dtype {array.dtype}")
        with np.errstate(over="ignore"):
            bad = ~np.isfinite(array.astype(np.float32))
        if bad.any():
            row = int(np.argwhere(bad)[0][0])
            raise ValueError(
                f"--data {file}: {name} has {int(bad.sum())} NaN or infinite values (the first in row {row}): "
                "remove or fill them"
            )
    labels = y.astype(np.int64 if y.dtype.kind in "iub" else np.float32)
    return torch.from_numpy(X.astype(np.float32)), torch.from_numpy(labels)


def _npz(file: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    if not zipfile.is_zipfile(file):
        with file.open("rb") as start:
            single = start.read(6) == b"\x93NUMPY"
        what = (
            "holds a single array" if single else "is not a readable .npz file (corrupt, or a pickle, which is refused)"
        )
        raise ValueError(f"--data {file} {what}: save both arrays with np.savez(file, X=X, y=y)")
    try:
        with file.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
            missing = [name for name in ("X", "y") if name not in archive.files]
            if not missing:
                return archive["X"], archive["y"]
            held = _some(archive.files) or "nothing"
    except Exception as problem:
        if "pickle" in str(problem):
            raise ValueError(
                f"--data {file} holds pickled objects, which could run code and are refused: "
                "save plain arrays of numbers with np.savez(file, X=X, y=y)"
            ) from None
        raise ValueError(f"--data {file} is not a readable .npz file: {_first_line(problem)}") from None
    raise ValueError(
        f"--data {file} has no array {' and '.join(missing)}, only {held}: save with np.savez(file, X=X, y=y)"
    )


def _frame(file: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        import pandas as pd
    except ImportError:
        raise ValueError(f"--data {file} needs pandas: pip install 'allmasks[data]', or give an .npz file") from None
    try:
        frame = pd.read_csv(file) if file.suffix == ".csv" else pd.read_parquet(file)
    except ImportError:
        raise ValueError(f"--data {file} needs pyarrow: pip install 'allmasks[data]', or give an .npz file") from None
    except Exception as problem:
        raise ValueError(f"--data {file} cannot be read: {_first_line(problem)}") from None
    columns = [str(c) for c in frame.columns]
    labels = [c for c in LABELS if c in columns]
    if len(labels) != 1:
        what = "no label column" if not labels else "two label columns"
        raise ValueError(f"--data {file} has {what}: name one of them y or target (columns: {_some(columns)})")
    frame.columns = columns
    texts = [c for c in columns if frame[c].dtype.kind not in "fiub"]
    if texts:
        raise ValueError(f"--data {file}: columns must be numbers, these are not: {_some(texts)}")
    inputs = [c for c in columns if c != labels[0]]
    if not inputs:
        raise ValueError(f"--data {file} has no input columns beside {labels[0]}")
    return frame[inputs].to_numpy(dtype=np.float64), frame[labels[0]].to_numpy()


def default_loss(output: torch.Tensor, y: torch.Tensor) -> str:
    """The loss that fits a model's output (n, …) and labels (n, …); ValueError where it is unclear.

    Integer labels and several outputs: cross_entropy. 0/1 labels and one output: logistic. Floats:
    squared_error.

    >>> import torch
    >>> default_loss(torch.zeros(4, 3), torch.tensor([0, 2, 1, 0]))
    'cross_entropy'
    >>> default_loss(torch.zeros(4, 1), torch.tensor([0, 1, 1, 0]))
    'logistic'
    >>> default_loss(torch.zeros(4, 1), torch.tensor([0.5, 1.0, 2.0, 0.0]))
    'squared_error'
    """
    whole = not y.is_floating_point()
    outputs = output[0].numel() if output.ndim > 1 else 1
    if outputs > 1 and whole and y.ndim == 1:
        return "cross_entropy"
    if outputs == 1 and bool(((y == 0) | (y == 1)).all()):
        return "logistic"
    if not whole and y[0].numel() == outputs:
        return "squared_error"
    raise ValueError(
        f"the loss cannot be told from an output of shape {tuple(output.shape)} and labels of shape {tuple(y.shape)} "
        f"and type {str(y.dtype).removeprefix('torch.')}: give --loss squared_error, logistic, cross_entropy or poisson"
    )
