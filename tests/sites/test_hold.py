"""Held masks do what torch does: replayed draws of training mode give training mode's very output."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_leaves

import allmasks as am
from allmasks.sites import hold_masks
from allmasks.sites.calls import PARSERS, parse
from architectures import ARCHITECTURES, Architecture, x

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")

DRAWN_AT_ONCE = {
    "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "attention",
}  # fmt: skip
"""Kinds whose whole mask is one `bernoulli_` of the call's own; recurrent layers and hand-written ones differ."""


def replayable() -> list[Architecture]:
    cases = []
    for case in ARCHITECTURES:
        if case.needs:
            continue
        model, args, kwargs = case()
        model.eval()
        sites = am.find_dropout(model, *args, batch_dim=case.batch_dim, **kwargs)
        if {site.kind for site in sites} <= DRAWN_AT_ONCE:
            cases.append(case)
    return cases


def train_mode(model: nn.Module) -> None:
    """Training mode, but for statistics."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.eval()


def replayed(model, args, kwargs, rates, seed, tilt=1.0):
    """The output in eval mode with masks drawn just as training mode would draw them."""
    model.eval()

    def provide(call):
        p = rates[call.name]
        # The strides of what is filled decide which draw goes where.
        same = call.kind != "attention" and tuple(call.mask_shape) == tuple(call.input.shape)
        out = torch.empty_like(call.input) if same else torch.empty(call.mask_shape, dtype=call.input.dtype)
        return out.bernoulli_((1 - p) * tilt).bool()

    with torch.random.fork_rng(), torch.no_grad(), hold_masks(model, provide, rates):
        torch.manual_seed(seed)
        return tree_leaves(model(*args, **kwargs))


def test_the_table_has_enough_to_replay():
    names = {case.name for case in replayable()}
    assert len(names) >= 8, names


@pytest.mark.parametrize("case", [case for case in ARCHITECTURES if not case.needs], ids=lambda c: c.name)
def test_replayed_masks_give_training_modes_output(case):
    model, args, kwargs = case()
    sites = am.find_dropout(model.eval(), *args, batch_dim=case.batch_dim, **kwargs)
    if not {site.kind for site in sites} <= DRAWN_AT_ONCE:
        return  # its masks are not one draw a site; `test_the_table_has_enough_to_replay` counts those that are
    rates = {site.name: site.p for site in sites}
    for seed in range(3):
        held = replayed(model, args, kwargs, rates, seed)
        train_mode(model)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            trained = tree_leaves(model(*args, **kwargs))
        for ours, theirs in zip(held, trained, strict=True):
            if isinstance(ours, torch.Tensor):
                torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-6)


def test_the_replay_catches_other_masks():
    model = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 3))
    args = (x(5, 6),)
    (right,) = replayed(model, args, {}, {"2": 0.5}, 0)
    (wrong,) = replayed(model, args, {}, {"2": 0.5}, 0, tilt=0.9)
    assert not torch.allclose(right, wrong, atol=1e-3)


SHAPED = {
    F.dropout: (4, 6), F.dropout1d: (4, 3, 5), F.dropout2d: (4, 3, 2, 2), F.dropout3d: (4, 3, 2, 2, 2),
    F.alpha_dropout: (4, 6), F.feature_alpha_dropout: (4, 3, 2),
    torch.dropout: (4, 6), torch.dropout_: (4, 6), torch.alpha_dropout: (4, 6), torch.alpha_dropout_: (4, 6),
    torch.feature_dropout: (4, 3, 2), torch.feature_dropout_: (4, 3, 2),
    torch.feature_alpha_dropout: (4, 3, 2), torch.feature_alpha_dropout_: (4, 3, 2),
}  # fmt: skip


@pytest.mark.parametrize("function", SHAPED, ids=lambda f: f"{getattr(f, '__module__', '')}.{f.__name__}")
def test_each_function_is_what_torch_computes(function):
    h = x(*SHAPED[function])
    call = parse(function, (h.clone(), 0.4, True), {})
    assert call is not None
    assert (call.p, call.training) == (0.4, True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kept = torch.empty(call.mask_shape).bernoulli_(0.6).bool()
        torch.manual_seed(0)
        expected = function(h.clone(), 0.4, True)
    torch.testing.assert_close(call.apply(kept, 0.4), expected, rtol=1e-6, atol=1e-6)
    assert call.mean_preserving == ("alpha" not in function.__name__)
    torch.testing.assert_close(parse(function, (h.clone(), 0.4, False), {}).identity(), h)


def test_every_function_in_the_table_answers_wrong_arguments_by_leaving_them_to_torch():
    for function in PARSERS:
        if "lstm" not in str(function) and "gru" not in str(function) and "rnn" not in str(function):
            assert parse(function, (), {}) is None


@pytest.mark.parametrize(("shape", "units"), [((3, 5), 3), ((2, 3, 5), 3)])
def test_dropout1d_of_two_axes_is_unbatched(shape, units):
    call = parse(F.dropout1d, (x(*shape), 0.5, True), {})
    assert call.mask_shape == ((3, 1) if len(shape) == 2 else (2, 3, 1))


def test_an_in_place_first_layer_does_not_overwrite_the_input():
    net = nn.Sequential(nn.Dropout(0.5, inplace=True), nn.Linear(4, 2)).double()
    inputs = x(3, 4).double()
    before = inputs.clone()
    am.find_dropout(net, inputs)
    assert torch.equal(inputs, before)
    for method in (None, am.methods.MonteCarlo(n_masks=256), am.methods.Enumeration()):
        am.expected_loss(net, inputs, torch.zeros(3, 2).double(), "squared_error", method=method)
        assert torch.equal(inputs, before)


def test_a_mask_that_does_not_fit_is_named():
    net = nn.Sequential(nn.Dropout(0.5))
    with pytest.raises(ValueError, match=r"the mask of 0 has shape \(3, 5\) but this batch needs \(3, 4\)"):  # noqa: SIM117
        with hold_masks(net, lambda call: torch.ones(3, 5, dtype=torch.bool)):
            net(x(3, 4))


@pytest.mark.parametrize("masked", [False, True])
def test_the_fused_encoder_path_is_opened(masked):
    # In eval mode torch takes a fused kernel that has no dropout at all; sites inside must be found and obeyed.
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True).eval()
    h = x(3, 5, 8)
    padding = torch.tensor([[False] * 5, [False] * 4 + [True], [False] * 3 + [True] * 2]) if masked else None
    kwargs = {"src_key_padding_mask": padding} if masked else {}
    sites = am.find_dropout(layer, h, **kwargs)
    assert [site.name for site in sites] == ["self_attn", "dropout1", "dropout", "dropout2"]
    assert all(site.p == 0.3 and site.controllable for site in sites)
    rates = {site.name: site.p for site in sites}
    (held,) = replayed(layer, (h,), kwargs, rates, 1)
    layer.train()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        trained = layer(h, **kwargs)
    torch.testing.assert_close(held, trained, rtol=2e-6, atol=2e-6)
