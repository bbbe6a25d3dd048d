"""Dropout functions with a generator, which torch may gain: a stand-in is parsed, masked and reported."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import handle_torch_function, has_torch_function_unary

import allmasks as am
from allmasks.sites.calls import PARSERS


def dropout(input, p=0.5, training=True, inplace=False, generator=None):
    """F.dropout as it may come to be."""
    if has_torch_function_unary(input):
        return handle_torch_function(dropout, (input,), input, p, training, inplace, generator=generator)
    if not training:
        return input
    return input * torch.empty_like(input).bernoulli_(1 - p, generator=generator) / (1 - p)


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setitem(PARSERS, dropout, PARSERS[F.dropout])


class Net(nn.Module):
    def __init__(self, generator, positional):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 24), nn.Linear(24, 3)
        self.pass_on = (
            (lambda x: dropout(x, 0.3, self.training, False, generator))
            if positional
            else (lambda x: dropout(x, 0.3, self.training, generator=generator))
        )

    def forward(self, x):
        return self.b(self.pass_on(self.a(x).tanh()))


@pytest.mark.parametrize("positional", [True, False])
def test_it_is_a_site_and_its_masks_are_seen(positional):
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    model, x, y = Net(generator, positional), torch.randn(16, 6), torch.randint(0, 3, (16,))
    (site,) = am.find_dropout(model, x)
    assert (site.kind, site.p, site.shape) == ("dropout", 0.3, (24,))
    found = am.verify(model, x, y, "cross_entropy", passes=48)
    assert found.ok, found
    assert f"rate of {site.name}" in found.detectable
    assert torch.equal(generator.get_state(), before)


def test_one_that_is_reseeded_is_found():
    generator = torch.Generator()
    model, x, y = Net(generator, True), torch.randn(16, 6), torch.randint(0, 3, (16,))

    def step():
        generator.manual_seed(1)
        return F.cross_entropy(model(x), y)

    found = am.verify(model, x, y, "cross_entropy", step=step, passes=48)
    assert [finding.fault for finding in found.findings] == ["same_each_step"]
