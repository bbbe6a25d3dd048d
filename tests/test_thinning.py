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


# -- the smaller network: right, or refused by name ------------------------------------------------------------------


def shared(layer, *more):
    return nn.Sequential(nn.Linear(6, 5), layer, nn.Dropout(0.5), nn.Linear(5, 5), layer, *more, nn.Linear(5, 2))


ACTIVATIONS = (
    nn.Identity, nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus,
    nn.Softsign, nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.LogSigmoid, nn.Tanhshrink,
    nn.Softshrink, nn.Hardshrink,
)  # fmt: skip


class Named(nn.Sequential):
    """A subclass that only builds: the forward is Sequential's."""


def tied(*between):
    linear = nn.Linear(6, 6)
    return nn.Sequential(linear, *between, linear, nn.Dropout(0.3), linear)


def parametrized():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(6, 5))
    return nn.Sequential(layer, nn.Dropout(0.5), nn.utils.parametrizations.spectral_norm(nn.Linear(5, 2)))


DROP = nn.Dropout(0.5)
RIGHT = {
    "a shared activation": lambda: shared(nn.ReLU()),
    "a shared activation that is not homogeneous": lambda: shared(nn.GELU()),
    "a shared dropout": lambda: nn.Sequential(nn.Linear(6, 5), DROP, nn.Linear(5, 4), nn.ReLU(), DROP, nn.Linear(4, 2)),
    "a shared block": lambda: (lambda b: nn.Sequential(b, b, nn.Linear(6, 2)))(
        nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Dropout(0.4))
    ),
    "a tied Linear": lambda: tied(nn.Dropout(0.5), nn.Sigmoid()),
    "the same dropout twice in a row": lambda: nn.Sequential(nn.Linear(6, 9), DROP, nn.Tanh(), DROP, nn.Linear(9, 2)),
    "normalisation after dropout": lambda: nn.Sequential(
        nn.Linear(6, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)
    ),
    "dropped inputs and a constant": lambda: nn.Sequential(nn.Dropout(0.5), nn.Sigmoid(), nn.Linear(6, 2, bias=False)),
    "flattened first": lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(6, 2)),
    "dropped, then flattened": lambda: nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(6, 2)),
    "everything dropped": lambda: nn.Sequential(nn.Linear(6, 3), nn.Dropout(0.999), nn.Softplus(), nn.Linear(3, 2)),
    "everything dropped before a normalisation": lambda: nn.Sequential(
        nn.Linear(6, 2), nn.Dropout(0.999), nn.BatchNorm1d(2), nn.ReLU(), nn.Linear(2, 2)
    ),
    "a rate of 0": lambda: nn.Sequential(nn.Linear(6, 3), nn.Dropout(0.0), nn.Tanh(), nn.Linear(3, 2)),
    "a subclass without a forward": lambda: Named(nn.Linear(6, 4), nn.Dropout(0.5), nn.Linear(4, 2)),
    "parametrizations": parametrized,
    "our own dropout": lambda: am.convert(nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), nn.SiLU(), nn.Linear(5, 2))),
    **{
        f"{kind.__name__} after dropout": lambda kind=kind: nn.Sequential(
            nn.Linear(6, 8), nn.Dropout(0.3), kind(), nn.Dropout(0.2), nn.Linear(8, 2, bias=False)
        )
        for kind in ACTIVATIONS
    },
}


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("case", RIGHT)
def test_it_is_right_for(case, double):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = RIGHT[case]()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm1d) and module.running_mean is not None:
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
    net = net.double() if double else net
    x = X if double else X.float()
    tolerance = 1e-12 if double else 2e-6
    for mask in range(4):
        one = am.thinned(net, x, mask=mask)
        small = one.smaller()
        torch.testing.assert_close(small(x), one(x), rtol=tolerance, atol=tolerance)
        other = x.flip(0) * 2 + 1  # not only on what it was checked on
        torch.testing.assert_close(small(other), one(other), rtol=tolerance, atol=5 * tolerance)
        assert all(p.dtype == x.dtype for p in small.parameters())
        state = torch.get_rng_state()
        one.smaller()
        assert torch.equal(torch.get_rng_state(), state)
        kept_units = sum(int(bits.sum()) for bits in one.kept.values())
        if case.startswith(("GELU", "a subclass")):
            assert small[0].out_features <= kept_units


