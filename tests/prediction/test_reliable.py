"""`reliable` says what the masks drawn could have shown: runs that missed a rare event are flagged like the others.

A cell is a problem, a sampler and a number of masks; the same example under many keys is many runs of it.
"""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import allmasks as am
from allmasks.methods import Enumeration, MonteCarlo
from allmasks.prediction.foreseen import RareMasks, rare_masks
from allmasks.samplers import Independent, LatinHypercube
from allmasks.sites import find_dropout
from model_cases import generator, seeded

QUANTITIES = ("mean", "std", "entropy", "expected_entropy", "mutual_information", "log_likelihood")
X = torch.randn(1, 10, generator=generator(5), dtype=torch.float64)


class OneUnit(nn.Module):
    """One unit decides."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.drop, self.weight = nn.Dropout(p), torch.full((10,), 1e-4, dtype=torch.float64)
        self.weight[0] = 5.0 * (1 - p)

    def forward(self, x):
        return torch.tanh((self.drop(torch.ones_like(x)) * self.weight).sum(dim=1, keepdim=True))


def hidden(p, scale=2.0):
    return seeded(
        lambda: nn.Sequential(nn.Linear(10, 10), nn.Tanh(), nn.Dropout(p), nn.Linear(10, 3)), seed=1, scale=scale
    )


def inputs(p, outputs):
    return seeded(
        lambda: nn.Sequential(nn.Dropout(p), nn.Linear(10, 6), nn.ReLU(), nn.Linear(6, outputs)), seed=3, scale=1.5
    )


PROBLEMS = {
    "classes": (lambda p: hidden(p), "multiclass"),
    "confident": (lambda p: hidden(p, 6.0), "multiclass"),
    "classes of inputs": (lambda p: inputs(p, 3), "multiclass"),
    "regression": (lambda p: inputs(p, 1), "regression"),
    "binary": (lambda p: inputs(p, 1), "binary"),
    "one unit": (OneUnit, "regression"),
}


def cells(make, task, p, sampler, masks, runs):
    """(quantity, covered, reliable) of every output of many runs."""
    net = make(p)
    y = torch.tensor([1]) if task == "multiclass" else torch.ones(1, 1, dtype=torch.float64)
    keywords = {"task": task, "noise_precision": 2.0 if task == "regression" else None}
    exact = am.predict(net, X, y=y, method=Enumeration(), **keywords)
    many = am.predict(
        net,
        X.repeat(runs, 1),
        y=y.repeat(runs, *(1,) * (y.ndim - 1)),
        method=MonteCarlo(n_masks=masks, sampler=sampler),
        batch_size=200,
        **keywords,
    )
    for quantity in QUANTITIES:
        truth = getattr(exact, quantity)
        if truth is None:
            continue
        low, high = many.interval(0.95, quantity)
        off = getattr(exact, f"{quantity}_error")
        covered = ((low - off <= truth) & (truth <= high + off)).reshape(runs, -1)
        for c, r in zip(covered.T.numpy(), many.reliable[quantity].reshape(runs, -1).T.numpy(), strict=True):
            yield quantity, c, r


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [LatinHypercube(), Independent()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("p", [0.02, 0.5, 0.98])
@pytest.mark.parametrize("name", PROBLEMS)
def test_reliable_runs_cover_and_missing_ones_are_flagged(name, p, sampler):
    runs, make, task = 400, *PROBLEMS[name]
    for quantity, covered, reliable in cells(make, task, p, sampler, 256, runs):
        where = (quantity, covered.mean(), reliable.mean())
        if reliable.sum() >= 200:
            share, noise = covered[reliable].mean(), 3 * np.sqrt(0.92 * 0.08 / reliable.sum())
            assert share >= 0.92 - noise, (*where, share)
        if covered.mean() < 0.85:
            assert (~reliable)[~covered].mean() >= 0.95, where


def test_the_flag_is_seldom_raised_where_intervals_hold():
    for quantity, covered, reliable in cells(*PROBLEMS["classes"], 0.5, LatinHypercube(), 256, 300):
        assert covered.mean() > 0.91, quantity
        assert reliable.mean() > 0.9, quantity


def test_runs_that_missed_the_one_unit_are_flagged():
    """p = .999, one unit decides: of 256 masks 77 % of the runs never keep it, and say 0 ± 0."""
    net = OneUnit(0.999)
    found = am.predict(net, X.repeat(40, 1), task="regression", method=MonteCarlo(n_masks=256))
    assert not bool(found.reliable["mean"].any())
    silent = found.std[:, 0] < 0.03
    assert 20 < int(silent.sum()) < 40
    assert any("too few decide, or would, were they drawn" in note for note in found.notes)


def test_a_unit_that_decides_nothing_may_be_rare():
    """Of two sites the one that decides is seen often: the other's rate is no reason for a flag."""
    net = seeded(
        lambda: nn.Sequential(
            nn.Dropout(0.5), nn.Linear(12, 9), nn.Tanh(), nn.Dropout(0.001), nn.Linear(9, 9), nn.Tanh(), nn.Linear(9, 2)
        ),
        seed=2,
    )
    x = torch.randn(3, 12, generator=generator(1)).double()
    found = am.predict(net, x, task="multiclass", method=MonteCarlo(n_masks=256))
    assert bool(found.reliable["mean"].all())


