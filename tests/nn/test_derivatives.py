"""Derivatives of every kind and order, vmap's randomness, and torch's own checks of each operator."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.autograd.forward_ad as fwAD
from torch.autograd.gradcheck import GradcheckError
from torch.utils.flop_counter import FlopCounterMode

import allmasks as am
from allmasks.nn import ops

f = am.nn.functional
UNITS = torch.tensor([0.1, 0.5, 0.0, 0.9])
FUNCTIONS = {
    "dropout": lambda t: f.dropout(t, 0.4, key=3),
    "in place": lambda t: f.dropout(t * 1, 0.4, inplace=True, key=3),
    "units": lambda t: f.dropout(t, UNITS, key=3),
    "dropout1d": lambda t: f.dropout1d(t, 0.4, key=3),
    "alpha": lambda t: f.alpha_dropout(t, 0.4, True, key=3),
    "feature alpha": lambda t: f.feature_alpha_dropout(t, 0.4, True, key=3),
    "gaussian": lambda t: f.gaussian_dropout(t, 0.4, key=3),
    "drop connect": lambda t: f.drop_connect(t, 0.4, key=3),
    "drop path": lambda t: f.drop_path(t, 0.4, key=3),
    "locked": lambda t: f.locked_dropout(t, 0.4, key=3),
    "blocks": lambda t: f.drop_block2d(t.reshape(1, 1, 5, 4), 0.4, 2, key=3).reshape(5, 4),
    "the operator": partial(torch.ops.allmasks.masked, key=torch.tensor(3), p=0.4),
    "the gaussian operator": partial(torch.ops.allmasks.gaussian, key=torch.tensor(3), p=0.4),
    "the next key": lambda t: torch.ops.allmasks.masked_next(t, 7, 0, 0.0, UNITS * 0 + 1, device=ops.CPU)[0],
}
each = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
QUICK = ("dropout", "in place", "units", "alpha", "dropout1d")
checked = pytest.mark.parametrize(
    "function",
    [pytest.param(f, id=n, marks=() if n in QUICK else pytest.mark.slow) for n, f in FUNCTIONS.items()],
)
quiet = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own, in forward mode


@quiet
@checked
def test_gradcheck(function):
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        function,
        (x,),
        check_undefined_grad=True,
        check_batched_grad=True,
        check_forward_ad=True,
        check_batched_forward_grad=True,
    )
    assert torch.autograd.gradgradcheck(function, (x,), check_batched_grad=True, check_fwd_over_rev=True)


@quiet
def test_a_wrong_derivative_is_noticed():
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return f.dropout(x, 0.4, key=3)

        @staticmethod
        def backward(ctx, grad):
            return f.dropout(grad, 0.4, key=4)

    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    with pytest.raises(GradcheckError):
        torch.autograd.gradcheck(Wrong.apply, (x,))


class Sub(torch.Tensor):
    pass


@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node")  # torch's own, in linearize
@quiet
@each
def test_forward_mode_on_every_road(function):
    """A dispatch mode, a subclass, torch.func, linearisation: the tangent is never lost."""
    x, v = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    expected = torch.autograd.functional.jvp(function, x, v)[1]
    with fwAD.dual_level():
        roads = [fwAD.unpack_dual(function(fwAD.make_dual(x, v))).tangent]
        with FlopCounterMode(display=False):
            roads.append(fwAD.unpack_dual(function(fwAD.make_dual(x, v))).tangent)
        sub = x.clone().as_subclass(Sub).requires_grad_()
        roads.append(fwAD.unpack_dual(function(fwAD.make_dual(sub, v))).tangent.as_subclass(torch.Tensor))
    roads.append(torch.func.jvp(function, (x,), (v,))[1])
    roads.append(torch.func.linearize(function, x)[1](v))
    for tangent in roads:
        torch.testing.assert_close(tangent.detach(), expected, rtol=1e-12, atol=1e-12)
    assert expected.abs().max() > 0 or function is FUNCTIONS["the next key"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_transforms_give_the_bits_of_eager_in_half_types(dtype):
    x = torch.randn(4, 64).to(dtype)
    for function in (partial(f.dropout, p=0.1, key=3), partial(f.gaussian_dropout, p=0.1, key=3)):
        eager = torch.stack([function(row) for row in x])
        assert torch.equal(torch.vmap(function)(x), eager)
        assert torch.equal(torch.func.vjp(function, x)[0], function(x))


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("name", ["dropout", "alpha_dropout", "gaussian_dropout", "drop_path", "feature_alpha_dropout"])
def test_vmap_follows_its_randomness_with_and_without_a_seed(name, seed):
    function = partial(getattr(f, name), p=0.5, training=True, seed=seed)
    ones = torch.ones(3, 64, 2)
    am.seed(1)
    same = torch.vmap(function, randomness="same")(ones)
    assert torch.equal(same[0], same[1])
    different = torch.vmap(function, randomness="different")(ones)
    assert not torch.equal(different[0], different[1])
    nested = torch.vmap(torch.vmap(function, randomness="same"), randomness="different")(torch.ones(2, 3, 64, 2))
    assert torch.equal(nested[0, 0], nested[0, 1])
    assert not torch.equal(nested[0, 0], nested[1, 0])
    with pytest.raises(RuntimeError, match="randomness error mode"):
        torch.vmap(function)(ones)


def test_vmapped_keys_are_those_of_a_loop():
    am.seed(1)
    mapped = torch.vmap(partial(f.dropout, seed=5), randomness="different")(torch.ones(3, 64))
    am.seed(1)
    assert torch.equal(mapped, torch.stack([f.dropout(torch.ones(64), seed=5) for _ in range(3)]))


def test_operators_are_clean():
    x, key = torch.randn(5, 4, dtype=torch.float64, requires_grad=True), torch.tensor(5)
    o, check = torch.ops.allmasks, torch.library.opcheck
    check(o.masked.default, (x, key, 0.3, None))
    check(o.masked.default, (x, key, 0.3, UNITS.double()))
    check(o.masked.default, (x.detach().bfloat16(), key, 0.3))
    check(o.gaussian.default, (x, key, 0.3))
    check(o.alpha_terms.default, (0.3,))
    check(o.block_factor.default, (key, [2, 3, 5, 5], 0.3, 2), {"dtype": torch.float32, "device": ops.CPU})
    # What compares two runs: each draws its own key, and `test_compiled_draws_the_keys_of_eager` does it.
    random = ("test_schema", "test_autograd_registration", "test_faketensor")
    for seed in (None, 7):
        check(o.masked_next.default, (x, seed, 0, 0.3, None), {"device": ops.CPU}, test_utils=random)
    check(o.draw_key.default, (0,), {"device": ops.CPU}, test_utils=random)
    check(o.seeded_key.default, (7, 0), {"device": ops.CPU}, test_utils=random)


def fuzz(calls):
    script = Path(__file__).with_name("fuzz.py")
    return subprocess.run(
        [sys.executable, str(script), "--calls", str(calls)], capture_output=True, text=True, timeout=900
    )


def test_random_calls_crash_nothing():
    run = fuzz(300)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.slow
def test_many_random_calls_crash_nothing():
    run = fuzz(5000)
    assert run.returncode == 0, run.stdout + run.stderr
