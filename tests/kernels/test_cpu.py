"""The compiled kernels against the NumPy formulas, bit for bit."""

import numpy as np
import pytest
import torch

from allmasks.kernels import anywhere, reference
from allmasks.nn.functional import dropout
from allmasks.nn.law import drawn_law, unit_law
from allmasks.nn.multiply import mask_multiply, mask_multiply_, split_key

KEY = 0x1234567890ABCDEF
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def truth(x: torch.Tensor, p: float) -> torch.Tensor:
    law = drawn_law(p)
    kept = reference.stream(split_key(KEY), x.numel(), bits=law.bits) < law.threshold
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    scale = torch.tensor(law.scale, dtype=torch.float64).to(wide)
    return (x.to(wide) * (torch.from_numpy(kept).reshape(x.shape) * scale)).to(x.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 127, 129, 511, 513, 8191, 8321, 70001])
@pytest.mark.parametrize("p", [0.3, 1e-3, 1 / 2, 3 / 4, 3 / 16, 1 / 256])
def test_kernel_equals_reference(dtype, n, p):
    x = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    expected = truth(x, p)
    assert torch.equal(mask_multiply(x, KEY, p), expected)
    assert torch.equal(mask_multiply_(x.clone(), KEY, p), expected)


def test_one_thread_equals_two():
    x = torch.randn(2**18)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(mask_multiply(x, KEY, 0.5))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_strided_equals_contiguous():
    x = torch.randn(6, 5, 4, 3)
    for view in (x.transpose(0, 1), x.to(memory_format=torch.channels_last), x[::2, :, 1:]):
        out = mask_multiply(view, KEY, 0.4)
        assert torch.equal(out, mask_multiply(view.contiguous(), KEY, 0.4))
        assert out.stride() == torch.empty_like(view).stride()
        # The kernel writes in place only where elements lie in order; the layers' functions see to the rest.
        assert torch.equal(dropout(view.clone(), 0.4, inplace=True, key=KEY), dropout(view, 0.4, key=KEY))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rates_of_units(dtype):
    rates = np.array([0.0, 0.1, 0.5, 0.999, 1.0])
    law = unit_law(rates)
    x = torch.ones(400, 5, dtype=dtype)
    words = reference.stream(split_key(KEY), 2000, bits=32).reshape(400, 5)
    wide = np.float64 if dtype == torch.float64 else np.float32
    expected = torch.from_numpy(np.where(words <= law.last, law.scale.astype(wide), wide(0))).to(dtype)
    assert torch.equal(mask_multiply(x, KEY, 0.0, torch.from_numpy(rates)), expected)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16, 32])
def test_torch_operations_give_the_same_words(bits):
    got = anywhere.stream(split_key(KEY), 9000, bits=bits, device=torch.device("cpu"))
    assert np.array_equal(got.numpy(), reference.stream(split_key(KEY), 9000, bits=bits))
