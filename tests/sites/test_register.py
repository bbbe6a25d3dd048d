"""Hand-written dropout made a site, in two lines."""

import pytest
import torch
from torch import nn

import allmasks as am


def rare(x, rate=0.25):
    return x * (torch.randint(0, 100, x.shape) >= 100 * rate) / (1 - rate)


def net(drop):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.out = nn.Linear(3, 1).double()

        def forward(self, x):
            return self.out(drop(x) if self.training else x)

    return Net()


X, Y = torch.ones(4, 3).double(), torch.zeros(4, 1).double()


def test_a_decorator_with_settings_and_a_call_with_them_are_the_same():
    decorated = am.register_dropout(p="rate")(rare)
    called = am.register_dropout(rare, p="rate")
    one, other = (am.expected_loss(net(drop), X, Y, "squared_error") for drop in (decorated, called))
    assert one.guarantee == "exact"
    assert torch.equal(one.value, other.value)
    dropout = am.expected_loss(net(lambda x: nn.functional.dropout(x, 0.25)), X, Y, "squared_error")
    assert torch.equal(one.value, dropout.value)


def test_a_class_under_the_decorator_stays_that_class():
    @am.register_dropout(p="rate", sharing="row")
    class Rows(nn.Module):
        rate = 0.1

        def forward(self, x):
            return x * (torch.randint(0, 10, (len(x), 1)) >= 1) / 0.9 if self.training else x

    assert isinstance(Rows(), nn.Module)
    (site,) = am.find_dropout(nn.Sequential(Rows()), X)
    assert (site.name, site.kind, site.p, site.shape) == ("0", "Rows", 0.1, (1,))


def test_without_a_target_wrong_settings_are_still_refused():
    with pytest.raises(ValueError, match="sharing must be"):
        am.register_dropout(sharing="all")(rare)
    with pytest.raises(TypeError, match="takes a function or a subclass"):
        am.register_dropout(p=0.5)(3)
