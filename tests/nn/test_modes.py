"""What must not change the bits or the semantics: NaN, batches, layouts, autocast, export, processes."""

import importlib.util
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import allmasks as am
from allmasks.kernels import reference
from allmasks.nn import ops
from allmasks.nn.multiply import mask_multiply, split_key

f = am.nn.functional
KEY = 0x0FEDCBA987654321


def test_nan_and_infinity_are_those_of_torch():
    """Torch multiplies by 0 or 1/(1 - p): what is dropped of NaN or infinity is NaN."""
    x = torch.randn(4096)
    x[::7], x[3::11], x[5::13] = float("nan"), float("inf"), -float("inf")
    torch.manual_seed(0)
    theirs = F.dropout(x, 0.5)
    torch.manual_seed(0)
    their_mask = F.dropout(torch.ones_like(x), 0.5)
    torch.testing.assert_close(theirs, x * their_mask, rtol=0, atol=0, equal_nan=True)
    mask = f.dropout(torch.ones_like(x), 0.5, key=KEY)
    for ours in (f.dropout(x, 0.5, key=KEY), f.dropout(x.clone(), 0.5, inplace=True, key=KEY)):
        torch.testing.assert_close(ours, x * mask, rtol=0, atol=0, equal_nan=True)
    assert bool(f.dropout(x, 0.5, key=KEY)[(mask == 0) & ~x.isfinite()].isnan().all())


def test_whole_batch_is_its_parts():
    """The bits of element e are a function of key and e: the mask of a batch begins with that of a smaller one."""
    x = torch.randn(64, 1000)
    whole = f.dropout(x, 0.4, key=KEY)
    assert torch.equal(whole[:37], f.dropout(x[:37], 0.4, key=KEY))
    rest = torch.zeros_like(x)
    rest[37:] = x[37:]
    assert torch.equal(whole[37:], f.dropout(rest, 0.4, key=KEY)[37:])


def test_evaluation_masks_do_not_depend_on_the_batch():
    net = nn.Sequential(nn.Linear(5, 8), am.nn.Dropout(0.5), nn.Linear(8, 2)).double()
    x = torch.randn(20, 5, dtype=torch.float64)
    whole = am.predict(net, x, task="regression", n_masks=64, seed=3)
    parts = am.predict(net, x, task="regression", n_masks=64, seed=3, batch_size=7)
    torch.testing.assert_close(torch.as_tensor(whole.mean), torch.as_tensor(parts.mean), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [2**15, 2**17 + 333])
def test_threads_agree_with_the_reference(n):
    """Sizes that a team shares out, with as many threads as torch allows, against the NumPy formula."""
    expected = torch.from_numpy((reference.stream(split_key(KEY), n, bits=1) < 1) * 2.0).float()
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(mask_multiply(torch.ones(n), KEY, 0.5), expected)
    finally:
        torch.set_num_threads(before)


def test_python_threads_do_where_torch_has_no_openmp(monkeypatch):
    from allmasks.kernels import team

    monkeypatch.setattr(team, "_region", lambda: None)
    test_threads_agree_with_the_reference(2**17 + 333)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_the_dtype_as_torch_does(dtype):
    net = nn.Sequential(nn.Linear(8, 16), am.nn.Dropout(0.5), nn.Linear(16, 2))
    x = torch.randn(4, 8)
    with torch.autocast("cpu", dtype=dtype):
        hidden = net[0](x)
        assert f.dropout(hidden, 0.5, key=KEY).dtype == F.dropout(hidden, 0.5).dtype == dtype
        assert f.dropout(x, 0.5, key=KEY).dtype == F.dropout(x, 0.5).dtype == torch.float32
        net(x).sum().backward()
    assert net[0].weight.grad.dtype == torch.float32


LAYERS = [am.nn.Dropout(), am.nn.AlphaDropout(), am.nn.GaussianDropout(), am.nn.DropPath()]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_export_in_eval_mode_leaves_nothing(layer):
    x = torch.randn(2, 3)
    with_layer = torch.export.export(nn.Sequential(nn.Linear(3, 3), layer).eval(), (x,))
    without = torch.export.export(nn.Sequential(nn.Linear(3, 3)).eval(), (x,))
    targets = [[str(n.target) for n in e.graph.nodes if n.op == "call_function"] for e in (with_layer, without)]
    assert targets[0] == targets[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_onnx_in_eval_mode_leaves_nothing():
    for module in ("onnx", "onnxscript"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    import onnx

    net = nn.Sequential(nn.Linear(3, 3), am.nn.Dropout(0.5), nn.ReLU(), am.nn.Dropout2d(0.1)).eval()
    buffer = io.BytesIO()
    torch.onnx.export(net, (torch.randn(2, 3, 4, 3),), dynamo=True).save(buffer)
    operations = {node.op_type for node in onnx.load_from_string(buffer.getvalue()).graph.node}
    assert operations <= {"MatMul", "Gemm", "Add", "Relu", "Transpose"}


@pytest.mark.slow
def test_ranks_differ_and_agree_on_request():
    script = Path(__file__).with_name("two_ranks.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    tests = str(script.parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])}
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "default: differ, same_on_ranks: agree, seeded: agree, gradients: agree" in run.stdout


class Net(nn.Module):
    """Two layers, each behind a ReLU."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(16, 64), nn.Linear(64, 64)
        self.dropout = am.nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(self.second(self.dropout(self.first(x).relu())).relu())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("slow", [True, False])
@pytest.mark.parametrize("bad", [None, float("inf"), float("nan")])
def test_compiled_step_is_eager_bit_for_bit(monkeypatch, slow, bad):
    """Where booleans are written slowly the ReLU's output is kept instead of its sign; nothing else changes."""
    monkeypatch.setattr(ops, "_booleans_are_slow", lambda: slow)
    torch._dynamo.reset()
    x, grad = torch.randn(8, 16), torch.randn(8, 64)
    if bad is not None:
        grad[::3, ::5] = bad  # what becomes of it depends on the ReLU's sign where the unit is dropped
    results = []
    for compiled in (False, True):
        net = Net()
        run = torch.compile(net, fullgraph=True) if compiled else net
        am.seed(5)
        with torch._inductor.config.patch(force_disable_caches=True):
            out = run(x)
        saved = out.grad_fn.saved_tensors if compiled else ()
        out.backward(grad)
        results.append((out.detach(), *(p.grad for p in net.parameters())))
    assert any(t.dtype == torch.bool for t in saved) is not slow
    assert all(torch.equal(a.nan_to_num(7e7), b.nan_to_num(7e7)) for a, b in zip(*results, strict=True))


def test_gradients_of_a_compiled_layer_behind_a_relu():
    x = torch.linspace(-1, 1, 60).reshape(6, 10)
    grads = []
    for compiled in (False, True):
        y = x.clone().requires_grad_()
        function = lambda t: f.dropout(t.relu(), 0.3, key=KEY)  # noqa: E731
        run = torch.compile(function, fullgraph=True, backend="aot_eager") if compiled else function
        (grad,) = torch.autograd.grad(run(y).sum(), y)
        grads.append(grad)
    assert torch.equal(*grads)
