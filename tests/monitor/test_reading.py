"""A reading is what the library says when it is asked directly, and it leaves no trace."""

import math

import pytest
import torch
from torch import nn

import allmasks as am
from allmasks.monitor import read
from monitor.nets import data, net


def test_it_is_what_direct_calls_say():
    model = net()
    reading = read(model, data(), "cross_entropy", n_masks=512, seed=3)
    with torch.no_grad():
        direct = am.expected_loss(model, *data(), "cross_entropy", n_masks=512, seed=3)
    audit = am.audit(model, data(), "cross_entropy", n_masks=512, seed=3, instruments=False, progress=False)
    assert reading.expected_loss == float(direct.value)
    assert reading.expected_loss_error == float(direct.error)
    assert reading.weight_scaling_loss == float(direct.weight_scaling_loss)
    assert (reading.penalty, reading.penalty_error) == (float(direct.penalty), float(direct.penalty_error))
    assert (reading.guarantee, reading.n_masks) == ("statistical", 512)
    found = [(s.name, s.penalty, s.penalty_error) for s in reading.sites]
    assert found == [(s.site.name, s.alone, s.alone_error) for s in audit.per_site]
    assert [s.p for s in reading.sites] == [0.3, 0.5]


def test_the_share_is_told_with_its_error():
    """Against the exact share, by enumeration; a share off by a tenth is caught by the same test."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Dropout(0.3), nn.Linear(5, 5), nn.ReLU(), nn.Dropout(0.5))
    model.append(nn.Linear(5, 3)).double()
    x, y = data()
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 2
    truth = read(model, (x.double(), y), "cross_entropy", method=am.methods.Enumeration())
    assert truth.guarantee == "exact"
    for seed in range(3):
        sampled = read(model, (x.double(), y), "cross_entropy", method=am.methods.MonteCarlo(n_masks=2048), seed=seed)
        assert sampled.guarantee == "statistical"
        for found, true in zip(sampled.sites, truth.sites, strict=True):
            assert true.share_error < 1e-9
            assert 0 < found.share_error < 0.02
            assert abs(found.share - true.share) < 4.5 * found.share_error
            assert abs(found.share * 1.1 + 0.1 - true.share) > 4.5 * found.share_error


def test_one_site_is_the_whole():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Dropout(0.4), nn.Linear(5, 1))
    x, _ = data()
    site = read(model, (x, torch.zeros(len(x), 1)), "squared_error").sites[0]
    assert site.share == pytest.approx(1, abs=1e-12)
    assert site.penalty > 0


def test_where_no_mask_varies_the_share_is_unknown_and_not_logged():
    model = net()
    for layer in (model[3], model[6]):
        layer.p = 0.0
    reading = read(model, data(), "cross_entropy")
    assert (reading.penalty, reading.guarantee) == (0.0, "exact")
    assert all(math.isnan(site.share) and site.penalty == 0 and site.p == 0 for site in reading.sites)
    assert set(reading.scalars()) - set(reading.finite()) == {
        f"allmasks/{name}/{site}" for name in ("share", "share_error") for site in ("3", "6")
    }
    assert reading.to_dict()["sites"][0]["share"] is None


def test_a_penalty_lost_in_its_error_has_no_share():
    model = net()
    with torch.no_grad():
        model[4].weight *= 1e-7
        model[7].weight *= 1e-7
    reading = read(model, data(), "cross_entropy", n_masks=256)
    for site in reading.sites:
        assert math.isnan(site.share) or abs(reading.penalty) >= 4 * reading.penalty_error
