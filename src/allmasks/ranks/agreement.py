"""What ranks must hold and ask alike, compared before anything is computed: else two models make one number.

Contents are compared by digests: integer sums over the bits of each tensor, which every device adds up alike.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_flatten

from allmasks.fingerprint import filled, fingerprint
from allmasks.ranks.groups import Group
from allmasks.sites import class_name, is_sharded

__all__ = ["agree_on_call", "agree_on_data", "agree_on_sites", "digest", "weights_of_first"]

_PRIME = 0x5851F42D4C957F2D
_AT_ONCE = 2**22
_DEEPEST = 4
_TOLD = (bool, float, complex, Tensor, np.ndarray, functools.partial, FunctionType, nn.Module)


def agree_on_call(ranks: Group, call: str, model: Any, loss: Any, **asked: Any) -> None:
    """Raise the same ValueError on every rank if they do not call alike, with one model, loss and request.

    Parameters
    ----------
    call : the name of the function. asked : its keywords; of tensors and arrays, which hold a rank's own rows, only
        whether they were given.
    """
    if ranks.size > 1:
        ranks.agree(ranks.run(lambda: _call(call, model, loss, asked)))


def agree_on_data(ranks: Group, args: Any, kwargs: Mapping[str, Any], target: Any) -> None:
    """The same, of the data's types: ranks have other examples, but examples of one kind."""
    if ranks.size > 1:
        ranks.agree(ranks.run(lambda: _kinds("inputs", (args, dict(kwargs))) | _kinds("targets", target)))


def agree_on_sites(ranks: Group, sites: Iterable[Any]) -> None:
    """The same, of the dropout sites that were met: names, rates and shapes."""
    if ranks.size > 1:
        ranks.agree({f"the site {site.name}": _law(site) for site in sites})


def _law(site: Any) -> str:
    # Of a joint draw each input has as many units as it needs.
    return f"p={site.p}" if site.joint else f"p={site.p}, shape {site.shape}"


def weights_of_first(ranks: Group, model: nn.Module) -> list[str]:
    """Give every rank the first rank's parameters and buffers; the names of those that were not alike."""
    own = {name: digest(tensor) for name, tensor in model.state_dict().items()}
    all_of_them = ranks.gather(own)
    names = sorted({n for other in all_of_them for n in own.keys() | other.keys() if other.get(n) != own.get(n)})
    if names:
        first = ranks.of_first({name: tensor.detach().cpu() for name, tensor in model.state_dict().items()})
        ranks.run(lambda: model.load_state_dict(first))
    return names


def digest(tensor: Tensor) -> int:
    """A number that differs where any bit of the contents does, but by chance.

    >>> a = torch.arange(5.0)
    >>> digest(a) == digest(a.clone()), digest(a) == digest(a + 0.0), digest(a) == digest(a.flip(0))
    (True, True, False)
    """
    raw = tensor.detach()
    if raw.layout is not torch.strided:
        raw = raw.to_dense()
    total = 0
    size = raw.element_size()
    flat = raw.contiguous().reshape(-1).view(torch.uint8).reshape(-1, size) if raw.numel() else raw.new_zeros(0, 1)
    for lo in range(0, len(flat), _AT_ONCE):
        part = flat[lo : lo + _AT_ONCE].to(torch.int64)
        word = torch.zeros(len(part), dtype=torch.int64, device=part.device)
        for k in range(part.shape[1]):
            word = word * 257 + part[:, k]
        place = torch.arange(lo, lo + len(part), device=part.device) * 2 + 1
        mixed = (word + place) * (place * _PRIME)
        total += int((mixed ^ (mixed >> 29)).sum())
    return total % 2**64


