"""Tensors that are not plain memory, and memory that is written over: torch is beside each."""

import pytest
import torch
import torch.nn.functional as F

import allmasks as am

f = am.nn.functional
KEY = 7
IN_PLACE = [f.dropout, lambda x, p, t, i, **k: f.dropout(x, torch.full((x.shape[-1],), p), t, i, **k)]
in_place = pytest.mark.parametrize("function", IN_PLACE, ids=["one rate", "rates"])


@in_place
def test_what_another_operation_saved_is_not_overwritten_in_silence(function):
    for dropped in (function, F.dropout):
        y = torch.ones(64, requires_grad=True) * 2
        z = y.square()
        with torch.no_grad():
            dropped(y, 0.5, True, True)
        assert y._version == 1
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            z.sum().backward()


def no_grad_view():
    base = torch.ones(2, 64, requires_grad=True) * 1
    with torch.no_grad():
        return base[0]


def inference_tensor():
    with torch.inference_mode():
        return torch.ones(64)


REFUSED = {
    "a leaf": lambda: torch.ones(64, requires_grad=True),
    "a view of a leaf": lambda: torch.ones(2, 64, requires_grad=True)[0],
    "one of many views": lambda: (torch.ones(2, 64, requires_grad=True) * 1).unbind()[0],
    "a view made without grad": no_grad_view,
    "an inference tensor": inference_tensor,
    "overlapping memory": lambda: torch.ones(1).expand(64),
}


@in_place
@pytest.mark.parametrize("name", REFUSED)
def test_what_torch_refuses_is_refused_before_it_is_written(function, name):
    texts = []
    for dropped in (F.dropout, function):
        x = REFUSED[name]()
        with pytest.raises(RuntimeError) as caught:
            dropped(x, 0.5, True, True)
        texts.append(str(caught.value))
        # Torch refuses an inference tensor after it has written.
        assert bool((x == 1).all()) or (name == "an inference tensor" and dropped is F.dropout)
    assert texts[0].split(".")[0] == texts[1].split(".")[0]


@pytest.mark.parametrize("make", [lambda: torch.ones(64), lambda: torch.ones(64, 2).t(), lambda: torch.ones(9, 9)[::2]])
@pytest.mark.parametrize("grad", [False, True])
def test_in_place_is_the_result_in_the_same_memory(make, grad):
    x = make()
    expected = f.dropout(x, 0.5, key=KEY)
    y = x.requires_grad_(grad) * 1  # with x's strides
    at = y.data_ptr()
    assert f.dropout(y, 0.5, True, True, key=KEY) is y
    assert y.data_ptr() == at
    assert torch.equal(y.detach(), expected)
    assert y._version == 1


NEGATED = {
    "negated": lambda x: torch._neg_view(x),
    "imaginary part of a conjugate": lambda x: torch.complex(torch.zeros_like(x), x).conj().imag,
}


@pytest.mark.parametrize("name", NEGATED)
@pytest.mark.parametrize("layer", ["dropout", "alpha_dropout", "gaussian_dropout", "drop_path"])
@pytest.mark.parametrize("inplace", [False, True])
def test_a_sign_that_is_applied_when_read_is_kept(name, layer, inplace):
    x = torch.rand(8, 64) + 1
    lazy = NEGATED[name](x)
    assert lazy.is_neg()
    more = {} if layer == "gaussian_dropout" else {"inplace": inplace}
    expected = getattr(f, layer)(-x, 0.5, True, key=KEY)
    assert torch.equal(getattr(f, layer)(lazy, 0.5, True, key=KEY, **more), expected)
    if more.get("inplace"):
        assert torch.equal(lazy, expected)


def test_zeros_without_memory():
    zeros = torch._efficientzerotensor((8, 64))
    assert torch.equal(f.dropout(zeros, 0.5), torch.zeros(8, 64))
    assert torch.equal(f.gaussian_dropout(zeros, 0.5), torch.zeros(8, 64))
    with pytest.raises(RuntimeError, match="ZeroTensors are immutable"):
        f.dropout(zeros, 0.5, inplace=True)
    x = torch.randn(8, 64, requires_grad=True)
    out = f.dropout(x, 0.5, key=KEY)
    (grad,) = torch.autograd.grad(out, x, torch._efficientzerotensor((8, 64)))
    assert torch.equal(grad, torch.zeros(8, 64))


def test_memory_that_was_freed():
    x = torch.ones(64)
    x.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="storage was freed"):
        f.dropout(x, 0.5)


def test_a_jagged_tensor_is_dropped_as_its_values():
    rows = [torch.rand(n, 8) + 1 for n in (3, 20, 1)]
    x = torch.nested.nested_tensor(rows, layout=torch.jagged)
    out = f.dropout(x, 0.5, key=KEY)
    assert torch.equal(out.values(), f.dropout(x.values(), 0.5, key=KEY))
    assert torch.equal(out.offsets(), x.offsets())


@pytest.mark.parametrize("make", [lambda: torch.ones(4, dtype=torch.int64), lambda: torch.ones(4).to_sparse()])
def test_what_cannot_be_dropped_raises_as_torch_does_and_as_ever(make):
    for kind in (TypeError, RuntimeError, NotImplementedError):
        with pytest.raises(kind, match="dropout needs a"):
            f.dropout(make(), 0.5)
    assert torch.equal(f.dropout(make(), 0.5, False).to_dense(), make().to_dense())
    assert not f.dropout(make(), 1.0).to_dense().any()


def test_tokens_and_masks_pass_through_a_converted_model():
    model = am.convert(torch.nn.Sequential(torch.nn.Dropout(0.3), torch.nn.Embedding(5, 2))).eval()
    assert model(torch.arange(5)).shape == (5, 2)
