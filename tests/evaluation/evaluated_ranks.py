"""What each rank of `test_layouts.py` runs: its shard of a test set, evaluated, and the results written down."""

import sys

import numpy as np
import torch
import torch.distributed as dist

import allmasks as am
from leaving import leave


def net():
    torch.manual_seed(3)
    layers = [torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Linear(8, 8)]
    layers += [torch.nn.Tanh(), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3)]
    return torch.nn.Sequential(*layers).double()


def problem():
    """Inputs, labels, targets, and inputs from elsewhere, of an odd number of examples."""
    rng = torch.Generator().manual_seed(5)
    x, y = torch.randn(43, 6, generator=rng).double(), torch.randint(3, (43,), generator=rng)
    return x, y, torch.randn(43, 3, generator=rng).double(), 4 * torch.randn(21, 6, generator=rng).double()


def figures(x, y, targets, ood, names, group=None):
    """Every metric's value and errors, in the three readings."""
    found = am.evaluate(net(), x, y, ood=ood, groups=names, n_masks=64, group=group)
    other = am.evaluate(net(), x, targets, task="regression", noise_precision=2.0, n_masks=64, group=group)
    rows = []
    for evaluation in (found, other):
        for metric in evaluation.values():
            for reading in (metric.masks, metric.weight_scaling, metric.difference):
                if reading is not None:
                    rows.append([reading.value, reading.masks_error, reading.data_error, reading.error, reading.n])
    return np.array(rows)


def main(out):
    dist.init_process_group("gloo")
    x, y, targets, ood = problem()
    (own, labels), (own_targets, names) = am.shard((x, y)), am.shard((targets, torch.arange(43) // 4))
    found = figures(own, labels, own_targets, am.shard((ood, ood))[0], names, "world")
    if dist.get_rank() == 1:
        # Not the first rank's: every rank has all of it.
        np.save(out, found)


if __name__ == "__main__":
    main(*sys.argv[1:])
    leave()
