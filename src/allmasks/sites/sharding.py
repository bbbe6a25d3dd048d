"""Models whose parameters FSDP spreads over processes: what is one, what its modules are called, and how many they are.

Neither flavour is imported here: a model that is sharded has loaded it.
"""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["class_name", "is_sharded", "known_path", "n_parameters", "reshard", "sharded_parts"]

_WRAPPED = ("_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Names that wrappers put into a path, of which the user who wrote the model knows nothing."""

_WRAPPER = "FullyShardedDataParallel"
_MARK = "FSDPModule"


def _is_a(module: nn.Module, name: str) -> bool:
    return any(c.__name__ == name and c.__module__.startswith("torch.distributed") for c in type(module).__mro__)


def sharded_parts(model: nn.Module) -> list[nn.Module]:
    """The modules that `fully_shard` was applied to; they are what gathers and gives back their parameters."""
    return [module for module in model.modules() if _is_a(module, _MARK)]


def reshard(model: nn.Module) -> None:
    """Give back the parameters that a pass has left gathered."""
    for part in reversed(sharded_parts(model)):
        part.reshard()  # type: ignore[operator]


def is_sharded(model: nn.Module) -> bool:
    """Whether a pass of the model gathers parameters from other processes on its way."""
    return any(_is_a(module, _WRAPPER) or _is_a(module, _MARK) for module in model.modules())


def known_path(path: str) -> str:
    """A module's path as it was before it was wrapped.

    >>> known_path("_fsdp_wrapped_module.encoder._fsdp_wrapped_module.1"), known_path("_fsdp_wrapped_module")
    ('encoder.1', '')
    """
    return ".".join(part for part in path.split(".") if part not in _WRAPPED)


def class_name(model: nn.Module) -> str:
    """The name of the model's own class, under what FSDP makes of it.

    >>> class_name(nn.Linear(1, 1))
    'Linear'
    """
    while _is_a(model, _WRAPPER):
        model = model.module  # type: ignore[assignment]
    if _is_a(model, _MARK):
        return next(c for c in type(model).__mro__[1:] if c.__name__ != _MARK).__name__
    return type(model).__name__


def n_parameters(model: nn.Module) -> int:
    """Numbers in all parameters, those on other processes included.

    >>> n_parameters(nn.Linear(3, 2))
    8
    """
    flat: list[Any] = []
    for module in model.modules():
        handle = getattr(module, "_handle", None) if _is_a(module, _WRAPPER) else None
        if handle is not None:
            flat.append(handle.flat_param)
    if not flat:
        return sum(parameter.numel() for parameter in model.parameters())
    mine = {id(one) for one in flat}
    views = {id(view) for one in flat for view in (one._params or ())}
    rest = sum(p.numel() for p in model.parameters() if id(p) not in mine | views)
    return rest + sum(sum(one._numels) for one in flat)
