"""Inputs that are one joint draw: graphs against every outcome of training mode, and what is said where rows depend."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import allmasks as am
from graph_nets import EDGES, PAIRS, every_outcome, graph_nets, x
from truth import Biased

pytest.importorskip("torch_geometric", reason="pip install 'allmasks[test]'")
NETS = {net.name: net for net in graph_nets()}
SLOW = {"edges, features", "jumping lstm"}
each = pytest.mark.parametrize(
    "net",
    [pytest.param(net, marks=pytest.mark.slow if name in SLOW else ()) for name, net in NETS.items() if net.listed],
    ids=lambda net: net.name,
)


def truths(model, args, y):
    """(outcomes,) probabilities, (outcomes, n) losses and (outcomes, n, K) outputs of training mode."""
    model.train()
    weight, outputs = every_outcome(lambda: model(*args))
    model.eval()
    losses = F.cross_entropy(outputs.transpose(1, 2), y.expand(len(outputs), -1), reduction="none")
    return weight, losses, outputs


def test_the_table_has_the_kinds_of_the_field():
    assert len(NETS) >= 20
    kinds = {"gcn", "gat attention", "dropout_edge", "dropout_node", "jumping", "pooled", "edges, attention"}
    assert kinds <= set(NETS)


@pytest.mark.parametrize("net", NETS.values(), ids=lambda net: net.name)
def test_every_site_of_a_graph_net_is_found_in_either_mode(net):
    model, args = net()
    for train in (True, False):
        model.train(train)
        sites = [site for site in am.find_dropout(model, *args, batch_dim="whole") if site.p > 0]
        assert len(sites) == net.sites
        assert all(site.controllable and site.joint and site.batch_dim is None for site in sites), sites
        assert {site.p for site in sites} <= {0.3, 0.4, 0.5}


@each
def test_listed_masks_are_every_outcome_of_training_mode(net):
    model, args = net()
    y = torch.arange(len(model(*args))) % 2
    weight, losses, outputs = truths(model, args, y)
    result = am.expected_loss(model, args, y, "cross_entropy", batch_dim="whole")
    assert result.guarantee == "exact"
    assert (result.per_example - weight @ losses).abs().max() < 1e-9
    assert abs(result.value - (weight @ losses).mean()) <= result.error + 1e-13
    prediction = am.predict(model, args, task="regression", batch_dim="whole")
    mean = torch.tensordot(weight, outputs, 1)
    assert torch.allclose(prediction.mean, mean, atol=1e-9)
    spread = torch.tensordot(weight, (outputs - mean) ** 2, 1).sqrt()
    assert torch.allclose(prediction.std, spread, atol=1e-7)


@pytest.mark.parametrize("name", ["gat attention", "dropout_edge", "edges, attention", "pooled", "appnp"])
def test_sampled_masks_have_the_error_of_the_joint_draw(name):
    model, args = NETS[name]()
    y = torch.arange(len(model(*args))) % 2
    weight, losses, _ = truths(model, args, y)
    truth = (weight @ losses).mean()
    how = {"batch_dim": "whole", "seed": 1}
    method = am.methods.MonteCarlo(n_masks=512, sampler=am.samplers.Independent())
    result = am.expected_loss(model, args, y, "cross_entropy", method=method, **how)
    assert abs(result.value - truth) < 4.5 * result.error
    rows = (result.per_example - weight @ losses).abs() / result.per_example_error
    assert rows.max() < 4.5
    biased = am.methods.MonteCarlo(n_masks=512, sampler=Biased(by=0.25))
    wrong = am.expected_loss(model, args, y, "cross_entropy", method=biased, **how)
    assert abs(wrong.value - truth) > 4.5 * wrong.error


def test_rows_are_not_taken_for_independent():
    # One bit decides on all rows: the error of the mean is that of a row, not a 30th of it.
    class Same(nn.Module):
        def forward(self, h):
            return h * F.dropout(torch.ones(1, 1).double(), 0.5, self.training)

    h = torch.ones(900, 1).double()
    method = am.methods.MonteCarlo(n_masks=400, sampler=am.samplers.Independent())
    result = am.expected_loss(
        Same(), h, torch.zeros(900, 1).double(), "squared_error", batch_dim="whole", method=method
    )
    assert result.error == pytest.approx(2 / math.sqrt(400), rel=0.2)
    assert result.per_example_error[0] == pytest.approx(float(result.error), rel=1e-9)


def test_a_last_layer_is_integrated_row_by_row():
    model, args = NETS["last layer"]()
    y = torch.tensor([0, 1, 0, 1])
    weight, losses, _ = truths(model, args, y)
    plan = am.plan_expected_loss(model, args, y, "cross_entropy", batch_dim="whole", method=am.methods.Fourier())
    assert plan.guarantee == "exact"
    for method in (am.methods.Fourier(), am.methods.Enumeration()):
        result = am.expected_loss(model, args, y, "cross_entropy", batch_dim="whole", method=method)
        assert abs(result.value - (weight @ losses).mean()) <= result.error
    squared = am.expected_loss(model, args, x(4, 2), "squared_error", batch_dim="whole")
    assert squared.method == am.methods.ClosedForm()
    listed = am.expected_loss(model, args, x(4, 2), "squared_error", batch_dim="whole", method=am.methods.Enumeration())
    assert abs(squared.value - listed.value) <= squared.error + listed.error
    method = am.methods.MonteCarlo(n_masks=512, sampler=am.samplers.Independent())
    drawn = am.predict(model, args, task="multiclass", batch_dim="whole", method=method)
    exact = am.predict(model, args, task="multiclass", batch_dim="whole")
    assert ((drawn.mean - exact.mean).abs() < 4.5 * drawn.mean_error).all()


def test_gradients_are_those_of_every_outcome():
    model, args = NETS["dropout_edge"]()
    y = torch.tensor([0, 1, 0, 1])
    result = am.expected_loss(model, args, y, "cross_entropy", batch_dim="whole", method=am.methods.Enumeration())
    found = torch.autograd.grad(result.value, list(model.parameters()))
    eps = 1e-6
    for parameter, gradient in list(zip(model.parameters(), found, strict=True))[:2]:
        with torch.no_grad():
            ends = []
            for sign in (1, -1):
                parameter.view(-1)[0] += sign * eps
                weight, losses, _ = truths(model, args, y)
                ends.append((weight @ losses).mean())
                parameter.view(-1)[0] -= sign * eps
        assert float(gradient.view(-1)[0]) == pytest.approx(float(ends[0] - ends[1]) / 2 / eps, abs=1e-7)


def graph(h=None, edges=EDGES, **more):
    from torch_geometric.data import Data

    h = x(4, 2) if h is None else h
    return Data(x=h, edge_index=edges, y=torch.arange(len(h)) % 2, **more)


class TakesGraph(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, data):
        data.x = data.x * 1.0  # writes in what it is given, as many do
        return self.inner(data.x, data.edge_index)


def test_graphs_are_taken_as_attributes_as_themselves_and_with_their_labels():
    from torch_geometric.nn import Sequential

    model, (h, edges) = NETS["gcn"]()
    plain = am.expected_loss(model, (h, edges), torch.arange(4) % 2, "cross_entropy", batch_dim="whole").value

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x, edge_index, edge_weight=None):
            assert edge_weight is None
            return self.inner(x, edge_index)

    data = graph()
    before = data.x
    chained = Sequential("x, edge_index", [(model, "x, edge_index -> x")]).double()
    for taker in (Named(), TakesGraph(model), chained, nn.DataParallel(Named())):
        for given in (data, [data]):
            assert am.expected_loss(taker, given, loss="cross_entropy").value == plain
        assert am.expected_loss(taker, data, data.y, "cross_entropy").value == plain
        assert len(am.find_dropout(taker, data)) == 1
        assert am.predict(taker, data, task="multiclass").mean.shape == (4, 2)
    assert data.x is before
    assert am.audit(Named(), data, loss="cross_entropy", progress=False).expected.value == plain


def test_a_graph_without_what_forward_needs_is_refused_by_name():
    class Needs(nn.Module):
        def forward(self, x, edge_attr):
            return x

    with pytest.raises(ValueError, match=r"takes x, edge_attr, and the graph has no edge_attr; it has edge_index"):
        am.find_dropout(Needs(), graph())
    with pytest.raises(ValueError, match=r'a graph has no axis of examples, got batch_dim=0.*"whole"'):
        am.expected_loss(TakesGraph(NETS["gcn"]()[0]), graph(), loss="cross_entropy", batch_dim=0)


class Pools(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, edge_index, batch):
        return self.inner(x, edge_index, batch)


def test_batches_of_graphs_have_a_row_a_graph_and_a_draw_a_batch():
    from torch_geometric.data import Batch
    from torch_geometric.loader import DataLoader

    model, _ = NETS["pooled"]()
    one, other = graph(x(2, 2), PAIRS[:, :2]), graph(2 * x(3, 2), EDGES[:, :4])
    one.y, other.y = torch.tensor([0]), torch.tensor([1])
    batch = Batch.from_data_list([one, other])
    exact = am.expected_loss(Pools(model), batch, loss="cross_entropy")
    assert exact.guarantee == "exact"
    assert exact.per_example.shape == (2,)
    alone = [
        am.expected_loss(Pools(model), Batch.from_data_list([g]), loss="cross_entropy").value for g in (one, other)
    ]
    # A graph does not see its neighbors in the batch, so its mean loss is its own.
    assert torch.allclose(exact.per_example, torch.stack(alone), atol=1e-12)
    listed = am.expected_loss(Pools(model), [one, other], loss="cross_entropy")
    assert torch.equal(listed.per_example, exact.per_example)
    for loader in (DataLoader([one, other], batch_size=1), DataLoader([one, other], batch_size=2, shuffle=True)):
        drawn = am.expected_loss(Pools(model), loader, loss="cross_entropy", method=am.methods.MonteCarlo(n_masks=512))
        assert abs(drawn.value - exact.value) < 4.5 * drawn.error
        assert drawn.per_example.shape == (2,)
        predicted = am.predict(Pools(model), loader, task="multiclass")
        assert predicted.mean.shape == (2, 2)
    with pytest.raises(am.MethodNotApplicable, match="batches are of several shapes"):
        am.expected_loss(Pools(model), DataLoader([one, other]), loss="cross_entropy", method=am.methods.Enumeration())


def test_a_loader_of_graphs_that_does_not_look_like_one_is_told_the_word():
    class Stream:
        def __iter__(self):
            return iter([graph()])

    model = TakesGraph(NETS["gcn"]()[0])
    with pytest.raises(ValueError, match=r'got graphs: pass batch_dim="whole"'):
        am.expected_loss(model, Stream(), loss="cross_entropy")
    drawn = am.expected_loss(model, Stream(), loss="cross_entropy", batch_dim="whole")
    assert torch.equal(drawn.value, am.expected_loss(model, graph(), loss="cross_entropy").value)


def test_inputs_of_a_loader_have_masks_of_their_own_by_their_number():
    model, (h, edges) = NETS["gcn"]()
    pair = [((h, edges), torch.arange(4) % 2)] * 2
    method = am.methods.MonteCarlo(n_masks=64)
    both = am.expected_loss(model, iter_again(pair), loss="cross_entropy", batch_dim="whole", method=method)
    once = am.expected_loss(model, *pair[0], "cross_entropy", batch_dim="whole", method=method)
    assert torch.equal(both.per_example[:4], once.per_example)
    assert not torch.equal(both.per_example[4:], once.per_example)


class iter_again(list):
    """An iterable of batches that is no sequence of inputs."""

    def __new__(cls, items):
        from torch.utils.data import DataLoader

        return DataLoader(items, batch_size=None)


def test_a_train_mask_weighs_the_nodes():
    model, args = NETS["gat attention"]()
    y, mask = torch.tensor([0, 1, 1, 0]), torch.tensor([True, False, True, False])
    plain = am.expected_loss(model, args, y, "cross_entropy", batch_dim="whole")
    masked = am.expected_loss(model, args, y, "cross_entropy", batch_dim="whole", sample_weight=mask)
    assert torch.allclose(masked.value, plain.per_example[mask].mean(), atol=1e-14)
    hidden = torch.where(mask, y, -100)
    ignored = am.expected_loss(model, args, hidden, nn.CrossEntropyLoss(), batch_dim="whole")
    assert torch.allclose(ignored.value, masked.value, atol=1e-14)


def test_a_loss_of_the_whole_input_may_be_one_number():
    torch.manual_seed(0)

    class Towers(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, a, b):
            a, b = F.dropout(self.one(a), 0.5, self.training), self.other(b)
            return F.normalize(a + 1e-3, dim=1) @ F.normalize(b, dim=1).T

    def contrastive(logits, _):
        own = torch.arange(len(logits))
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2

    def by_pair(logits, _):
        own = torch.arange(len(logits))
        rows = F.cross_entropy(logits, own, reduction="none"), F.cross_entropy(logits.T, own, reduction="none")
        return sum(rows) / 2

    model, inputs = Towers().double(), (x(3, 2), x(3, 2) + 1)
    model.train()
    weight, logits = every_outcome(lambda: model(*inputs))
    truth = weight @ torch.stack([contrastive(each, None) for each in logits])
    for loss, rows in ((contrastive, 1), (by_pair, 3)):
        result = am.expected_loss(model, inputs, None, loss, batch_dim="whole")
        assert result.guarantee == "exact"
        assert abs(result.value - truth) <= result.error
        assert result.per_example.shape == (rows,)
    with pytest.raises(ValueError, match="one loss per example"):
        am.expected_loss(nn.Dropout(0.5), x(3, 2), None, lambda output, _: output.sum())


def test_statistics_of_the_batch_are_those_of_the_whole_input():
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.BatchNorm1d(2, track_running_stats=False)).double()
    h, y = x(4, 2), torch.tensor([0, 1, 0, 1])
    with pytest.raises(ValueError, match=r'batch_dim="whole"') as refused:
        am.expected_loss(net, h, y, "cross_entropy")
    assert "my-model-was-refused" in str(refused.value)
    weight, losses, _ = truths(net, (h,), y)
    result = am.expected_loss(net, h, y, "cross_entropy", batch_dim="whole")
    assert abs(result.value - (weight @ losses).mean()) <= result.error


def test_what_cannot_be_is_refused_in_words():
    model, args = NETS["gcn"]()
    y = torch.arange(4) % 2
    how = {"batch_dim": "whole"}
    for call in (am.expected_loss, lambda m, i, y, loss, **k: am.predict(m, i, task="regression", **k)):
        with pytest.raises(ValueError, match="example_index keys the masks that each example has of its own"):
            call(model, args, y, "cross_entropy", example_index=np.arange(4), **how)
        with pytest.raises(ValueError, match="batch_size would cut an input"):
            call(model, args, y, "cross_entropy", batch_size=2, **how)
        with pytest.raises(ValueError, match="batch_dim must be an axis or \"whole\", got 'rows'"):
            call(model, args, y, "cross_entropy", batch_dim="rows")
    with pytest.raises(ValueError, match=r'nodes and edges of a graph, pass batch_dim="whole"'):
        am.expected_loss(model, args, y, "cross_entropy")
    with pytest.raises(ValueError, match="returns a single number"):
        am.predict(nn.Sequential(nn.Dropout(0.5), Total()), x(3, 2), task="regression", **how)
    with pytest.raises(ValueError, match="NaN"):
        am.expected_loss(model, (args[0] * torch.nan, EDGES), y, "cross_entropy", **how)
    with pytest.raises(ValueError, match="do not fit"):
        am.expected_loss(model, args, y[:3], "cross_entropy", **how)


class Total(nn.Module):
    def forward(self, h):
        return h.sum()


def test_odd_graphs():
    from torch_geometric.nn import GATConv, GCNConv

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = GCNConv(2, 2, cached=False), GATConv(2, 1, dropout=0.5)

        def forward(self, x, edge_index):
            return self.b(F.dropout(self.a(x, edge_index), 0.25, self.training), edge_index)

    torch.manual_seed(0)
    model = Net()
    none = torch.zeros(2, 0, dtype=torch.long)
    looped = torch.tensor([[0, 0, 1], [0, 1, 1]])
    for edges in (none, looped, torch.tensor([[0], [1]])):
        for h in (x(3, 2).float(), x(1, 2).float().expand(3, 2), x(2, 3).float().T):
            result = am.expected_loss(
                model, (h, edges), x(3, 1).float(), "squared_error", batch_dim="whole", n_masks=16
            )
            assert result.value.isfinite()
    one = am.predict(model, (x(1, 2).float(), none), task="regression", batch_dim="whole")
    assert one.mean.shape == (1, 1)


def test_thinned_replays_a_mask_of_the_whole_input():
    model, args = NETS["edges, attention"]()
    kept = am.predict(
        model, args, task="regression", batch_dim="whole", keep_samples=True, method=am.methods.MonteCarlo(n_masks=64)
    )
    for mask in (0, 7, 63):
        one = am.thinned(model, args, mask=mask, n_masks=64, batch_dim="whole")
        assert torch.allclose(one(*args), kept.samples[mask], atol=1e-12)


def test_the_model_and_the_graph_come_back_as_they_were():
    from torch_geometric.nn import GCNConv

    conv = GCNConv(2, 2, cached=True).double()

    class Cached(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv

        def forward(self, h, edges):
            return self.conv(F.dropout(h, 0.5, self.training), edges)

    model = TakesGraph(Cached())
    data = graph()
    before = {key: value.clone() for key, value in data}
    state = torch.get_rng_state()
    am.expected_loss(model, data, loss="cross_entropy")
    assert conv._cached_edge_index is None
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in data)
