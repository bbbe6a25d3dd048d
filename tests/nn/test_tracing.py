"""Tracers keep our layers as they keep torch's: torch.fx, TorchScript, torch.compile, export."""

import io
import logging

import pytest
import torch
from torch import nn

import allmasks as am

FAMILY = {
    "Dropout": (4, 6),
    "Dropout1d": (4, 6, 3),
    "Dropout2d": (4, 6, 3, 3),
    "Dropout3d": (4, 6, 3, 3, 3),
    "AlphaDropout": (4, 6),
    "FeatureAlphaDropout": (4, 6, 3),
}
MORE = {"GaussianDropout": (4, 6), "LockedDropout": (4, 6), "DropPath": (4, 6), "DropBlock2d": (4, 6, 9, 9)}
scripting = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


def nets():
    yield from ((getattr(am.nn, name)(0.3), shape) for name, shape in {**FAMILY, **MORE}.items())
    yield am.nn.DropConnect(6, 6, p=0.3), (4, 6)


@pytest.mark.parametrize(("layer", "shape"), list(nets()), ids=lambda v: type(v).__name__)
def test_fx_keeps_the_module(layer, shape):
    x = torch.ones(shape)
    traced = torch.fx.symbolic_trace(nn.Sequential(layer))
    assert [node.op for node in traced.graph.nodes] == ["placeholder", "call_module", "output"]
    plain = traced.eval()(x)
    assert torch.equal(plain, traced(x))
    traced.train().get_submodule("0").p = 0.0
    torch.testing.assert_close(traced(x), plain)
    traced.get_submodule("0").p = 0.9
    torch.manual_seed(0)  # the few bits of a shared mask may be alike in two draws, hardly in twenty
    first, *others = (traced(x) for _ in range(20))
    assert any(not torch.equal(first, other) for other in others)


@scripting
@pytest.mark.parametrize("name", FAMILY)
def test_scripts_are_saved_and_draw_torch_masks(name):
    x = torch.ones(FAMILY[name])
    theirs = torch.jit.script(nn.Sequential(getattr(nn, name)(0.3)))
    ours = torch.jit.script(am.convert(nn.Sequential(getattr(nn, name)(0.3))))
    file = io.BytesIO()
    torch.jit.save(ours, file)
    file.seek(0)
    for script in (ours, torch.jit.load(file)):
        torch.manual_seed(1)
        expected = theirs(x)
        torch.manual_seed(1)
        assert torch.equal(script(x), expected)
        assert torch.equal(script.eval()(x), x)
        script.train()


@scripting
def test_scripts_refuse_what_they_cannot_draw():
    script = torch.jit.script(am.nn.Dropout(0.5, seed=3))
    with pytest.raises(Exception, match="cannot draw the masks of a seed"):
        script(torch.ones(4))
    assert torch.equal(script.eval()(torch.ones(4)), torch.ones(4))


@scripting
@pytest.mark.parametrize("name", MORE)
def test_layers_that_torch_lacks_are_called_from_scripts(name):
    script, x = torch.jit.script(nn.Sequential(getattr(am.nn, name)(0.3))), torch.ones(MORE[name])
    assert script(x).shape == x.shape
    assert not torch.equal(script(x), x)


@pytest.mark.slow
@pytest.mark.parametrize(("layer", "shape"), list(nets()), ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_layers_follow_a_rate_that_changes(layer, shape, dtype):
    torch._dynamo.reset()
    layer = layer.to(dtype)
    run = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for p in (0.3, 0.25, 0.35, 0.45):
        layer.p = p
        results = []
        for call in (layer, run):
            x = torch.linspace(-1, 1, torch.Size(shape).numel()).reshape(shape).to(dtype).requires_grad_()
            am.seed(3)
            out = call(x)
            out.float().square().sum().backward()
            results.append((out.detach().float(), x.grad.float()))
        tolerance = 1e-5 if dtype is torch.float32 else 2e-2
        torch.testing.assert_close(*results, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("layer", [am.nn.AlphaDropout(0.3), am.nn.DropBlock2d(0.3, 2)], ids=["alpha", "blocks"])
def test_exported_programs_draw_anew(layer, strict):
    x = torch.ones(1, 2, 12, 12)
    program = torch.export.export(layer, (x,), strict=strict).module()
    am.seed(2)
    first, second = program(x), program(x)
    am.seed(2)
    assert torch.equal(first, layer(x))
    assert not torch.equal(first, second)


class Left(nn.Module):
    """What `convert` has no layer for."""

    def __init__(self):
        super().__init__()
        self.recurrent = nn.LSTM(3, 3, 2, dropout=0.1)
        self.attention = nn.MultiheadAttention(4, 2, dropout=0.2)
        self.quiet = nn.GRU(3, 3)
        self.script = torch.jit.script(nn.Sequential(nn.Dropout(0.3)))
        self.own = type("Own", (nn.Dropout,), {})(0.5)
        self.layer = nn.Dropout(0.2)


@scripting
def test_convert_says_what_it_leaves(caplog):
    with caplog.at_level(logging.INFO, "allmasks.nn"):
        am.convert(Left(), inplace=True)
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("WARNING", "recurrent: dropout inside LSTM (p=0.1) was left: it is no layer of its own"),
        ("WARNING", "attention: dropout inside MultiheadAttention (p=0.2) was left: it is no layer of its own"),
        ("WARNING", "script.0: scripted Dropout was left: convert first, then script"),
        ("WARNING", "own: Own is a subclass of torch's layer and was left"),
        ("INFO", "layer: torch.nn.Dropout(p=0.2) replaced"),
    ]