def test_alike_masks_prove_nothing_unless_no_mask_matters():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.9999)

        def forward(self, x):
            h = self.drop(x)
            return torch.stack([h[:, 0], (h[:, 0] * 0.0) + x[:, 1]], dim=1)

    found = am.predict(Gate(), torch.ones(1, 2).double(), task="regression", method=MonteCarlo(n_masks=256))
    assert torch.isnan(found.mean_error).tolist() == [[True, False]]
    assert found.reliable["mean"].tolist() == [[False, True]]


@pytest.mark.parametrize("rates", [(0.3,), (0.9, 0.02)])
def test_weights_of_rare_masks_are_those_of_the_law(rates):
    """14 units: the mixture's weighted means of products of three bits are the law's, |z| < 4.5."""
    net = nn.Sequential(*[nn.Dropout(p) for p in rates], nn.Linear(14 // len(rates) * 1, 2))
    width = 14 // len(rates)
    sites = tuple(find_dropout(net, torch.randn(2, width)))
    source = rare_masks(sites, 2048)
    assert isinstance(source, RareMasks)
    assert len(source.weight) < 2**14
    bits = np.concatenate([source.bits[site.name] for site in sites], axis=1)
    keep = np.concatenate([site.law.keep_prob for site in sites])
    n = len(bits)
    for triple in itertools.islice(itertools.combinations(range(bits.shape[1]), 3), 0, None, 17):
        value = bits[:, triple].all(axis=1) * source.weight * n
        truth = keep[list(triple)].prod()
        assert abs(value.mean() - truth) < 4.5 * value.std() / np.sqrt(n) + 0.02 * truth, triple
    # Planted: masks drawn from the mixture and counted as if from the law.
    assert abs(bits.mean() - keep.mean()) > 0.03


def test_all_masks_where_they_are_few():
    sites = tuple(find_dropout(nn.Sequential(nn.Dropout(0.3), nn.Linear(5, 1)), torch.randn(2, 5)))
    source = rare_masks(sites, 256)
    assert source.n_masks == 32
    assert source.weight.sum() == pytest.approx(1.0)
    assert rare_masks(sites, 40, batched=False) is None


@pytest.mark.parametrize("masks", [1, 2, 3, 10, 31, 64, 100, 255])
def test_any_number_of_masks(masks):
    net = inputs(0.5, 2)
    found = am.predict(net, X, task="regression", method=MonteCarlo(n_masks=masks), keep_samples=True)
    assert (found.n_masks, len(found.samples)) == (masks, masks)
    torch.testing.assert_close(found.samples.mean(dim=0), found.mean)
    low, high = found.interval(0.95)
    if masks == 1:
        assert bool(torch.isnan(found.mean_error).all() and torch.isnan(low).all())
        assert any("One mask cannot show an error, so it is nan" in note for note in found.notes)
    else:
        assert bool((low < high).all())
    if masks < 32:
        assert not bool(found.reliable["mean"].any())
        assert any("cannot show what is rare" in note for note in found.notes)


def test_without_dropout_no_mask_is_drawn():
    assert am.predict(nn.Linear(3, 2), torch.randn(2, 3), n_masks=7).n_masks == 0


def test_n_masks_caps_what_is_listed_and_what_a_tolerance_draws():
    net = inputs(0.5, 2)
    assert am.predict(net, X, task="regression").guarantee == "exact"
    assert am.predict(net, X, task="regression", n_masks=1024).guarantee == "exact"
    few = am.predict(net, X, task="regression", n_masks=1023)
    assert (few.guarantee, few.n_masks) == ("statistical", 1023)
    capped = am.predict(net, X, task="regression", method=MonteCarlo(atol=1e-6, n_masks=300))
    assert capped.n_masks == 300
    assert any("n_masks=300 stopped the run at 300 masks: atol=1e-06 takes about" in n for n in capped.notes)
    met = am.predict(net, X, task="regression", method=MonteCarlo(atol=1.0, n_masks=3000))
    assert met.n_masks <= 3000
    assert any(f"atol=1 stopped the run at {met.n_masks} masks, before n_masks=3000" in note for note in met.notes)
    small = am.predict(net, X, task="regression", method=MonteCarlo(atol=1.0, n_masks=100))
    assert any("n_masks=100 stopped the run at 100 masks; a tolerance takes 256 or more" in n for n in small.notes)
    spent = am.predict(net, X, task="regression", method=MonteCarlo(atol=1e-6), budget=100 * len(X))
    assert (spent.n_masks, any("budget=" in note for note in spent.notes)) == (100, True)


def test_passes_that_cannot_be_batched_are_counted_as_they_cost():
    """An LSTM with 16 bits was to make 65 536 passes, one after another."""

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.LSTM(4, 8, num_layers=3, dropout=0.5, batch_first=True), nn.Linear(8, 1)

        def forward(self, x):
            return self.head(self.rnn(x)[0][:, -1])

    found = am.predict(Recurrent(), torch.randn(2, 1, 4), task="regression", n_masks=32)
    assert (found.guarantee, found.n_masks) == ("statistical", 32)


def test_a_tolerance_is_not_met_by_a_pilot_that_missed_what_matters():
    """The pilot's 256 masks hardly ever keep the unit: 0 ± 0 met any tolerance."""
    net = OneUnit(0.999)
    found = am.predict(net, X, task="regression", method=MonteCarlo(atol=5e-4))
    assert found.n_masks > 3500
    truth = am.predict(net, X, task="regression", method=Enumeration())
    assert abs(float(found.mean - truth.mean)) < 4.5 * 5e-4
