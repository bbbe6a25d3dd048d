"""Memory stays where it is however many masks are asked for: measured, in a process of its own."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, resource, sys
import torch
from torch import nn
import allmasks as am
from allmasks.methods import MonteCarlo

torch.set_num_threads(1)
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, 64), nn.ReLU())
net = nn.Sequential(net, nn.Dropout(0.5), nn.Linear(64, 3))
x, y = torch.randn(64, 16), torch.randint(0, 3, (64,))
peaks = []
for n_masks in (2048, 16384):
    result = am.expected_loss(net, x, y, "cross_entropy", method=MonteCarlo(n_masks=n_masks))
    result.value.backward()
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(json.dumps(peaks))
"""


@pytest.mark.slow
def test_peak_memory_is_flat_in_the_number_of_masks():
    """Forward and backward: eight times the masks move the process's peak by less than the allocator does anyway."""
    pytest.importorskip("resource", reason="peak memory is read from the operating system's accounting")
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    few, many = json.loads(done.stdout)
    # All of the second run's masks and activations at once would be 16384 × 64 × 320 × 5 bytes: 1.7 GB.
    assert many - few < 64, (few, many)
