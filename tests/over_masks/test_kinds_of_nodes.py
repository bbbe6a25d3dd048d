"""Graphs of several kinds of nodes, and between two sets, against every outcome of training mode."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import allmasks as am
from graph_nets import every_outcome, x

pytest.importorskip("torch_geometric", reason="pip install 'allmasks[test]'")


def truth_of(model, args, y):
    model.train()
    weight, outputs = every_outcome(lambda: model(*args))
    model.eval()
    return weight @ F.cross_entropy(outputs.transpose(1, 2), y.expand(len(outputs), -1), reduction="none")


def test_graphs_of_several_kinds_of_nodes_and_between_two_sets():
    from torch_geometric.data import HeteroData
    from torch_geometric.nn import HeteroConv, SAGEConv

    data = HeteroData()
    data["a"].x, data["b"].x = x(2, 2), x(3, 2)
    data["a", "to", "b"].edge_index = torch.tensor([[0, 1], [0, 1]])
    data["b", "back", "a"].edge_index = torch.tensor([[0, 1, 2], [0, 1, 1]])

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            convs = {edge: SAGEConv((2, 2), 1) for edge in data.edge_types}
            self.conv, self.out = HeteroConv(convs), nn.Linear(1, 2)

        def forward(self, x_dict, edge_index_dict):
            hidden = self.conv(x_dict, edge_index_dict)
            return self.out(F.dropout(hidden["a"].tanh() + 1, 0.4, self.training))

    torch.manual_seed(0)
    model, y = Net().double(), torch.tensor([0, 1])
    truth = truth_of(model, (data.x_dict, data.edge_index_dict), y)
    result = am.expected_loss(model, data, y, "cross_entropy")
    assert abs(result.value - truth.mean()) <= result.error
    sides = (x(3, 2), x(2, 2), torch.tensor([[0, 1, 2], [0, 1, 1]]))

    class Between(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = SAGEConv((2, 2), 2)

        def forward(self, source, target, edges):
            return self.conv((F.dropout(source, 0.4, self.training), target), edges)

    model = Between().double()
    truth = truth_of(model, sides, y)
    result = am.expected_loss(model, sides, y, "cross_entropy", batch_dim="whole")
    assert abs(result.value - truth.mean()) <= result.error
