"""A model comes back as it was, whatever its forward writes, and so does everything the process shares."""

import contextlib
import copy
import random
import subprocess
import sys
import warnings
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import allmasks as am
from allmasks.methods import Enumeration, MonteCarlo
from allmasks.sites import borrowed
from allmasks.sites.settings import SETTINGS

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)) * 3
Y = torch.zeros(6, 1)


class Writer(nn.Module):
    """A small net with two sites, whose forward first does what `write` does to it."""

    def __init__(self, write):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.head = nn.Linear(4, 5), nn.Linear(5, 1)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("steps", torch.zeros(3))
        self.register_buffer("wide", torch.ones(1, 1).expand(3, 2))
        self.plain = torch.ones(3)
        self.seen, self.cache, self.names, self.last = [1.0], {"a": torch.ones(2)}, {"a"}, deque([1])
        self.note = SimpleNamespace(value=torch.zeros(2), count=0)
        self.table, self.seed, self.attention = np.ones(3), None, None
        self.own = [np.random.default_rng(0), torch.Generator().manual_seed(0), random.Random(0)]
        self.write = write

    def forward(self, h):
        h = self.drop(torch.tanh(self.first(h)))
        with torch.no_grad():
            self.write(self, h)
        return self.head(self.drop(h))


def renorm(weight):
    return torch.renorm(weight, p=2, dim=0, maxnorm=0.1)


def replaced(net, h):
    net.head.weight = nn.Parameter(net.head.weight * 2)


def first_call(net, h):
    if not net.steps.any():
        net.first.bias.data.copy_(-h.mean(dim=0)) if h.ndim == 2 else None
        net.steps += 1


def everything(net, h):
    for write in WAYS.values():
        if write is not everything:
            write(net, h)


WAYS = {
    "in place": lambda net, h: net.first.weight.mul_(0.9),
    "data, in place": lambda net, h: net.first.weight.data.mul_(0.9),
    "data, other": lambda net, h: setattr(net.first.weight, "data", renorm(net.first.weight.data)),
    "data of the last layer": lambda net, h: setattr(net.head.weight, "data", renorm(net.head.weight.data)),
    "data, another dtype": lambda net, h: setattr(net.first.bias, "data", net.first.bias.data.double().float() * 2),
    "copy_": lambda net, h: net.head.weight.copy_(renorm(net.head.weight)),
    "set_": lambda net, h: net.steps.set_(torch.full((5,), 2.0)),
    "a view": lambda net, h: net.first.weight.view(-1)[2:5].zero_(),
    "numpy": lambda net, h: net.first.bias.detach().numpy().__setitem__(0, 7.0),
    "buffer": lambda net, h: net.steps.add_(1),
    "buffer's data": lambda net, h: net.steps.data.add_(1),
    "buffer registered anew": lambda net, h: net.register_buffer("steps", net.steps + 1),
    "buffer made": lambda net, h: net.register_buffer("made", h.detach() * float("nan")),
    "parameter made": lambda net, h: net.register_parameter("extra", nn.Parameter(torch.ones(2))),
    "parameter replaced": replaced,
    "parameter removed": lambda net, h: net.register_parameter("gone", None),
    "module replaced": lambda net, h: setattr(net, "drop", nn.Dropout(0.5)),
    "first call": first_call,
    "plain tensor": lambda net, h: net.plain.add_(1),
    "plain attribute": lambda net, h: setattr(net, "seed", 5),
    "kept": lambda net, h: setattr(net, "attention", h),
    "list": lambda net, h: net.seen.append(h),
    "dict": lambda net, h: net.cache.update(a=h, b=h),
    "tensor in a dict": lambda net, h: net.cache["a"].zero_(),
    "set": lambda net, h: net.names.add("b"),
    "deque": lambda net, h: net.last.append(h),
    "namespace": lambda net, h: (setattr(net.note, "count", 1), net.note.value.add_(1)),
    "array": lambda net, h: net.table.__iadd__(1),
    "hook": lambda net, h: net.head.register_forward_hook(lambda m, a, out: out + 1),
    "requires_grad": lambda net, h: net.first.weight.requires_grad_(False),
    "all at once": everything,
}  # fmt: skip


