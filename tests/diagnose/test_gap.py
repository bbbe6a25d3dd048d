"""Training loss against validation loss, taken apart: against hand-written loops and enumeration."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import allmasks as am
from allmasks.diagnose.gap import held_out, loss_gap
from allmasks.language import translator


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 6), nn.Tanh(), nn.Dropout(0.4), nn.Linear(6, 4), nn.Dropout(0.25), nn.Linear(4, 3)
    )


@pytest.fixture
def data():
    torch.manual_seed(1)
    x, y = torch.randn(25, 3), torch.randint(0, 3, (25,))
    return (x[:15], y[:15]), (x[15:], y[15:])


def enumerated(net, x, y):
    """E_m[L] over all 2^10 masks by a loop."""
    total = torch.zeros((), dtype=torch.float64)
    first, tanh, _, second, _, third = net
    for bits in itertools.product((0, 1), repeat=10):
        m = torch.tensor(bits, dtype=torch.float32)
        h = tanh(first(x)) * m[:6] / 0.6
        out = third(second(h) * m[6:] / 0.75)
        chance = math.prod((0.6 if b else 0.4) for b in bits[:6]) * math.prod((0.75 if b else 0.25) for b in bits[6:])
        total += chance * nn.functional.cross_entropy(out.double(), y)
    return float(total)


def test_both_parts_are_those_of_a_hand_written_loop(net, data):
    train, validation = data
    found = am.audit(net, train, "cross_entropy", validation=validation, instruments=False, progress=False).gap
    with torch.no_grad():
        losses = [nn.functional.cross_entropy(net.eval()(x).double(), y, reduction="none") for x, y in data]
        expected = enumerated(net, *train)
    assert found.guarantee == "exact"
    assert found.training == pytest.approx(expected, rel=1e-6)
    assert found.training_eval == pytest.approx(float(losses[0].mean()), rel=1e-6)
    assert found.validation == pytest.approx(float(losses[1].mean()), rel=1e-6)
    assert found.dropout == pytest.approx(expected - float(losses[0].mean()), rel=1e-5)
    assert found.generalization == pytest.approx(float(losses[1].mean() - losses[0].mean()), rel=1e-5)
    assert found.gap == pytest.approx(found.dropout - found.generalization, abs=1e-12)
    standard = float(losses[1].std() / math.sqrt(10))
    assert found.validation_error == found.generalization_error == pytest.approx(standard, rel=1e-6)
    assert found.dropout_error < 1e-5
    assert (found.n_training, found.n_validation) == (15, 10)


def test_the_error_over_examples_covers_what_it_claims(net):
    """Validation sets drawn anew from one distribution: the generalization's error is their spread."""
    torch.manual_seed(3)
    train = torch.randn(10, 3), torch.randint(0, 3, (10,))
    scores = []
    x, y = torch.randn(20_000, 3), torch.randint(0, 3, (20_000,))
    with torch.no_grad():
        truth = float(nn.functional.cross_entropy(net.eval()(x), y))
    with torch.no_grad():
        expected = am.expected_loss(net, train, "cross_entropy")
    for rows in torch.arange(20_000).split(50)[:100]:
        other = held_out(net, (x[rows], y[rows]), "cross_entropy", paired=True)
        gap = loss_gap(expected, other)
        scores.append((gap.validation - truth) / gap.generalization_error)
    assert abs(torch.tensor(scores).mean()) < 4.5 / math.sqrt(100)
    assert 0.75 < float(torch.tensor(scores).std()) < 1.35


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 2.0, 0.5])])
def test_loss_modules_and_loaders(net, data, weights):
    (x, y), (xv, yv) = data
    loss = nn.CrossEntropyLoss(weights)
    loaders = [DataLoader(TensorDataset(*part), batch_size=4) for part in data]
    found = am.audit(net, loaders[0], loss, validation=loaders[1], instruments=False, progress=False).gap
    with torch.no_grad():
        assert found.validation == pytest.approx(float(loss(net.eval()(xv), yv)), rel=1e-6)
        assert found.training_eval == pytest.approx(float(loss(net.eval()(x), y)), rel=1e-6)
    again = am.audit(net, x, y, loss, validation=(xv, yv), instruments=False, progress=False).gap
    assert again.gap == pytest.approx(found.gap, abs=1e-7)


def test_sampled_masks_and_one_validation_example(net, data):
    (x, y), (xv, yv) = data
    method = am.methods.MonteCarlo(n_masks=64)
    found = am.audit(
        net, (x, y), "cross_entropy", validation=(xv, yv), method=method, instruments=False, progress=False
    ).gap
    assert found.guarantee == "statistical"
    assert found.gap_error == pytest.approx(math.hypot(found.dropout_error, found.generalization_error), rel=0.01)
    one = am.audit(net, (x, y), "cross_entropy", validation=(xv[:1], yv[:1]), instruments=False, progress=False)
    assert math.isnan(one.gap.generalization_error)
    assert "generalization" in repr(one.gap)
    assert "± unknown" in repr(one)


def test_what_cannot_be_compared_is_refused_before_any_work(net, data):
    train, validation = data
    with pytest.raises(ValueError, match=r'is summed over examples.*give a mean, such as reduction="mean"'):
        am.audit(net, train, nn.CrossEntropyLoss(reduction="sum"), validation=validation, progress=False)
    with pytest.raises(TypeError, match=r"data must be a pair \(x, y\)"):
        am.audit(net, train, "cross_entropy", validation=validation[0], progress=False)


def test_the_model_comes_back_as_it_was(net, data):
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    am.audit(net, data[0], "cross_entropy", validation=data[1], instruments=False, progress=False)
    assert net.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_the_sentence_follows_the_signs_in_both_languages(net, data):
    train, validation = data
    for y in (validation[1], (validation[1] + 1) % 3):
        gap = am.audit(
            net, train, "cross_entropy", validation=(validation[0], y), instruments=False, progress=False
        ).gap
        assert ("above the validation loss" if gap.gap >= 0 else "below the validation loss") in gap.explanation
        korean = gap.explanation.said(translator("ko"))
        assert "검증 손실" in korean
        assert "{" not in korean
        assert "loss" not in korean
