"""Layers and functions: moments by the drawn law, every mode of torch, keys, conversion, schedules, bad input."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

import allmasks as am
from allmasks.nn.law import drawn_law

f = am.nn.functional


@pytest.mark.parametrize("p", [1e-4, 0.1, 0.3, 0.5, 0.9, 0.999])
def test_mean_is_the_input_by_the_drawn_law(p):
    law = drawn_law(p)
    assert abs(law.p - p) <= 2.0**-17
    assert law.scale * (1 - law.p) == pytest.approx(1.0, rel=1e-15)
    n = 2**20
    kept = float((f.dropout(torch.ones(n), p, key=11) != 0).double().mean())
    assert abs(kept - (1 - law.p)) < 4.5 * math.sqrt(law.p * (1 - law.p) / n)
    biased = 1 - law.p - 10 * math.sqrt(law.p * (1 - law.p) / n)
    assert abs(kept - biased) > 4.5 * math.sqrt(law.p * (1 - law.p) / n)


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
@pytest.mark.parametrize("grad", [False, True])
def test_a_tracer_sees_the_operator(mode, grad):
    """Plain tensors go straight to the kernel, but not while someone records what is called."""
    x, masked = torch.linspace(-1, 1, 40).requires_grad_(grad), torch.ops.allmasks.masked
    program = make_fx(lambda t, key: masked(t, key, 0.5), tracing_mode=mode)(x, torch.tensor(5))
    assert torch.ops.allmasks.masked.default in {node.target for node in program.graph.nodes}
    assert torch.equal(program(x, torch.tensor(6)), f.dropout(x, 0.5, key=6))
    assert not torch.equal(program(x, torch.tensor(6)), program(x, torch.tensor(5)))


def test_nothing_is_kept_for_backward():
    saved = []
    x = torch.randn(1000, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        f.dropout(x, 0.5)
    assert saved == []


@pytest.mark.parametrize(
    "function",
    [
        lambda z: f.dropout(f.dropout(z, 0.5), 0.3),
        lambda z: f.dropout(z, 0.5) - f.dropout(z, 0.5),  # two calls that look alike are two masks
        lambda z: f.dropout(z, 0.5, seed=7) - f.dropout(z, 0.5, seed=7) + f.dropout(z, 0.5, seed=2**64 - 1),
        lambda z: f.dropout(z, torch.tensor([0.1, 0.0, 1.0, 0.5, 0.9, 0.25])),
        lambda z: f.dropout(z, 0.5, key=3) + f.dropout(z, 0.5, key=torch.tensor(4)),
        lambda z: f.dropout(z * 1, 0.5, inplace=True),
    ],
    ids=["nested", "twice", "seeded", "units", "keys", "in place"],
)
def test_compiled_draws_the_keys_of_eager(function):
    results = []
    for run in (function, torch.compile(function, fullgraph=True, backend="aot_eager")):
        x = torch.linspace(-1, 1, 48).reshape(8, 6).requires_grad_()
        am.seed(1)
        out = run(x)
        out.pow(2).sum().backward()
        results.append((out.detach(), x.grad, float(out.detach().abs().max())))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert results[0][2] > 0


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own, in forward mode
def test_transforms_inside_compiled_code():
    """The derivatives and the randomness of torch.func, whichever is outside."""
    x, t = torch.linspace(-1, 1, 64), torch.arange(64.0)
    layer = lambda z: f.dropout(z, 0.5, key=3)  # noqa: E731
    for function in (
        lambda a, b: torch.func.jvp(layer, (a,), (b,)),
        lambda a, b: torch.func.vjp(layer, a)[1](b),
        lambda a, b: torch.func.grad(lambda z: (layer(z) * b).square().sum())(a),
        lambda a, b: torch.vmap(layer)(torch.stack([a, b])),
    ):
        expected = function(x, t)
        found = torch.compile(function, fullgraph=True, backend="aot_eager")(x, t)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)

    def mapped(randomness):
        def each(a):
            return torch.vmap(lambda z: f.dropout(z, 0.5), randomness=randomness)(a)

        return torch.compile(each, fullgraph=True, backend="aot_eager")(torch.ones(2, 64))

    same, different = mapped("same"), mapped("different")
    assert torch.equal(same[0], same[1])
    assert not torch.equal(different[0], different[1])
    with pytest.raises(RuntimeError, match="randomness"):
        mapped("error")


def test_an_exported_program_under_vmap():
    """One key for the whole batch is one mask for each example."""
    for seed in (None, 7):
        program = torch.export.export(am.nn.Dropout(0.5, seed=seed), (torch.ones(64),), strict=True).module()
        assert any("masked_next" in str(node.target) for node in program.graph.nodes)
        am.seed(1)
        mapped = torch.vmap(program, randomness="same")(torch.ones(2, 64))
        am.seed(1)
        expected = f.dropout(torch.ones(64), 0.5, seed=seed)
        assert torch.equal(mapped, torch.stack([expected, expected]))


def test_constants_of_a_traced_program_are_masked_anew():
    """Neither a parameter nor an input, but seen by a tracer all the same."""
    constant = torch.ones(64)

    class Net(nn.Module):
        def forward(self, x):
            return x.sum() * 0 + f.dropout(constant, 0.5)

    exported = torch.export.export(Net(), (torch.ones(3),), strict=False).module()
    recorded = make_fx(lambda x: x.sum() * 0 + f.dropout(constant, 0.5))(torch.ones(3))
    for program in (exported, recorded):
        am.seed(1)
        first, second = program(torch.ones(3)), program(torch.ones(3))
        am.seed(1)
        assert torch.equal(first, f.dropout(constant, 0.5))
        assert torch.equal(second, f.dropout(constant, 0.5))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_jit_trace_is_refused():
    with pytest.raises(RuntimeError, match=r"torch.jit.trace cannot record .* use torch.export"):
        torch.jit.trace(lambda x: f.dropout(x, 0.5), (torch.ones(4),), check_trace=False)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("seed", [None, 7])
def test_compiled_checkpoint_recomputes_the_same_mask(seed, reentrant):
    net = nn.Sequential(nn.Linear(6, 6), am.nn.Dropout(0.5, seed=seed), nn.Tanh())
    grads = []
    for run in (net, torch.compile(lambda t: checkpoint(net, t, use_reentrant=reentrant), backend="aot_eager")):
        x = torch.linspace(-1, 1, 24).reshape(4, 6).requires_grad_()
        am.seed(3)
        run(x).pow(2).sum().backward()
        grads.append(x.grad)
    torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", [None, 7])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint_recomputes_the_same_mask(seed, reentrant):
    net = nn.Sequential(nn.Linear(6, 6), am.nn.Dropout(0.5, seed=seed), nn.Tanh())
    grads = []
    for run in (net, lambda t: checkpoint(net, t, use_reentrant=reentrant)):
        x = torch.linspace(-1, 1, 24).reshape(4, 6).requires_grad_()
        am.seed(3)
        run(x).pow(2).sum().backward()
        grads.append(x.grad)
    assert torch.equal(*grads)


def test_seeded_layers_share_a_stream_and_state_comes_back():
    am.seed(0)
    layer, other = am.nn.Dropout(0.5, seed=1), am.nn.Dropout(0.5, seed=1)
    state = am.rng_state()
    first, second = layer(torch.ones(200)), other(torch.ones(200))
    assert not torch.equal(first, second)
    am.set_rng_state(state)
    assert torch.equal(first, layer(torch.ones(200)))
    with pytest.raises(ValueError, match=r"what am\.rng_state"):
        am.set_rng_state({})


def test_convert_keeps_p_and_state_dict():
    net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.2), nn.Dropout2d(0.3), nn.AlphaDropout(0.1))
    ours = am.convert(net)
    assert [type(m).__module__ for m in ours][1:] == ["allmasks.nn.layers"] * 3
    assert [m.p for m in list(ours)[1:]] == [0.2, 0.3, 0.1]
    assert type(net[1]) is nn.Dropout
    net.load_state_dict(ours.state_dict(), strict=True)


def test_exact_methods_refuse_dependent_noise_by_name():
    x, y = torch.randn(4, 1, 4, 4), torch.tensor([0, 1, 1, 0])
    blocks = nn.Sequential(am.nn.DropBlock2d(0.3, 2), nn.Flatten(), nn.Linear(16, 2))
    with pytest.raises(am.MethodNotApplicable, match="drop_block2d"):
        am.expected_loss(blocks, x, y, "cross_entropy", method=am.methods.Enumeration())
    noisy = nn.Sequential(am.nn.GaussianDropout(0.3), nn.Flatten(), nn.Linear(16, 2))
    with pytest.raises(am.UncontrolledRandomness, match="gaussian_dropout"):
        am.expected_loss(noisy, x, y, "cross_entropy")


def test_eval_is_the_identity_and_exports_to_nothing():
    x = torch.randn(2, 3)
    layer = am.nn.Dropout(0.5).eval()
    assert layer(x) is x
    program = torch.export.export(nn.Sequential(nn.Linear(3, 3), layer).eval(), (x,))
    assert not any("allmasks" in str(node.target) for node in program.graph.nodes)


def test_bad_input():
    with pytest.raises(ValueError, match="has to be between 0 and 1"):
        f.dropout(torch.ones(2), 1.5)
    with pytest.raises(TypeError, match="needs a floating-point tensor"):
        f.dropout(torch.ones(2, dtype=torch.int64))
    x = torch.ones(3, requires_grad=True)
    f.dropout(x, 1.0).sum().backward()
    assert x.grad.tolist() == [0.0] * 3


def test_rate_scheduler_state():
    layer = am.nn.Dropout(0.4)
    schedule = am.nn.RateScheduler(layer, "late", steps=2)
    assert layer.p == 0.0
    schedule.step()
    state = schedule.state_dict()
    schedule.step()
    assert layer.p == 0.4
    schedule.load_state_dict(state)
    assert layer.p == 0.0


def test_a_second_schedule_knows_the_full_rate():
    """Rate 0 before "late" begins, or after "early" has ended, is no full rate; a rate set by hand is."""
    units = torch.tensor([0.1, 0.4], dtype=torch.float64)
    for layer, full in ((am.nn.Dropout(0.4), 0.4), (nn.Dropout(0.4), 0.4), (am.nn.Dropout(units), units)):
        for mode in ("late", "late", "early", "linear", "late"):
            schedule = am.nn.RateScheduler(copy.deepcopy(layer), mode, steps=2)
            rates = schedule.rates
            assert torch.equal(torch.as_tensor(rates[""]), torch.as_tensor(full))
            for _ in range(1 if mode == "late" else 3):
                schedule.step()
            (layer,) = schedule._layers.values()
        layer.p = 0.25
        assert am.nn.RateScheduler(layer, "late", steps=2).rates == {"": 0.25}


@pytest.mark.parametrize(
    "change",
    [
        {"t": -3},
        {"t": 1.5},
        {"t": True},
        {"steps": 0},
        {"mode": "early"},
        {"rates": {"0": 0.1, "1": 1.9}},
        {"rates": {"0": 0.1, "1": float("nan")}},
        {"rates": {"0": 0.1, "1": "a"}},
        {"rates": {"0": 0.1, "1": [0.1, 0.2]}},
        {"rates": {"0": 0.1}},
        {"rates": None},
    ],
    ids=str,
)
def test_a_bad_state_changes_nothing(change):
    net = nn.Sequential(am.nn.Dropout(0.4), nn.Dropout(0.2))
    schedule = am.nn.RateScheduler(net, "linear", steps=4)
    schedule.step()
    before = schedule.state_dict(), [layer.p for layer in net]
    with pytest.raises(ValueError, match=r"must be|has to be|is of|has shape|state"):
        schedule.load_state_dict({**before[0], "t": 3, **change})
    assert (schedule.state_dict(), [layer.p for layer in net]) == before