def described(net):
    """Everything, as values."""
    out = {}
    for path, module in net.named_modules():
        for name, value in (
            *vars(module).items(), *module._parameters.items(), *module._buffers.items(), *module._modules.items(),
            *((f"hook {k}", v) for k, v in module._forward_hooks.items()),
        ):  # fmt: skip
            out[f"{path}.{name}"] = value_of(value)
    return out


def value_of(value):
    if isinstance(value, torch.Tensor):
        grad = None if value.grad is None else value.grad.tolist()
        return id(value), value.data_ptr(), value._version, value.requires_grad, value.dtype, grad, value.tolist()
    if isinstance(value, dict):
        return {k: value_of(v) for k, v in value.items()}
    if isinstance(value, list | tuple | deque):
        return [value_of(v) for v in value]
    if isinstance(value, SimpleNamespace):
        return value_of(vars(value))
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    if isinstance(value, random.Random):
        return value.getstate()
    return id(value) if not isinstance(value, set) else sorted(value)


def calls():
    data = (X, Y)
    return {
        "find_dropout": lambda net: am.find_dropout(net, X),
        "expected_loss": lambda net: am.expected_loss(net, *data, "squared_error"),
        "gradient": lambda net: torch.autograd.grad(
            am.expected_loss(net, *data, "squared_error", method=MonteCarlo(n_masks=32)).value, net.first.bias
        ),
        "predict": lambda net: am.predict(net, X, task="regression", n_masks=32),
        "thinned": lambda net: am.thinned(net, X),
    }


@pytest.mark.parametrize("way", WAYS)
def test_what_forward_writes_is_undone(way):
    for name, call in calls().items():
        net = Writer(WAYS[way])
        before = described(net)
        if name == "gradient" and way in ("requires_grad", "all at once"):
            continue  # a parameter whose gradient forward switches off has none
        call(net)
        after = described(net)
        assert after.keys() == before.keys(), name
        for key in before:
            assert after[key] == before[key], (name, key)


def test_own_generators_are_put_back():
    net = Writer(lambda net, h: (net.own[0].random(), torch.rand(1, generator=net.own[1]), net.own[2].random()))
    net.eval()
    before = described(net)
    with borrowed(net):
        net(X)
        assert described(net) != before
    assert described(net) == before


@pytest.mark.parametrize("call", ["find_dropout", "expected_loss", "predict"])
def test_a_pass_that_raises_leaves_nothing(call):
    def write(net, h):
        everything(net, h)
        raise ZeroDivisionError("in forward")

    net = Writer(write)
    before = described(net)
    with pytest.raises(ZeroDivisionError):
        calls()[call](net)
    assert described(net) == before


@pytest.mark.parametrize("layer", ["first", "head"])
def test_every_pass_begins_from_the_same_state(layer):
    # Weights that shrink at each call, without a sign: the loss is that of one call, whatever came before it.
    net = Writer(lambda net, h: getattr(net, layer).weight.data.mul_(0.5)).double()
    half = Writer(lambda net, h: None).double()
    x, y = X.double(), Y.double()
    if layer == "first":  # the first layer has been used when it shrinks, so one call is as if it did not
        methods = (None, Enumeration(), MonteCarlo(n_masks=32))
    else:  # the last is used after it; sampled, its masks are not integrated, as another net's would be
        methods = (None, Enumeration())
        with torch.no_grad():
            half.head.weight.mul_(0.5)
    for method in methods:
        own = am.expected_loss(net, x, y, "squared_error", method=method)
        right = am.expected_loss(half, x, y, "squared_error", method=method)
        torch.testing.assert_close(own.per_example, right.per_example, rtol=1e-12, atol=1e-12)
    got, wanted = am.predict(net, x, task="regression"), am.predict(half, x, task="regression")
    torch.testing.assert_close(got.mean, wanted.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got.std, wanted.std, rtol=1e-12, atol=1e-12)
    if layer == "head":  # … and so are its gradients, taken while the weights are what the pass has made of them
        own = torch.autograd.grad(am.expected_loss(net, x, y, "squared_error").value, net.first.weight)[0]
        right = torch.autograd.grad(am.expected_loss(half, x, y, "squared_error").value, half.first.weight)[0]
        torch.testing.assert_close(own, right, rtol=1e-10, atol=1e-12)


