"""A thinned network is the model under one mask: against masks put in by hand, and against predict's own samples."""

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import allmasks as am
from allmasks.methods import MonteCarlo


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Dropout(0.2), nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Dropout(0.5),
        nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Dropout(0.3)), nn.Linear(8, 3),
    ).double()  # fmt: skip


X = torch.randn(5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def by_hand(net, kept):
    h = X * kept["0"] / 0.8
    h = torch.relu(net[2](net[1](h))) * kept["4"] / 0.5
    h = torch.tanh(net[5][0](h)) * kept["5.2"] / 0.7
    return net[6](h)


def test_it_is_the_model_under_that_mask_in_either_mode():
    net = chain().eval()
    one = am.thinned(net, X, seed=3, mask=7)
    expected = by_hand(net, one.kept)
    torch.testing.assert_close(one(X), expected, rtol=1e-12, atol=1e-12)
    one.model[0].train()
    torch.testing.assert_close(one(X), expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(one(X), am.thinned(net, X, seed=3, mask=8)(X))
    assert all(not m.training for m in net.modules())


def test_it_replays_the_samples_of_predict():
    net = chain()
    result = am.predict(
        net,
        X,
        task="regression",
        keep_samples=True,
        method=MonteCarlo(n_masks=256),
        seed=11,
        example_index=[4, 9, 2, 0, 7],
    )
    for row, key in ((0, 4), (3, 0)):
        one = am.thinned(net, X, seed=11, mask=37, example_index=key)
        torch.testing.assert_close(result.samples[37, row], one(X)[row], rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=20)
@given(mask=st.integers(0, 1000), seed=st.integers(0, 2**64 - 1))
def test_the_smaller_network_is_the_same_function(mask, seed):
    one = am.thinned(chain(), X, seed=seed, mask=mask)
    small = one.smaller()
    torch.testing.assert_close(small(X), one(X), rtol=1e-10, atol=1e-10)
    widths = [layer.out_features for layer in small if isinstance(layer, nn.Linear)]
    assert widths == [int(one.kept["4"].sum()), int(one.kept["5.2"].sum()), 3]
    assert small[1].in_features == int(one.kept["0"].sum())


def test_gradients_state_dict_and_pickle():
    one = am.thinned(chain(), X, mask=1)
    one(X).sum().backward()
    assert all(p.grad is not None for p in one.parameters())
    again = pickle.loads(pickle.dumps(one))
    assert torch.equal(again(X), one(X))
    other = am.thinned(chain(), X, mask=2)
    other.load_state_dict(one.state_dict())
    assert torch.equal(other(X), one(X))


def test_an_ensemble_is_the_mean_of_its_members():
    net = chain()
    ensemble = am.thinned(net, X, mask=range(4))
    assert len(ensemble) == 4
    members = torch.stack([am.thinned(net, X, mask=k)(X) for k in range(4)])
    torch.testing.assert_close(ensemble(X), members.mean(dim=0))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Dropout(0.5), nn.Linear(4, 1)), "LayerNorm.*may mix units"),
        (nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5)), "only masks of whole features between Linear"),
        (nn.Sequential(nn.Linear(6, 4), nn.AlphaDropout(0.5), nn.Linear(4, 1)), "cannot be removed: only masks"),
        (nn.Dropout(0.5), "a chain, nn.Sequential"),
    ],
)
def test_units_that_cannot_be_removed_are_named(model, message):
    with pytest.raises(ValueError, match=message):
        am.thinned(model, X.float()).smaller()


@pytest.mark.parametrize("mask", [-1, 1.5, True])
def test_bad_mask_numbers(mask):
    with pytest.raises((ValueError, TypeError), match=r"mask must be a whole number|not iterable"):
        am.thinned(chain(), X, mask=mask)
