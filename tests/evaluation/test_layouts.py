"""Outputs of other layouts than one row an example, held against a hand computation; and several processes."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss
from torch import nn

import allmasks as am
from evaluation.evaluated_ranks import figures, problem
from ranks.test_groups import torchrun


def every_mask(units, p):
    """Scaled masks (2ᵘ, u) and their probabilities."""
    kept = torch.tensor(list(itertools.product((0.0, 1.0), repeat=units))).double()
    return kept / (1 - p), (kept * (1 - p) + (1 - kept) * p).prod(dim=1)


def by_hand(p, y, owner):
    """Metrics of entries (N, C), and the error of their log loss over examples: a ratio of two sums over them."""
    each = -np.log(p[np.arange(len(y)), y])
    totals = np.bincount(owner, each - each.mean(), minlength=owner.max() + 1)[np.unique(owner)]
    n = len(totals)
    error = math.sqrt(n / (n - 1) * ((totals - totals.mean()) ** 2).sum()) / len(y)
    wanted = {
        "log_loss": log_loss(y, p, labels=range(p.shape[1])),
        "accuracy": accuracy_score(y, p.argmax(axis=1)),
        "brier": brier_score_loss(y, p, labels=range(p.shape[1]), scale_by_half=False),
    }
    return wanted, error


def held(found, p, at_mean, y, owner):
    wanted, error = by_hand(p, y, owner)
    eval_mode, _ = by_hand(at_mean, y, owner)
    assert found.guarantee == "exact"
    for name, value in wanted.items():
        assert found[name].value == pytest.approx(value, abs=1e-12), name
        assert found[name].weight_scaling.value == pytest.approx(eval_mode[name], abs=1e-12), name
    assert found["log_loss"].data_error == pytest.approx(error, rel=1e-9)
    assert (found.n_entries, found.n_groups) == (len(y), len(np.unique(owner)))


class Pixels(nn.Module):
    """Three units of an image, dropped together for all of its pixels."""

    def __init__(self):
        super().__init__()
        self.encode, self.drop, self.decode = nn.Linear(8, 3), nn.Dropout(0.4), nn.Linear(3, 3 * 2 * 4)

    def latent(self, x):
        return torch.tanh(self.encode(x.flatten(1)))

    def forward(self, x):
        return self.decode(self.drop(self.latent(x))).unflatten(1, (3, 2, 4))


def test_pixels_are_what_a_hand_computation_gives():
    torch.manual_seed(0)
    net, x = Pixels().double(), torch.randn(10, 1, 2, 4).double()
    y = torch.randint(0, 3, (10, 2, 4))
    y[0, 0], y[4] = -100, -100
    masks, share = every_mask(3, 0.4)
    with torch.no_grad():
        scores = net.decode(net.latent(x)[:, None] * masks).unflatten(2, (3, 2, 4))
        p = (scores.softmax(2) * share[:, None, None, None]).sum(1)
        at_mean = net.eval()(x).softmax(1)
    keep, owner = (y != -100).reshape(-1).numpy(), np.repeat(np.arange(10), 8)
    flat = [v.movedim(1, -1).reshape(-1, 3).numpy()[keep] for v in (p, at_mean)]
    found = am.evaluate(net, x, y, task="multiclass")
    held(found, *flat, y.reshape(-1).numpy()[keep], owner[keep])


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.drop, self.out = nn.Embedding(10, 2), nn.Dropout(0.3), nn.Linear(2, 4)

    def forward(self, ids):
        return {"logits": self.out(torch.tanh(self.drop(self.embed(ids))))}


def test_tokens_are_what_a_hand_computation_gives():
    torch.manual_seed(0)
    net, ids, y = Tokens().double(), torch.randint(0, 10, (9, 4)), torch.randint(0, 4, (9, 4))
    y[2, 1:] = -100
    masks, share = every_mask(2, 0.3)
    with torch.no_grad():
        # A token's two units have masks of their own.
        p = (net.out(torch.tanh(net.embed(ids)[:, :, None] * masks)).softmax(-1) * share[:, None]).sum(2)
        at_mean = net.eval()(ids)["logits"].softmax(-1)
    keep, owner = (y != -100).reshape(-1).numpy(), np.repeat(np.arange(9), 4)
    flat = [v.reshape(-1, 4).numpy()[keep] for v in (p, at_mean)]
    found = am.evaluate(net, ids, y, task="multiclass")
    held(found, *flat, y.reshape(-1).numpy()[keep], owner[keep])


def test_a_regression_of_pixels():
    torch.manual_seed(1)
    net, x, y = Pixels().double(), torch.randn(7, 1, 2, 4).double(), torch.randn(7, 3, 2, 4).double()
    masks, share = every_mask(3, 0.4)
    with torch.no_grad():
        f = net.decode(net.latent(x)[:, None] * masks).unflatten(2, (3, 2, 4))
    mean = (f * share[:, None, None, None]).sum(1)
    density = (torch.exp(-((y[:, None] - f) ** 2)) / math.sqrt(math.pi) * share[:, None, None, None]).sum(1)
    found = am.evaluate(net, x, y, task="regression", noise_precision=2.0)
    assert found["rmse"].value == pytest.approx(float(((mean - y) ** 2).mean().sqrt()), abs=1e-12)
    each = density.log().flatten(1).mean(1)
    assert found["log_likelihood"].value == pytest.approx(float(each.mean()), abs=1e-12)
    assert found["log_likelihood"].data_error == pytest.approx(float(each.std() / math.sqrt(7)), rel=1e-9)


class Nodes(nn.Module):
    """Rows that are mixed after dropout: nodes of a graph."""

    def __init__(self):
        super().__init__()
        self.first, self.drop, self.last = nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3)
        self.register_buffer("edges", (torch.rand(30, 30) < 0.2).double())

    def forward(self, x):
        return self.last(self.edges @ self.drop(torch.relu(self.first(x))) / 3)


def test_rows_that_depend_on_one_another():
    torch.manual_seed(0)
    net, x, y = Nodes().double(), torch.randn(30, 4).double(), torch.randint(0, 3, (30,))
    y[20:] = -100
    found = am.evaluate(net, x, y, batch_dim="whole", n_masks=128, groups=np.arange(30) // 2)
    p = am.predict(net, x, task="multiclass", batch_dim="whole", n_masks=128)
    metric = found["log_loss"]
    wanted = -p.mean[torch.arange(20), y[:20]].log().mean()
    assert metric.plug_in == pytest.approx(float(wanted), rel=1e-9)
    # Masks are shared, so that the spread over rows holds nothing of theirs: the errors add up.
    assert metric.error == pytest.approx(math.hypot(metric.masks_error, metric.data_error))
    assert (found.n_entries, found.n_groups) == (20, 10)
    assert any("are not independent" in note for note in found.notes)
    # Seeds that are independent differ by what the error says.
    off = [
        am.evaluate(net, x, y, batch_dim="whole", n_masks=128, seed=seed)["log_loss"].difference for seed in range(8)
    ]
    spread = np.std([d.value for d in off], ddof=1)
    assert spread == pytest.approx(np.sqrt(np.mean([d.masks_error**2 for d in off])), rel=0.7)
    with pytest.raises(ValueError, match="whole"):
        am.evaluate(net, x, y, n_masks=128)


def test_what_is_left_off_stays_as_in_eval_mode():
    torch.manual_seed(0)
    layers = [nn.Linear(4, 8), nn.RReLU(), nn.Dropout(0.5), nn.Linear(8, 3)]
    net, x, y = nn.Sequential(*layers).double(), torch.randn(40, 4).double(), torch.randint(0, 3, (40,))
    with pytest.raises(am.UncontrolledRandomness, match="leave_off"):
        am.evaluate(net, x, y, n_masks=64)
    found = am.evaluate(net, x, y, leave_off="1", budget=2**20)
    plain = nn.Sequential(layers[0], nn.LeakyReLU((1 / 8 + 1 / 3) / 2), *layers[2:])
    assert found["log_loss"].value == pytest.approx(am.evaluate(plain, x, y)["log_loss"].value, abs=1e-12)
    assert any("leave_off" in note for note in found.notes)


@pytest.mark.slow
def test_two_ranks_give_what_one_process_gives(tmp_path):
    run = torchrun(2, tmp_path / "found.npy", script=Path(__file__).with_name("evaluated_ranks.py"))
    assert run.returncode == 0, run.stdout + run.stderr
    wanted = figures(*problem(), torch.arange(43) // 4)
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), wanted, rtol=1e-7, atol=1e-9)
