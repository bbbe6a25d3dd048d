"""`predict` does what `plan_prediction` says: method, guarantee, masks; and refusals say what is needed."""

import re

import pytest
import torch
from torch import nn

import allmasks as am
from allmasks.errors import MethodNotApplicable, UncontrolledRandomness
from allmasks.methods import ClosedForm, Delta, Enumeration, Fourier, GaussianMoments, MonteCarlo
from model_cases import CASES, seeded

TASKS = {"cross_entropy": "multiclass", "logistic": "binary"}
REQUESTS = [
    {},
    {"n_masks": 40},
    {"budget": 100},
    {"keep_samples": True, "n_masks": 40},
    {"method": MonteCarlo(n_masks=33)},
    {"method": Enumeration()},
    {"method": Enumeration(max_masks=4)},
    {"method": ClosedForm()},
    {"method": Fourier()},
    {"method": Delta()},
    {"method": MonteCarlo(control="quadratic")},
]


def attempt(call, net, x, task, request):
    """What it returns, or the refusal."""
    try:
        return call(net, x, task=task, **request), None
    except MethodNotApplicable as refusal:
        return None, str(refusal)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_predictions_follow_their_plan(case):
    net, task, several = case.build(), TASKS.get(case.loss, "regression"), set()
    for request in REQUESTS:
        plan, refused = attempt(am.plan_prediction, net, case.x, task, request)
        result, refused_too = attempt(am.predict, net, case.x, task, request)
        assert refused == refused_too
        if plan is None:
            several.add("refused")
            continue
        assert (result.method, result.guarantee, result.n_masks) == (plan.method, plan.guarantee, plan.n_masks)
        assert plan.evaluations == max(plan.n_masks, 1) * len(case.x)
        assert sum(option is plan.chosen for option in plan.options) == 1
        assert all(plan.reasons)
        several.add(result.guarantee)
    assert several == {"exact", "statistical", "refused"}


def test_a_plan_prints_method_reason_refusals_and_cost():
    net = nn.Sequential(nn.Dropout(0.2), nn.Linear(4, 30), nn.Tanh(), nn.Dropout(0.5), nn.Linear(30, 3))
    text = repr(am.plan_prediction(net, torch.ones(5, 4), task="multiclass"))
    assert text.splitlines()[0] == "Plan for predictions: 5 examples, task multiclass"
    for said in (
        "chosen: MonteCarlo(sampler=LatinHypercube())",
        "LatinHypercube masks in blocks of 8",
        "guarantee: statistical (Monte Carlo standard error); cost: 1,280 evaluations",
        "Fourier: the softmax of 3 classes has no formula; two classes have",
        "ClosedForm: the softmax of 3 classes has no formula; two classes have",
        "Delta: it is for losses",
        "Enumeration: 34 random bits are 2^34 masks, more than max_masks=1048576",
    ):
        assert said in text
    tolerant = am.plan_prediction(net, torch.ones(5, 4), task="multiclass", atol=0.1)
    assert (tolerant.n_masks, tolerant.evaluations) == (0, None)
    assert "masks fixed by a pilot run" in repr(tolerant)


def last_site(outputs=1):
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, outputs))


def two_sites(outputs=1):
    return nn.Sequential(nn.Dropout(0.2), *last_site(outputs))


IT_OR_SAMPLES = r"Try method=None, Enumeration() or MonteCarlo()."

REFUSALS = [
    (two_sites(), "regression", {"method": ClosedForm()}, f"other sites are random too: 0. {IT_OR_SAMPLES}"),
    (
        last_site(3),
        "multiclass",
        {"method": Fourier()},
        f"the softmax of 3 classes has no formula; two classes have. {IT_OR_SAMPLES}",
    ),
    (
        last_site(),
        "binary",
        {"method": ClosedForm()},
        f"a binary prediction is integrated by Fourier(). {IT_OR_SAMPLES}",
    ),
    (
        last_site(),
        "regression",
        {"method": Fourier()},
        f"a regression prediction is integrated by ClosedForm(). {IT_OR_SAMPLES}",
    ),
    (last_site(), "regression", {"method": GaussianMoments()}, f"it is for losses. {IT_OR_SAMPLES}"),
    (
        last_site(),
        "regression",
        {"method": ClosedForm(), "keep_samples": True},
        f"keep_samples=False: nothing is sampled. {IT_OR_SAMPLES}",
    ),
    (
        two_sites(),
        "regression",
        {"method": Enumeration(), "keep_samples": True},
        "keep_samples=False: its masks are no sample. Try MonteCarlo().",
    ),
    (
        two_sites(),
        "regression",
        {"method": Enumeration(max_masks=8)},
        "10 random bits are 2^10 masks, more than max_masks=8. Try method=None or MonteCarlo().",
    ),
    (
        two_sites(),
        "regression",
        {"method": MonteCarlo(control="quadratic")},
        'control="quadratic" is for the cross-entropy of expected_loss. Try MonteCarlo() without it.',
    ),
    (
        nn.Sequential(nn.Dropout(0.2), nn.Linear(4, 1), nn.Tanh()),
        "regression",
        {"method": ClosedForm()},
        f"no random site feeds a Linear whose output is the model's output. {IT_OR_SAMPLES}",
    ),
]


@pytest.mark.parametrize(("net", "task", "asked", "text"), REFUSALS, ids=[case[-1] for case in REFUSALS])
def test_what_does_not_apply_says_what_it_needs(net, task, asked, text):
    for call in (am.plan_prediction, am.predict):
        with pytest.raises(MethodNotApplicable, match=re.escape(f"does not apply here: {text}")):
            call(net, torch.ones(3, 4), task=task, **asked)


def test_no_dropout_leaves_nothing_to_choose():
    net = seeded(lambda: nn.Linear(4, 1))
    for method in (None, Enumeration(), MonteCarlo()):
        plan = am.plan_prediction(net, torch.ones(3, 4).double(), task="regression", method=method)
        assert (plan.method, plan.guarantee, plan.n_masks) == (method or ClosedForm(), "exact", 0)
        assert am.predict(net, torch.ones(3, 4).double(), task="regression", method=method).method == plan.method


def test_a_site_without_masks_is_refused_by_the_plan():
    class Stuck(nn.Module):
        def forward(self, x):
            return nn.functional.dropout(x, 1.0, self.training)

    with pytest.raises(UncontrolledRandomness, match="these dropout sites cannot be given masks"):
        am.plan_prediction(Stuck(), torch.ones(3, 4), task="regression")


def test_a_plan_draws_no_mask_and_leaves_the_model_alone():
    net, before = two_sites().train(), torch.random.get_rng_state()
    am.plan_prediction(net, torch.ones(3, 4), y=torch.ones(3, 1), noise_precision=1.0, task="regression")
    assert net.training
    assert torch.equal(before, torch.random.get_rng_state())
