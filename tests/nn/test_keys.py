"""Keys, seeds and rates: what is refused, what is held, and that recomputation finds the mask of its own call."""

import math
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset

import allmasks as am
from allmasks.nn.law import drawn_law

f = am.nn.functional
ONES = torch.ones(64)


@pytest.mark.parametrize("seed", [True, 1.5, "a", -1, 2**64, np.float64(1)])
def test_seeds_that_are_none_are_refused(seed):
    layer = am.nn.Dropout(0.5)
    layer.seed = seed
    for call in (lambda: f.dropout(ONES, seed=seed), lambda: layer(ONES), lambda: am.nn.Dropout(0.5, seed=seed)):
        with pytest.raises((TypeError, ValueError), match="seed must be an integer from 0 to"):
            call()


def test_seeds_of_numpy_are_seeds():
    am.seed(0)
    first = f.dropout(ONES, seed=np.int64(3))
    am.seed(0)
    assert torch.equal(first, f.dropout(ONES, seed=3))


@pytest.mark.parametrize("key", [1.9, True, "a", torch.tensor(1.0), torch.tensor([1]), 2**64, -(2**63) - 1])
@pytest.mark.parametrize("mapped", [False, True])
def test_keys_that_are_none_are_refused(key, mapped):
    call = lambda t: f.dropout(t, key=key)  # noqa: E731
    with pytest.raises((TypeError, ValueError), match="key must be"):
        torch.vmap(call)(torch.ones(2, 8)) if mapped else call(ONES)


def test_one_mask_has_many_names_but_one_key():
    assert torch.equal(f.dropout(ONES, key=2**64 - 1), f.dropout(ONES, key=-1))
    assert torch.equal(f.dropout(ONES, key=5), f.dropout(ONES, key=torch.tensor(5)))


@pytest.mark.parametrize("name", ["dropout", "alpha_dropout", "gaussian_dropout", "drop_path"])
def test_a_key_beside_a_seed_is_refused(name):
    with pytest.raises(ValueError, match="key and seed both say"):
        getattr(f, name)(ONES, 0.5, True, key=1, seed=2)


# -- rates of units --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rates_are_those_of_the_call(dtype):
    """Backward makes the mask of forward again, whatever was written to p in between."""
    p = torch.tensor([0.1, 0.5, 0.9, 0.3], dtype=dtype)
    x = torch.ones(50, 4, requires_grad=True)
    out = f.dropout(x, p, key=3)
    p.mul_(0.0)
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())


@pytest.mark.parametrize("bad", [1.5, -0.5, math.nan, math.inf])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["dropout", "dropout1d", "locked_dropout"])
def test_rates_out_of_range_are_refused(bad, training, name):
    x = torch.ones(3, 4, 4)
    with pytest.raises(ValueError, match="has to be between 0 and 1"):
        getattr(f, name)(x, torch.tensor([0.5, 0.1, 0.2, bad]), training)


def test_rates_out_of_range_are_refused_in_compiled_code():
    run = torch.compile(lambda t, p: f.dropout(t, p), fullgraph=True, backend="aot_eager")
    with pytest.raises(ValueError, match="has to be between 0 and 1"):
        run(torch.ones(3, 4), torch.tensor([0.5, 0.1, 0.2, 1.5]))


def test_a_layer_with_rates_is_built_under_fake_tensors():
    rates = torch.tensor([0.1, 0.5, 0.9, 0.3])
    outside = rates + 1
    with FakeTensorMode():
        with pytest.raises(ValueError, match="between 0 and 1"):
            am.nn.Dropout(outside)
        fake = am.nn.Dropout(torch.tensor([0.1, 0.5]))
        assert fake(torch.ones(3, 2)).shape == (3, 2)
        layer = am.nn.Dropout(rates)
    assert layer(torch.ones(3, 4)).shape == (3, 4)


# -- where keys come from --------------------------------------------------------------------------------------


def test_the_first_call_of_a_thread_may_be_in_inference_mode():
    done = []

    def first():
        with torch.inference_mode():
            f.dropout(ONES)
            f.dropout(ONES, seed=3)
        done.append(f.dropout(ONES.clone().requires_grad_()).requires_grad)

    thread = threading.Thread(target=first)
    thread.start()
    thread.join()
    assert done == [True]


def block(seed=7):
    return nn.Sequential(nn.Linear(6, 6), am.nn.Dropout(0.5, seed=seed), nn.Tanh())


