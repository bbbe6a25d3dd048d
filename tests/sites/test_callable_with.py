"""A model, or what it is called with, that cannot be: one sentence with the remedy, wherever it is given."""

import numpy as np
import pytest
import torch
from torch import nn

import allmasks as am
from allmasks.diagnose import robustness
from allmasks.linear_model import DropoutRidge

X, Y = torch.linspace(-1, 1, 24).reshape(6, 4), torch.arange(6) % 3


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 3))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop, self.out = nn.Dropout(0.5), nn.Linear(4, 3)

    def forward(self, left, right):
        return self.out(self.drop(left + right))


CALLS = {
    "expected_loss": lambda model, x: am.expected_loss(model, x, Y, "cross_entropy"),
    "plan": lambda model, x: am.plan_expected_loss(model, x, Y, "cross_entropy"),
    "predict": lambda model, x: am.predict(model, x, task="multiclass"),
    "audit": lambda model, x: am.audit(model, (x, Y), "cross_entropy", progress=False),
    "robustness": lambda model, x: robustness(model, (x, Y), "cross_entropy"),
    "find_dropout": lambda model, x: am.find_dropout(model, x),
    "thinned": lambda model, x: am.thinned(model, x),
    "Monitor": lambda model, x: am.Monitor(model, (x, Y), "cross_entropy"),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_linear_estimator_is_told_what_to_call(call):
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module, got DropoutRidge: .*am\.expected_score_loss\("):
        CALLS[call](DropoutRidge(0.5), X)
    with pytest.raises(TypeError, match="got the class Two: call it first"):
        CALLS[call](Two, X)


@pytest.mark.parametrize("call", CALLS)
def test_inputs_that_the_model_does_not_take(call):
    with pytest.raises(TypeError, match=r"Two.forward\(left, right\) cannot be called with one input .*as a tuple"):
        CALLS[call](Two(), X)
    if call not in ("find_dropout", "thinned"):
        with pytest.raises(TypeError, match=r"the inputs are float64 and the model's weights float32: pass x.to"):
            CALLS[call](net(), X.double())


def test_what_the_sentence_advises_works():
    assert am.expected_loss(Two(), (X, X), Y, "cross_entropy").guarantee
    assert am.expected_loss(Two(), {"right": X, "left": X}, Y, "cross_entropy").guarantee
    assert am.expected_loss(net().to(torch.float64), X.double(), Y, "cross_entropy").guarantee
    with pytest.raises(TypeError, match=r"inputs named 'input', 'labels' .*; labels go where y is"):
        am.predict(net(), {"input": X, "labels": Y}, task="multiclass")


def test_an_error_of_the_model_itself_stays_its_own():
    class Broken(nn.Module):
        def forward(self, x):
            raise TypeError("inside forward")

    with pytest.raises(TypeError, match=r"^inside forward$"):
        am.find_dropout(Broken(), X)


@pytest.mark.parametrize("examples", [[(X[0], 1, 2)] * 3, [(X[0], 1)] * 3, [[X, Y, Y]]])
def test_lists_of_examples(examples):
    for call in (am.expected_loss, am.audit):
        with pytest.raises(TypeError, match=r"the data are a list of .*\(DataLoader\(examples, batch_size=…\)"):
            call(net(), examples, loss="cross_entropy")


@pytest.mark.parametrize("make", [am.nn.Dropout, am.nn.Dropout2d, am.nn.AlphaDropout, am.nn.GaussianDropout])
@pytest.mark.parametrize("p", ["0.5", None, [0.5]])
def test_a_rate_that_is_no_number(make, p):
    with pytest.raises(TypeError, match="p must be a number in"):
        make(p)
    with pytest.raises(TypeError, match="p must be a number"):
        am.expected_score(np.ones(2), np.ones((1, 2)), "0.5")
