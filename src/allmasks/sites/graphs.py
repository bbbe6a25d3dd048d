"""Graphs of PyTorch Geometric as inputs: how a model is called with one, and how their tensors are reached.

The library is never imported here: it is there if the data are of it.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.utils import _pytree
from torch.utils._pytree import tree_leaves

__all__ = ["call_with", "holds_graphs", "is_graph", "one_graph"]


def is_graph(value: Any) -> bool:
    """Whether this is a `Data`, `Batch`, `HeteroData` or another graph object of PyTorch Geometric."""
    module = sys.modules.get("torch_geometric.data.data")
    return module is not None and isinstance(value, module.BaseData)


def holds_graphs(inputs: Any) -> bool:
    """Whether there is a graph among a model's inputs, whose tensors are then reached as those of a dict are."""
    found = [leaf for leaf in tree_leaves(inputs) if is_graph(leaf)]
    for leaf in found:
        _make_known(type(leaf))
    return bool(found) or any(map(is_graph, _nodes(inputs)))


def one_graph(value: Any) -> Any:
    """A list of graphs as the one that holds them all side by side; anything else as it is."""
    if isinstance(value, list | tuple) and value and all(map(is_graph, value)):
        return sys.modules["torch_geometric.data"].Batch.from_data_list(list(value))
    return value


def call_with(model: nn.Module, graph: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a model is called with for a graph: its attributes by the names of forward's arguments, or the graph itself.

    The attributes, where the graph has one for each argument that has no default; those with a default are given too
    where it has them. The graph, where forward takes one argument that is none of its attributes.

    Raises
    ------
    ValueError : where neither fits.
    """
    required, optional = _parameters(model)
    held = set(_names(graph))
    if required and required != ["batch"] and held.issuperset(required):
        wanted = [*required, *(name for name in optional if name in held and name != "y")]
        return (), {name: getattr(graph, name) for name in wanted}
    if len(required) == 1 or (not required and len(optional) <= 1):
        holds_graphs(graph)
        return (graph,), {}
    lacking = [name for name in required if name not in held]
    raise ValueError(
        f"{type(model).__name__}.forward takes {', '.join(required or optional)}, and the graph has no "
        f"{', '.join(lacking) or 'one argument to be given as'}; it has {', '.join(sorted(held))}. Pass what the model "
        "is called with instead: x=(data.x, data.edge_index), say"
    )


def _parameters(model: Any) -> tuple[list[str], list[str]]:
    """Names of forward's arguments without and with a default, beneath the wrappers around it."""
    while True:
        inner = getattr(model, "_orig_mod", None) or (model.module if isinstance(model, nn.DataParallel) else None)
        if inner is None:
            break
        model = inner
    told = getattr(getattr(model, "signature", None), "param_dict", None)
    if isinstance(told, Mapping):  # torch_geometric.nn.Sequential("x, edge_index", …)
        return list(told), []
    required: list[str] = []
    optional: list[str] = []
    for name, parameter in inspect.signature(model.forward).parameters.items():
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            (required if parameter.default is parameter.empty else optional).append(name)
    return required, optional


def _names(graph: Any) -> list[str]:
    """What of a graph can be given by name; of one with several kinds of nodes `x_dict` and its like."""
    stores = list(graph.stores)
    if len(stores) == 1:
        return [*map(str, stores[0].keys()), "num_nodes"]
    named = [store for store in stores if getattr(store, "_key", None) is not None]
    own = {key for store in named for key in map(str, store.keys())}
    return sorted(f"{name}_dict" for name in own)


def _nodes(inputs: Any) -> list[Any]:
    """What holds the leaves: graphs are no leaves once they are known."""
    if is_graph(inputs):
        return [inputs]
    inside = inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, list | tuple) else ()
    return [node for part in inside for node in _nodes(part)]


def _make_known(kind: type) -> None:
    if kind not in _pytree.SUPPORTED_NODES:
        _pytree.register_pytree_node(kind, _flatten, _unflatten)


def _flatten(graph: Any) -> tuple[list[Any], Any]:
    keys = [list(store.keys()) for store in graph.stores]
    values = [store[key] for store, own in zip(graph.stores, keys, strict=True) for key in own]
    return values, (graph, keys)


def _unflatten(values: Any, context: Any) -> Any:
    graph, keys = context
    again, rest = copy.copy(graph), iter(values)
    for store, own in zip(again.stores, keys, strict=True):
        for key in own:
            store[key] = next(rest)
    return again