def _call(call: str, model: Any, loss: Any, asked: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {"the function": call}
    fields |= {name: _told(value) for name, value in asked.items()}
    fields |= _of_loss(loss)
    if isinstance(model, nn.Module):
        fields |= _of_model(model)
    return fields


def _told(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return "given" if isinstance(value, Tensor) or hasattr(value, "__array__") else repr(value)


def _of_loss(loss: Any) -> dict[str, Any]:
    if isinstance(loss, nn.Module):
        contents = {f"{name} of the loss": digest(t) for name, t in loss.state_dict().items()}
        return {"the loss": _options(loss), **contents}
    return {"the loss": loss if isinstance(loss, str) else _spoken(loss)}


def _spoken(value: Any, inside: int = 0) -> str:
    """A loss in words that differ where it does: its code and the numbers it holds.

    What may well be a rank's own is left out: devices, and whole numbers and words that a function closes over
    (`y.to(rank)`).
    """
    if value is None or isinstance(value, bool | int | float | complex | str):
        return repr(value)
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {value.dtype} (contents {digest(value):x})"
    if isinstance(value, np.ndarray | np.generic):
        raw = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()[:8]
        return f"{np.shape(value)} {value.dtype} (contents {raw})"
    if inside > _DEEPEST:
        return type(value).__qualname__
    if isinstance(value, functools.partial):
        held = [_spoken(v, inside + 1) for v in value.args]
        held += [f"{k}={_spoken(v, inside + 1)}" for k, v in sorted(value.keywords.items())]
        return f"partial({', '.join([_spoken(value.func, inside + 1), *held])})"
    if isinstance(value, MethodType):
        return f"{_spoken(value.__func__, inside + 1)} of {_spoken(value.__self__, inside + 1)}"
    if isinstance(value, FunctionType):
        code = fingerprint(value.__code__)[:8]
        named = f"{value.__module__}.{value.__qualname__} (code {code})"
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        own = {name: cell.cell_contents for name, cell in cells if filled(cell)}
        return named + _held(own, inside) + _held(value.__kwdefaults__ or {}, inside) + _defaults(value, inside)
    if isinstance(value, nn.Module):
        contents = {name: digest(tensor) for name, tensor in value.state_dict().items()}
        return f"{_options(value)}{contents or ''}"
    return type(value).__qualname__ + _held(getattr(value, "__dict__", {}), inside)


def _options(module: nn.Module) -> str:
    """A module's text, and the options that torch does not show in it, such as label_smoothing."""
    found = {
        ".".join(filter(None, [where, name])): value
        for where, part in module.named_modules()
        for name, value in vars(part).items()
        if not name.startswith("_") and name != "training" and isinstance(value, bool | int | float | complex | str)
    }
    return f"{module!r} with {', '.join(f'{k}={v!r}' for k, v in sorted(found.items()))}" if found else repr(module)


def _held(values: Mapping[str, Any], inside: int) -> str:
    kept = {name: _spoken(value, inside + 1) for name, value in values.items() if isinstance(value, _TOLD)}
    return f" with {', '.join(f'{name}={text}' for name, text in sorted(kept.items()))}" if kept else ""


def _defaults(function: FunctionType, inside: int) -> str:
    given = function.__defaults__ or ()
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    return _held(dict(zip(names[len(names) - len(given) :], given, strict=True)), inside)


def _of_model(model: nn.Module) -> dict[str, Any]:
    sharded = is_sharded(model)
    if isinstance(model, DistributedDataParallel):
        model = model.module
    fields: dict[str, Any] = {"the model": class_name(model)}
    for name, parameter in model.named_parameters():
        if sharded:  # each rank holds a part of its own
            fields[f"the dtype of parameter {name}"] = str(parameter.dtype)
            continue
        fields[f"the shape of parameter {name}"] = f"{tuple(parameter.shape)} {parameter.dtype}"
        fields[f"parameter {name}"] = digest(parameter)
    # Contents of buffers may drift apart in training; the first rank's count.
    for name, buffer in model.named_buffers():
        fields[f"buffer {name}"] = f"{tuple(buffer.shape)} {buffer.dtype}"
    return fields


def _kinds(what: str, tree: Any) -> dict[str, Any]:
    leaves, structure = tree_flatten(tree)
    kinds = [str(leaf.dtype) if isinstance(leaf, Tensor) else type(leaf).__name__ for leaf in leaves]
    return {f"the structure of the {what}": str(structure), f"the dtypes of the {what}": ", ".join(kinds)}