def test_embeddings_with_a_largest_norm():
    net = nn.Sequential(nn.Embedding(5, 4, max_norm=0.5), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 1))
    tokens, y = torch.tensor([[0, 1], [2, 3], [4, 4]]), torch.zeros(3, 1)
    before = copy.deepcopy(net.state_dict())
    for call in (
        lambda: am.find_dropout(net, tokens),
        lambda: am.expected_loss(net, tokens, y, "squared_error"),
        lambda: am.predict(net, tokens, task="regression"),
        lambda: am.thinned(net, tokens),
    ):
        call()
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_shared_and_strange_memory():
    base = torch.arange(12.0)
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    net[0].weight.data = base.as_strided((4, 4), (1, 2), 1)  # overlapping
    net[2].weight.data = base[:4].view(1, 4)
    net.register_buffer("nothing", torch.zeros(0))
    net.register_buffer("nan", torch.full((3,), torch.nan))
    net.register_buffer("complex", torch.ones(2, dtype=torch.complex64))
    net.register_buffer("short", torch.ones(3, dtype=torch.bfloat16))
    net.register_buffer("sparse", torch.eye(3).to_sparse())
    net.register_forward_pre_hook(lambda m, a: [base.add_(1), None][1])
    versions = [b._version for b in net.buffers()]
    before = base.clone()
    am.expected_loss(net, X, Y, "squared_error")
    assert torch.equal(base, before)
    assert [b._version for b in net.buffers()] == versions


def test_a_graph_of_the_users_own_survives():
    net = Writer(WAYS["in place"])
    other = (net.first.weight**2).sum()
    am.expected_loss(net, X, Y, "squared_error")
    other.backward()  # torch would refuse if the weight's version were another
    torch.testing.assert_close(net.first.weight.grad, 2 * net.first.weight)


def test_what_forward_keeps_is_what_it_was():
    net = Writer(WAYS["kept"])
    net(X)
    kept = net.attention
    for call in calls().values():
        call(net)
        assert net.attention is kept
        (kept + 1).sum().item()


@pytest.mark.parametrize("name", [name for name in calls() if name != "gradient"])
def test_inference_mode(name):
    net, call = Writer(WAYS["kept"]), calls()[name]
    plain = call(net)
    with torch.inference_mode():
        inside = call(net)
        with_own = am.expected_loss(net, X.clone(), Y.clone(), "squared_error")
        assert torch.is_inference_mode_enabled()
    assert not torch.is_inference_mode_enabled()
    torch.testing.assert_close(with_own.value, am.expected_loss(net, X, Y, "squared_error").value.detach())
    if name == "find_dropout":
        assert inside == plain
    elif name == "expected_loss":
        assert torch.equal(inside.value, plain.value)


def test_a_model_made_in_inference_mode():
    with torch.inference_mode():
        net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 1))
        am.expected_loss(net, X, Y, "squared_error")
        am.predict(net, X, task="regression")
    am.expected_loss(net, X, Y, "squared_error")


def change_settings(*_):
    torch.set_num_threads(3)
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.autograd.set_detect_anomaly(True, check_nan=False)
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
    torch.set_grad_enabled(False)
    np.seterr(all="ignore")
    warnings.simplefilter("ignore")
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("name", calls())
def test_settings_of_the_process_are_as_before(name, fails):
    def write(net, h):
        change_settings()
        if fails:
            raise ZeroDivisionError

    def settings():
        return [s.get() for s in SETTINGS], torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # noqa: NPY002

    before = settings()
    with contextlib.suppress(ZeroDivisionError, am.UncontrolledRandomness):
        calls()[name](Writer(write))
    assert settings() == before


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    "call",
    [
        "am.expected_loss(net, torch.ones(5, 3), torch.zeros(5, 1), 'logistic')",
        "am.expected_score_loss(range(1, 30), [[1.0] * 29], [1.0], 0.5)",
        "am.linear_model.DropoutLogisticRegression().fit([[0.0, 1], [1, 0], [2, 1], [0.5, 2]], [0, 1, 1, 0])",
        "am.predict(net, torch.ones(5, 3), task='binary')",
        "am.Monitor(net, (torch.ones(5, 3), torch.zeros(5, 1)), 'logistic').step()",
    ],
)
def test_the_first_launch_of_compiled_threads_leaves_torchs_number(call, threads):
    code = f"""
import torch
torch.set_num_threads({threads})
import allmasks as am
net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
{call}
assert torch.get_num_threads() == {threads}, torch.get_num_threads()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)
