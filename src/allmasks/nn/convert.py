"""torch.nn's dropout layers replaced by ours in a whole model."""

from __future__ import annotations

import copy
import logging

import torch
from torch import nn

from allmasks.nn import layers
from allmasks.sites import check_module

__all__ = ["convert"]

_log = logging.getLogger("allmasks.nn")

_OURS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Dropout: layers.Dropout,
    nn.Dropout1d: layers.Dropout1d,
    nn.Dropout2d: layers.Dropout2d,
    nn.Dropout3d: layers.Dropout3d,
    nn.AlphaDropout: layers.AlphaDropout,
    nn.FeatureAlphaDropout: layers.FeatureAlphaDropout,
}


def convert(model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """Replace each torch.nn dropout layer by the allmasks layer of the same name; same p, hooks and flags.

    Parameters and buffers are untouched, and state dicts load strictly both ways. Each replacement is logged on the
    logger "allmasks.nn" at level INFO; what drops and is left as it is, at WARNING: dropout inside `nn.LSTM`, `nn.GRU`,
    `nn.RNN` and `nn.MultiheadAttention`, scripted layers, and subclasses of torch's layers. Dropout that is a call in
    some forward is no module, and stays without a word; `am.find_dropout` lists it.

    Parameters
    ----------
    model : any module, or a dropout layer itself.
    inplace : change the model itself instead of a deep copy.

    Raises
    ------
    TypeError : if `model` is no `nn.Module`.

    Example
    -------
    >>> import torch, allmasks as am
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.2))
    >>> am.convert(net)[1], net[1]
    (Dropout(p=0.2, inplace=False), Dropout(p=0.2, inplace=False))
    >>> type(am.convert(net)[1]).__module__, type(net[1]).__module__
    ('allmasks.nn.layers', 'torch.nn.modules.dropout')
    """
    check_module(model)
    result = model if inplace else copy.deepcopy(model)
    replaced = 0
    for name, module in result.named_modules():
        ours = _OURS.get(type(module))
        if ours is not None:
            # The object stays and changes its class: whoever else holds it, and its hooks, need not know.
            module.__class__ = ours
            module.seed = None
            replaced += 1
            _log.info("%s: torch.nn.%s(p=%s) replaced", name or "(root)", ours.__name__, module.p)
        elif (why := _left(module)) is not None:
            _log.warning("%s: %s", name or "(root)", why)
    if not replaced:
        _log.warning("no torch.nn dropout layer was found in %s", type(model).__name__)
    return result


def _left(module: nn.Module) -> str | None:
    """What this module drops and `convert` leaves, or None."""
    kind = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        original = getattr(module, "original_name", "")
        return f"scripted {original} was left: convert first, then script" if original in _NAMES else None
    if isinstance(module, nn.RNNBase | nn.MultiheadAttention) and module.dropout > 0:
        return f"dropout inside {kind} (p={module.dropout}) was left: it is no layer of its own"
    if isinstance(module, tuple(_OURS)) and not isinstance(module, layers.Keyed):
        return f"{kind} is a subclass of torch's layer and was left"
    return None


_NAMES = frozenset(kind.__name__ for kind in _OURS)