def gradients(run, calls, order):
    """Of several forwards from one state of the generator, before any backward."""
    am.seed(3)
    xs = [torch.linspace(-1, 1, 24).reshape(4, 6).requires_grad_() for _ in range(calls)]
    outs = []
    for x in xs:
        torch.manual_seed(5)
        outs.append(run(x).square().sum())
    for i in order:
        outs[i].backward()
    return [x.grad for x in xs]


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_each_recomputation_finds_its_own_call(reentrant, order):
    torch.manual_seed(0)
    net = block()
    expected = gradients(net, 3, order)
    assert not torch.equal(expected[0], expected[1])
    found = gradients(lambda t: checkpoint(net, t, use_reentrant=reentrant), 3, order)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("outer", [False, True])
@pytest.mark.parametrize("inner", [False, True])
def test_checkpoints_within_checkpoints(outer, inner):
    torch.manual_seed(0)
    net = block()

    def nested(t):
        return checkpoint(lambda u: net(checkpoint(net, u, use_reentrant=inner)), t, use_reentrant=outer)

    expected, found = (gradients(run, 2, (0, 1)) for run in (lambda t: net(net(t)), nested))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_a_recomputation_of_an_unknown_call_is_refused():
    net = block()
    out = checkpoint(net, torch.ones(2, 6, requires_grad=True), use_reentrant=False, preserve_rng_state=False)
    with pytest.raises(RuntimeError, match="checkpointing needs preserve_rng_state=True"):
        out.sum().backward()


class Items(Dataset):
    """Eight items through a seeded layer."""

    def __init__(self):
        self.layer = am.nn.Dropout(0.5, seed=3)

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return self.layer(ONES)


def epochs():
    am.seed(0)
    return [tuple(x.flatten().tolist()) for _ in range(2) for x in DataLoader(Items(), batch_size=1, num_workers=2)]


def test_workers_of_a_loader_draw_masks_of_their_own():
    first = epochs()
    assert len(set(first)) == 16
    assert epochs() == first


# -- blocks, alpha ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1e-300, 1e-9, 0.1, 0.5, 0.9, 0.999999])
def test_a_block_that_covers_the_map(p):
    from allmasks.nn.geometry import block_law

    for side in (1, 2, 3, 6, 7):
        law = block_law((1, 1, side, side), 7, p)
        assert law.starts == (1, 1)
        assert law.gamma == pytest.approx(p, rel=1e-14)
    out = f.drop_block2d(torch.ones(2, 3, 4, 4), p, key=1)
    assert bool((out == out[..., :1, :1]).all())  # whole maps


@pytest.mark.parametrize("height", [1, 5, 12, 20])
@pytest.mark.parametrize("width", [1, 8, 13])
def test_the_expected_fraction_is_p_for_all_sizes(height, width):
    from allmasks.nn.geometry import _reach, block_law

    for size in (1, 2, 7):
        for p in (1e-12, 0.01, 0.3, 0.9, 0.999999):
            law = block_law((1, 1, height, width), size, p)
            dropped = -np.expm1(np.log1p(-law.gamma) * _reach(law.size, law.starts)).mean()
            assert dropped == pytest.approx(p, rel=1e-13)


@pytest.mark.parametrize("shape", [(0, 3, 5, 5), (2, 0, 5, 5), (2, 3, 0, 5), (2, 3, 5, 0)])
def test_no_blocks_in_nothing(shape):
    assert f.drop_block2d(torch.ones(shape), 0.3).shape == shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["alpha_dropout", "feature_alpha_dropout", "dropout2d", "gaussian_dropout"])
def test_half_types_are_the_float_result_rounded_once(dtype, name):
    x = torch.randn(64, 64, 2, 2).to(dtype)
    wide = getattr(f, name)(x.float(), 0.1, True, key=3)
    assert torch.equal(getattr(f, name)(x, 0.1, True, key=3), wide.to(dtype))


@pytest.mark.parametrize(("dtype", "biased"), [(torch.float16, 3e-4), (torch.bfloat16, 2e-3)])
def test_alpha_dropout_in_half_types_keeps_the_mean(dtype, biased):
    """a q x over the masks, by both values of each element: to the rounding of one output, not of a constant."""
    law = drawn_law(0.1)
    constants = am.masks.alpha_constants(law.p)
    x = torch.randn(10_000).to(dtype)
    kept = (constants.scale * x.double() + constants.shift).to(dtype).double()
    dropped = torch.tensor(constants.scale * constants.dropped + constants.shift).to(dtype).double()
    out = f.alpha_dropout(x, 0.1, True, key=3).double()
    assert bool(torch.minimum((out - kept).abs(), (out - dropped).abs()).max() <= 2 * torch.finfo(dtype).eps)
    gap = float((kept[out != dropped] - out[out != dropped]).mean())
    assert abs(gap) < biased / 10
