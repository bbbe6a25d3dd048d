"""Weights from a file into a model, without running code that the file holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from allmasks.inputs.paths import existing, some
from allmasks.inputs.tensor_files import read_tensors

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["load_weights"]


PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DataParallel, torch.compile and Lightning put before every name."""

INSIDE = ("state_dict", "model_state_dict", "model")
"""Entries of a checkpoint that hold the model's state dict beside an optimizer's."""


def load_weights(model: nn.Module, path: str | Path) -> str | None:
    """Load a state dict into the model, from .safetensors, or from .pt or .pth without unpickling code.

    A checkpoint that holds the state dict under "state_dict", and prefixes that wrappers put before every name, are
    seen through; returned is a sentence that says so, or None.

    Raises
    ------
    ValueError : corrupt file, an object that is no state dict, keys or shapes that differ from the model's.
    OSError : no such file.
    """
    import torch

    file = existing(path, "--weights")
    if file.suffix not in (".safetensors", ".pt", ".pth", ".bin"):
        raise ValueError(f"--weights must end in .safetensors, .pt or .pth, got {file.name}")
    state, inside = _unpacked(read_tensors(file, "--weights", "save model.state_dict() instead"))
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(f"--weights {file} holds no state dict of tensors: save model.state_dict()")
    own = model.state_dict()
    state, stripped = _without_prefixes(state, set(own))
    missing, unknown = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    wrong = [k for k in own if k in state and own[k].shape != state[k].shape]
    troubles = [
        *([f"missing {some(missing)}"] if missing else []),
        *([f"not in the model {some(unknown)}"] if unknown else []),
        *(f"{k} has shape {tuple(state[k].shape)} where the model has {tuple(own[k].shape)}" for k in wrong[:3]),
    ]
    if troubles:
        raise ValueError(f"--weights {file} does not fit the model: {'; '.join(troubles)}")
    bad = [k for k, v in state.items() if v.is_floating_point() and not bool(torch.isfinite(v).all())]
    if bad:
        raise ValueError(f"--weights {file} holds NaN or infinite values in {some(bad)}")
    model.load_state_dict(state)
    told = [f"the entry {inside!r} was taken"] if inside else []
    if stripped:
        told.append(f"{stripped!r} was stripped from the names")
    return f"--weights {file}: {' and '.join(told)}" if told else None


def _unpacked(state: Any) -> tuple[Any, str | None]:
    if isinstance(state, dict):
        for name in INSIDE:
            if isinstance(state.get(name), dict):
                return state[name], name
    return state, None


def _without_prefixes(state: dict[str, torch.Tensor], own: set[str]) -> tuple[dict[str, torch.Tensor], str]:
    """The weights under the model's names, and the prefix that all of them had."""
    stripped, inner = "", "_orig_mod."
    while not own & set(state):
        shared = next((p for p in PREFIXES if state and all(name.startswith(p) for name in state)), None)
        if shared is None:
            break
        stripped += shared
        state = {name.removeprefix(shared): tensor for name, tensor in state.items()}
    if any(inner in name for name in state) and not any(inner in name for name in own):  # of compiled parts
        stripped += inner
        state = {name.replace(inner, ""): tensor for name, tensor in state.items()}
    return state, stripped
