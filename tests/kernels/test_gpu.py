"""The Triton kernels in Triton's interpreter, bit for bit the CPU's; on a GPU where there is one."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

SCRIPT = """
import sys
import torch
from allmasks.kernels import gpu
from allmasks.nn.law import drawn_law, unit_law
from allmasks.nn.multiply import mask_multiply, split_key

device, key = sys.argv[1], 0x1234567890ABCDEF
units = torch.tensor([0, 0.1, 0.2, 0.5, 0.9, 0.999, 1.0], dtype=torch.float64)
for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
    for n in (1, 513, 9000):
        x = torch.randn(n, dtype=torch.float64).to(dtype)
        for p in (0.3, 1e-3, 1 / 2, 1 / 4, 3 / 16, 1 / 256):
            law, out = drawn_law(p), torch.empty_like(x, device=device)
            gpu.multiply(x.to(device), out, split_key(key), law.bits, law.threshold)
            assert torch.equal(out.cpu(), mask_multiply(x, key, p)), (dtype, n, p)
    x, law = torch.randn(100, 7, dtype=torch.float64).to(dtype), unit_law(units.numpy())
    out = torch.empty_like(x, device=device)
    gpu.multiply_units(x.to(device), out, split_key(key), law.last, law.scale)
    assert torch.equal(out.cpu(), mask_multiply(x, key, 0.0, units)), dtype
print("equal")
"""


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_equals_the_cpu_kernel(device):
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed: pip install 'allmasks[gpu]'")
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU; the interpreter is tested instead")
    environment = {**os.environ, "TRITON_INTERPRET": "1" if device == "cpu" else "0"}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, device], env=environment, capture_output=True, text=True, timeout=240
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.strip() == "equal"