class Doubled(nn.Linear):
    def forward(self, h):
        return 2 * super().forward(h)


class Residual(nn.Sequential):
    def forward(self, h):
        return h + super().forward(h)


class Halved(nn.Dropout):
    def forward(self, h):
        return super().forward(h) / 2


def hooked(where, kind):
    net = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.Linear(6, 6))
    (net[where] if where is not None else net).__getattribute__(f"register_{kind}")(
        (lambda m, a, out: out + 1) if kind == "forward_hook" else (lambda m, a: (a[0] + 1,))
    )
    return net


def patched():
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 6))
    net[1].forward = lambda h: h.flip(-1)
    return net


def old_weight_norm():
    layer = nn.Linear(6, 6)
    nn.utils.spectral_norm(layer)
    return nn.Sequential(layer, nn.Dropout(0.5), nn.Linear(6, 6))


REFUSED = {
    "a Linear of its own": (lambda: nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), Doubled(6, 2)), r"2 \(Doubled\)"),
    "a Sequential of its own": (
        lambda: Residual(nn.Linear(6, 6), nn.Dropout(0.5), nn.Linear(6, 6)),
        r"the model \(Residual\) has a forward of its own",
    ),
    "an inner one": (
        lambda: nn.Sequential(Residual(nn.Linear(6, 6), nn.Dropout(0.5), nn.Linear(6, 6))),
        r"0 \(Residual\) has a forward of its own",
    ),
    "a Dropout of its own": (lambda: nn.Sequential(nn.Linear(6, 6), Halved(0.5), nn.Linear(6, 6)), r"1 \(Halved\)"),
    "a forward hook": (lambda: hooked(0, "forward_hook"), r"0 \(Linear\) has forward hooks"),
    "a hook on the dropout": (lambda: hooked(1, "forward_hook"), r"1 \(Dropout\) has forward hooks"),
    "a hook before": (lambda: hooked(2, "forward_pre_hook"), r"2 \(Linear\) has forward hooks"),
    "a hook on the model": (lambda: hooked(None, "forward_hook"), r"the model \(Sequential\) has forward hooks"),
    "a patched forward": (patched, r"1 \(ReLU\) has a forward of its own"),
    "spectral_norm of the old kind": (old_weight_norm, r"0 \(Linear\) has forward hooks.*remove them"),
    "softmax": (
        lambda: nn.Sequential(nn.Linear(6, 6), nn.Softmax(dim=-1), nn.Dropout(0.5), nn.Linear(6, 2)),
        r"1 \(Softmax\) may mix units",
    ),
}


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*is deprecated")
@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_by_name_for(case):
    make, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        am.thinned(make().double(), X).smaller()


def test_whatever_slips_through_is_found_on_the_inputs(monkeypatch):
    # The planted fault: a rule that takes the sigmoid for a layer past which a factor moves.
    from allmasks import removal

    net = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.Sigmoid(), nn.Linear(6, 2)).double()
    am.thinned(net, X).smaller()
    monkeypatch.setattr(removal, "_HOMOGENEOUS", (nn.Sigmoid,))
    with pytest.raises(ValueError, match="the smaller network is not the thinned one"):
        am.thinned(net, X).smaller()


@pytest.mark.parametrize("n_masks", [1, 3])
def test_dropout_in_place_overwrites_no_input(n_masks):
    """Each member of an ensemble gets the input, and not what the one before left of it."""
    torch.manual_seed(0)
    head = nn.Linear(6, 3).double()
    in_place, plain = (nn.Sequential(nn.Dropout(0.5, inplace=flag), head) for flag in (True, False))
    x = X.clone()
    if n_masks == 1:
        one, other = (am.thinned(net, x, seed=2) for net in (in_place, plain))
        torch.testing.assert_close(one.smaller()(x), other(x))
    else:
        one, other = (am.thinned(net, x, seed=2, mask=range(n_masks)) for net in (in_place, plain))
    for _ in range(2):
        torch.testing.assert_close(one(x), other(x))
    assert torch.equal(x, X)
