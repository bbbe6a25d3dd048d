"""Tensors from .pt and .safetensors files, without running code that the file holds."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

from allmasks.inputs.paths import first_line

__all__ = ["read_tensors"]


def read_tensors(file: Path, option: str, instead: str) -> Any:
    """What the file holds, on the CPU.

    Parameters
    ----------
    option : the command line's, for messages. instead : what to save that can be read.

    Raises
    ------
    ValueError : corrupt file, a pickle that would run code, safetensors not installed.
    """
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        import torch

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols: what matters is refused below
            return torch.load(file, map_location="cpu", weights_only=True)
    except ImportError:
        raise ValueError(
            f"{option} {file} needs the safetensors package: pip install 'allmasks[safetensors]'"
        ) from None
    except pickle.UnpicklingError:
        raise ValueError(
            f"{option} {file} holds no plain tensors: it is corrupt or a pickle that would run code when loaded, which "
            f"is refused; {instead}"
        ) from None
    except Exception as problem:
        raise ValueError(f"{option} {file} cannot be read: {first_line(problem)}") from None
