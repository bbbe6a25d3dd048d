"""Memory does not grow with the number of masks: measured, each in a process of its own."""

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json, resource, sys
import torch
from torch import nn
import allmasks as am

torch.set_num_threads(1)
torch.manual_seed(0)
layers = [nn.Linear(16, 256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, 64), nn.ReLU(), nn.Dropout(0.5)]
net, x = nn.Sequential(*layers, nn.Linear(64, 3)), torch.randn(64, 16)
peaks = []
for n_masks in (32, 2048, 10000):
    am.predict(net, x, method=am.methods.MonteCarlo(n_masks=n_masks, sampler=am.samplers.Independent()))
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(json.dumps(peaks))
"""


@pytest.mark.slow
def test_peak_memory_is_flat_in_the_number_of_masks():
    pytest.importorskip("resource", reason="peak memory is read from the operating system's accounting")
    # Large blocks are given back as soon as they are free, so that what is measured is what is held.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env=environment)
    few, some, many = json.loads(done.stdout)
    # Up to one chunk of masks (64 MB of activations and what is made of them), then nothing. All
    # unrest. All masks and activations at once would be 10000 x 64 x 320 x 5 bytes, 1 GB.
    assert some - few < 512, (few, some)
    assert many - some < 16, (some, many)
