"""Training with these layers and with torch's reaches the same test accuracy: the digits, many seeds."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import t as student
from sklearn.datasets import load_digits
from torch import nn

import allmasks as am

SEEDS = 40


def accuracy(dropout, seed, data):
    """Of one net after 12 epochs; the split and the start are the seed's, the masks each layer's own."""
    features, labels = data
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    test, train = order[:600], order[600:]
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), dropout(), nn.Linear(64, 64), nn.ReLU(), dropout())
    net.append(nn.Linear(64, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=4e-3, foreach=True)
    for _ in range(12):
        for rows in train[torch.randperm(len(train))].split(128):
            optimizer.zero_grad()
            F.cross_entropy(net(features[rows]), labels[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        return float((net.eval()(features[test]).argmax(1) == labels[test]).double().mean()) * 100


@pytest.mark.slow
def test_the_same_accuracy_as_with_torch():
    """The 95 % interval of the mean difference, paired by split and start, lies within half a point of zero."""
    digits = load_digits()
    data = torch.from_numpy(digits.data).float() / 16, torch.from_numpy(digits.target)
    layers = (lambda: am.nn.Dropout(0.3)), (lambda: nn.Dropout(0.3))
    ours, theirs = (np.array([accuracy(layer, seed, data) for seed in range(SEEDS)]) for layer in layers)
    assert ours.mean() > 90
    difference = ours - theirs
    half = student.ppf(0.975, SEEDS - 1) * difference.std(ddof=1) / SEEDS**0.5
    print(
        f"accuracy {ours.mean():.2f} and {theirs.mean():.2f}, difference {difference.mean():+.3f} ± {half:.3f} points"
    )
    assert abs(difference.mean()) + half < 0.5
    # A layer that forgets to scale is a difference this test sees.
    unscaled = [accuracy(lambda: Unscaled(0.5), seed, data) for seed in range(8)]
    gap = np.array(unscaled) - ours[:8]
    assert abs(gap.mean()) + student.ppf(0.975, 7) * gap.std(ddof=1) / 8**0.5 > 0.5


class Unscaled(am.nn.Dropout):
    """A planted defect: what is kept is not scaled in training."""

    def forward(self, input):
        return super().forward(input) * (1 - self.p if self.training else 1)
