"""Graph nets whose masks are few enough to be listed: (model, inputs), random weights, a graph of 4 nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

EDGES = torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]])
PAIRS = torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]])


class Chosen(TorchFunctionMode):
    """Dropout calls and uniform draws answered by bits that are chosen, one after the other, whoever calls."""

    def __init__(self, bits: list[int]) -> None:
        super().__init__()
        self.bits, self.used, self.weight = bits, 0, 1.0

    def _bits(self, shape: Any, p: float) -> Tensor:
        out = torch.empty(shape, dtype=torch.float64)
        flat = out.reshape(-1)
        for i in range(flat.numel()):
            if self.used == len(self.bits):
                self.bits.append(0)
            flat[i] = self.bits[self.used]
            self.weight *= p if not self.bits[self.used] else 1 - p
            self.used += 1
        return out

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.dropout:
            names = dict(zip(("input", "p", "training", "inplace"), args, strict=False)) | kwargs
            x, p = names["input"], names.get("p", 0.5)
            if not names.get("training", True) or p == 0:
                return x
            with torch._C.DisableTorchFunction():
                return x * self._bits(x.shape, p) / (1 - p)
        if func is torch.rand:
            with torch._C.DisableTorchFunction():
                # Only whether a number lies below the rate matters: all rates of uniform draws here are RATE.
                return self._bits(args, RATE)
        return func(*args, **kwargs)


RATE = 0.3
"""Of every uniform draw."""


def every_outcome(run: Callable[[], Any]) -> tuple[Tensor, Tensor]:
    """(probabilities, outputs) of all that chance can do in training mode, whatever the number of draws each time."""
    bits: list[int] = []
    weights, outputs = [], []
    while True:
        with torch.no_grad(), Chosen(bits) as chosen:
            outputs.append(run())
        weights.append(chosen.weight)
        del bits[chosen.used :]
        while bits and bits[-1]:
            bits.pop()
        if not bits:
            return torch.tensor(weights, dtype=torch.float64), torch.stack(outputs)
        bits[-1] = 1


@dataclass(frozen=True)
class GraphNet:
    """`build()` gives the model and what it is called with; `sites` is how many it has; `listed`: all masks can be."""

    name: str
    build: Callable[[], tuple[nn.Module, tuple[Any, ...]]]
    sites: int
    listed: bool = True

    def __call__(self) -> tuple[nn.Module, tuple[Any, ...]]:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            model, args = self.build()
            return model.double().eval(), args


def x(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).double()


class Net(nn.Module):
    """Parts by name, and a forward that is given them."""

    def __init__(self, forward: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args: Any) -> Any:
        return self.run(self, *args)


def _nets() -> list[GraphNet]:
    import torch_geometric.nn as g
    from torch_geometric.utils import dropout_edge, dropout_node, mask_feature

    def two_layers(**how: Any) -> nn.Module:
        def forward(self, h, edges):
            h = F.dropout(self.a(h, edges).tanh(), 0.5, training=self.training)
            return self.b(h, edges)

        return Net(forward, **how)

    def drop_edges(self, h, edges):
        edges, _ = dropout_edge(edges, RATE, training=self.training)
        return self.b(self.a(h, edges).tanh(), edges)

    def drop_pairs(self, h, edges):
        edges, _ = dropout_edge(edges, RATE, force_undirected=True, training=self.training)
        return self.b(self.a(h, edges).tanh(), edges)

    def drop_nodes(self, h, edges):
        edges, _, _ = dropout_node(edges, RATE, num_nodes=4, training=self.training)
        return self.b(self.a(h, edges).tanh(), edges)

    def drop_twice(self, h, edges):
        edges, _ = dropout_edge(edges, RATE, training=self.training)
        return self.b(F.dropout(self.a(h, edges).tanh(), 0.4, training=self.training), edges)

    def drop_features(self, h, edges):
        h, _ = mask_feature(h, RATE, mode="col", training=self.training)
        return self.a(h, edges)

    def pooled(self, h, edges, batch):
        h = F.dropout(self.a(h, edges).tanh(), 0.5, training=self.training)
        return self.out(g.global_mean_pool(h, batch))

    two_graphs = (x(4, 2), PAIRS, torch.tensor([0, 0, 1, 1]))
    return [
        GraphNet("gcn", lambda: (two_layers(a=g.GCNConv(2, 2), b=g.GCNConv(2, 2)), (x(4, 2), EDGES)), 1),
        GraphNet("sage", lambda: (g.GraphSAGE(2, 2, 2, 2, dropout=0.5), (x(4, 2), EDGES)), 1),
        GraphNet("gin", lambda: (g.GIN(2, 2, 2, 2, dropout=0.5), (x(4, 2), EDGES)), 1),
        GraphNet("jumping", lambda: (g.GCN(2, 3, 2, 2, dropout=0.5, jk="cat"), (x(4, 2), EDGES)), 2, False),
        GraphNet("jumping lstm", lambda: (g.GCN(2, 1, 2, 2, dropout=0.5, jk="lstm"), (x(4, 2), EDGES)), 2),
        GraphNet("gat attention", lambda: (g.GATConv(2, 2, dropout=0.4), (x(4, 2), EDGES)), 1),
        GraphNet("gat heads", lambda: (g.GAT(2, 4, 2, 2, dropout=0.4, heads=2), (x(4, 2), EDGES)), 3, False),
        GraphNet("gatv2", lambda: (g.GATv2Conv(2, 2, dropout=0.4, add_self_loops=False), (x(4, 2), EDGES)), 1),
        GraphNet("transformer", lambda: (g.TransformerConv(2, 2, dropout=0.4), (x(4, 2), EDGES)), 1),
        GraphNet("appnp", lambda: (g.APPNP(1, 0.1, dropout=0.5), (x(4, 2), EDGES)), 1),
        GraphNet("dropout_edge", lambda: (Net(drop_edges, a=g.GCNConv(2, 2), b=g.GCNConv(2, 2)), (x(4, 2), EDGES)), 1),
        GraphNet("undirected", lambda: (Net(drop_pairs, a=g.GCNConv(2, 2), b=g.GCNConv(2, 2)), (x(4, 2), EDGES)), 1),
        GraphNet("dropout_node", lambda: (Net(drop_nodes, a=g.GCNConv(2, 2), b=g.GCNConv(2, 2)), (x(4, 2), EDGES)), 1),
        GraphNet(
            "edges, features", lambda: (Net(drop_twice, a=g.GCNConv(2, 1), b=g.GCNConv(1, 2)), (x(4, 2), EDGES)), 2
        ),
        GraphNet(
            "edges, attention",
            lambda: (
                Net(drop_edges, a=g.GCNConv(2, 2), b=g.GATConv(2, 2, dropout=0.4, add_self_loops=False)),
                (x(3, 2), EDGES[:, :4]),
            ),
            2,
        ),
        GraphNet("mask_feature", lambda: (Net(drop_features, a=g.GCNConv(2, 2)), (x(4, 2), EDGES)), 1),
        GraphNet("pooled", lambda: (Net(pooled, a=g.GCNConv(2, 2), out=nn.Linear(2, 2)), two_graphs), 1),
        GraphNet("last layer", lambda: (Net(pooled_last, a=g.GCNConv(2, 2), out=nn.Linear(2, 2)), (x(4, 2), EDGES)), 1),
        GraphNet("gps", lambda: (g.GPSConv(2, g.GCNConv(2, 2), heads=1, dropout=0.4), (x(4, 2), EDGES)), 4, False),
        GraphNet("deep", lambda: (g.DeepGCNLayer(g.GCNConv(2, 2), None, nn.ReLU(), dropout=0.4), (x(4, 2), EDGES)), 1),
        GraphNet("mlp", lambda: (g.MLP([2, 2, 2], dropout=0.4, norm=None), (x(4, 2),)), 1),
    ]


def pooled_last(self: Any, h: Tensor, edges: Tensor) -> Tensor:
    return self.out(F.dropout(self.a(h, edges).tanh(), 0.5, training=self.training))


def graph_nets() -> list[GraphNet]:
    """The table; empty without PyTorch Geometric."""
    try:
        return _nets()
    except ModuleNotFoundError:
        return []
