"""What ranks must hold and ask alike, compared before anything is computed: else two models make one number.

Contents are compared by digests: integer sums over the bits of each tensor, which every device adds up alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_flatten

from allmasks.expect.distributed import Group
from allmasks.methods import Method
from allmasks.sites import class_name, is_sharded

__all__ = ["agree_on_call", "agree_on_data", "digest", "weights_of_first"]

_PRIME = 0x5851F42D4C957F2D
_AT_ONCE = 2**22


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
    if isinstance(value, Method):
        return repr(value)
    return "given" if isinstance(value, Tensor) or hasattr(value, "__array__") else repr(value)


def _of_loss(loss: Any) -> dict[str, Any]:
    if isinstance(loss, nn.Module):
        contents = {f"{name} of the loss": digest(t) for name, t in loss.state_dict().items()}
        return {"the loss": repr(loss), **contents}
    if isinstance(loss, FunctionType):
        # What it closes over may well be the rank's own, such as a device.
        code = hashlib.sha256(loss.__code__.co_code).hexdigest()[:8]
        return {"the loss": f"{loss.__module__}.{loss.__qualname__} (code {code})"}
    return {"the loss": loss if isinstance(loss, str) else type(loss).__qualname__}


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
