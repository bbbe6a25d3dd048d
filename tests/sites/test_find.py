"""Sites as `find_dropout` lists them: names, rates, one example's mask, and what cannot be controlled."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import allmasks as am
from architectures import Reused, x

KINDS = {
    "dropout": (nn.Dropout(0.3), (4, 6), (6,), True),
    "dropout1d": (nn.Dropout1d(0.3), (4, 3, 5), (3, 1), True),
    "dropout2d": (nn.Dropout2d(0.3), (4, 3, 2, 5), (3, 1, 1), True),
    "dropout3d": (nn.Dropout3d(0.3), (4, 3, 2, 5, 2), (3, 1, 1, 1), True),
    "alpha_dropout": (nn.AlphaDropout(0.3), (4, 6), (6,), False),
    "feature_alpha_dropout": (nn.FeatureAlphaDropout(0.3), (4, 3, 5), (3, 1), False),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("train", [True, False])
def test_every_module_in_either_mode(kind, train):
    layer, shape, mask, preserving = KINDS[kind]
    net = nn.Sequential(nn.Identity(), layer).train(train)
    (site,) = am.find_dropout(net, x(*shape))
    assert (site.name, site.kind, site.p, site.shape) == ("1", kind, 0.3, mask)
    assert site.units == torch.Size(mask).numel()
    assert (site.mean_preserving, site.controllable, site.batch_dim) == (preserving, True, 0)
    assert net.training is train
    assert layer.training is train


def test_names_are_paths_and_numbers():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.linear = nn.Dropout(0.1), nn.Linear(6, 6)

        def forward(self, h):
            h = F.dropout(self.drop(self.linear(h)), 0.2, self.training)
            return F.dropout(h, 0.3, self.training)

    net = nn.ModuleDict({"blocks": nn.Sequential(Block(), Block())})["blocks"]
    names = [(site.name, site.p) for site in am.find_dropout(net, x(4, 6))]
    block = [(".drop", 0.1), (":dropout", 0.2), (":dropout#2", 0.3)]
    assert names == [(f"{i}{name}", p) for i in (0, 1) for name, p in block]
    assert [site.name for site in am.find_dropout(Block(), x(4, 6))] == ["drop", "(root):dropout", "(root):dropout#2"]
    # Masks are keyed by the name: it may not depend on how often or in which order one looks.
    assert [(site.name, site.p) for site in am.find_dropout(net, x(2, 6))] == names


def test_a_module_used_thrice_has_three_sites():
    sites = am.find_dropout(Reused(), x(4, 6))
    assert [site.name for site in sites] == ["drop", "drop#2", "drop#3"]
    assert len({site.id for site in sites}) == 3


class Folded(nn.Module):
    """Dropout on an axis that counts examples and tokens together, in either order."""

    def __init__(self, tokens_first: bool) -> None:
        super().__init__()
        self.drop, self.tokens_first = nn.Dropout(0.5), tokens_first

    def forward(self, h):  # (B, T, d)
        n, t, d = h.shape
        flat = (h.transpose(0, 1) if self.tokens_first else h).reshape(n * t, d)
        out = self.drop(flat)
        return out.reshape(t, n, d).transpose(0, 1) if self.tokens_first else out.reshape(n, t, d)


@pytest.mark.parametrize("tokens_first", [False, True])
def test_the_example_is_found_within_a_merged_axis(tokens_first):
    net = Folded(tokens_first)
    (site,) = am.find_dropout(net, x(4, 3, 5))
    assert (site.shape, site.units) == ((3, 5), 15)
    assert (site.outer, site.inner) == ((3, 1) if tokens_first else (1, 3))
    # And used: each example has a mask of its own, whoever stands beside it.
    y = torch.zeros(4, 3, 5)
    whole = am.expected_loss(net, x(4, 3, 5), y, "squared_error", n_masks=256)
    part = am.expected_loss(net, x(4, 3, 5)[2:], y[2:], "squared_error", n_masks=256, example_index=[2, 3])
    torch.testing.assert_close(part.per_example, whole.per_example[2:], rtol=1e-6, atol=0)


def test_sequence_first_inputs():
    net = nn.Sequential(nn.Linear(5, 6), nn.Dropout(0.5))
    (site,) = am.find_dropout(net, x(7, 4, 5), batch_dim=1)
    assert (site.batch_dim, site.shape) == (1, (7, 6))


def test_attention_masks_are_one_a_head_query_and_key():
    net = nn.MultiheadAttention(8, 2, dropout=0.25, batch_first=True)

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mha = net

        def forward(self, h):
            return self.mha(h, h, h, need_weights=False)[0]

    (site,) = am.find_dropout(Own(), x(3, 5, 8))
    assert (site.name, site.p, site.units) == ("mha", 0.25, 2 * 5 * 5)


def test_what_the_user_draws_by_hand_is_refused_by_name():
    class Noise(nn.Module):
        def forward(self, h):
            return h + 0.1 * torch.randn_like(h)

    net = nn.Sequential(nn.Linear(4, 4), Noise(), nn.Dropout(0.5), nn.Linear(4, 1))
    with pytest.raises(am.UncontrolledRandomness, match=r"random beyond its dropout.*1 calls .*randn"):
        am.expected_loss(net, x(3, 4), torch.zeros(3, 1), "squared_error")


def test_numpy_and_python_generators_are_watched_and_put_back():
    import random

    import numpy as np

    class Sly(nn.Module):
        def forward(self, h):
            return h * (1 + random.random() + np.random.rand())  # noqa: NPY002

    net = nn.Sequential(nn.Dropout(0.5), Sly())
    before = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    with pytest.raises(am.UncontrolledRandomness, match="draws from"):
        am.expected_loss(net, x(3, 4), torch.zeros(3, 4), "squared_error")
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


def test_rates_of_zero_are_listed_and_cost_nothing():
    net = nn.Sequential(nn.Dropout(0.0), nn.Linear(4, 2), nn.Dropout(0.5))
    assert [(site.name, site.p) for site in am.find_dropout(net, x(3, 4))] == [("0", 0.0), ("2", 0.5)]


def test_a_model_without_dropout_has_no_site():
    assert am.find_dropout(nn.Linear(4, 2), x(3, 4)) == []


@pytest.mark.parametrize("call", [lambda: am.find_dropout(lambda h: h, x(3, 4))])
def test_what_is_no_module_is_refused(call):
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got function"):
        call()


def test_looking_leaves_everything_as_it_was():
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2))
    net[2].eval()  # a flag set by the user alone
    state = {k: v.clone() for k, v in net.state_dict().items()}
    versions = {k: v._version for k, v in net.state_dict().items()}
    generator = torch.get_rng_state()
    am.find_dropout(net, x(5, 4))
    assert [m.training for m in net] == [True, True, False, True]
    assert torch.equal(torch.get_rng_state(), generator)
    for k, v in net.state_dict().items():
        assert torch.equal(v, state[k])
        assert v._version == versions[k] or "running" in k or "batches" in k
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


class OfOnes(nn.Module):
    """Masks drawn on a tensor that hangs on no example, in the shape of the batch, of one example, or of one row."""

    def __init__(self, lead: str) -> None:
        super().__init__()
        self.drop, self.lead = nn.Dropout(0.4), lead

    def forward(self, h):
        ones = {"batch": torch.ones_like(h), "row": torch.ones_like(h[:1]), "units": torch.ones(h.shape[1:])}
        return h * self.drop(ones[self.lead])


@pytest.mark.parametrize(("lead", "batch_dim"), [("batch", 0), ("row", None), ("units", None)])
def test_a_mask_drawn_on_ones_is_each_examples_own_where_its_shape_grows(lead, batch_dim):
    net = OfOnes(lead)
    (site,) = am.find_dropout(net, x(4, 6))
    assert (site.batch_dim, site.units, site.controllable) == (batch_dim, 6, True)
    whole = am.predict(net, x(7, 6), task="regression", n_masks=256)
    parts = am.predict(net, x(7, 6), task="regression", n_masks=256, batch_size=3)
    torch.testing.assert_close(parts.mean, whole.mean)
    assert bool((whole.mean[0] == whole.mean[1]).any()) is False


@pytest.mark.parametrize("shapes", [[(2, 6)] * 3, [(3, 6)] * 3, [(8, 6), *[(3, 6)] * 3], [(1, 6), *[(3, 6)] * 3]])
def test_a_look_where_nothing_but_dropout_is_drawn_makes_few_passes_of_few_examples(shapes):
    net = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2)).eval()
    seen = []
    net[0].register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape)))
    sites = am.find_dropout(net, torch.randn(*shapes[0]))
    assert seen == shapes
    assert [(site.shape, site.batch_dim) for site in sites] == [((8,), 0)] * 2


def test_two_examples_tell_axes_apart_as_well_as_three():
    class Turned(nn.Module):
        """Axes of the same length as there are examples, the examples' own in several places, integers looked up."""

        def __init__(self):
            super().__init__()
            self.table, self.drop = nn.Embedding(9, 2), nn.Dropout(0.5)

        def forward(self, ids):
            h = self.drop(self.table(ids))
            h = self.drop(h.permute(1, 0, 2))
            h = self.drop(h.permute(1, 2, 0).reshape(-1, ids.shape[1]))
            return self.drop(h.reshape(len(ids), 2, -1).sum(dim=2))

    ids = torch.tensor([[1, 2], [3, 4], [5, 6]])
    net = Turned()
    found = [[(s.shape, s.batch_dim, s.outer, s.inner) for s in am.find_dropout(net, ids[:n])] for n in (1, 2, 3)]
    assert found[0] == found[1] == found[2]
    assert [batch_dim for _, batch_dim, *_ in found[1]] == [0, 1, 0, 0]
