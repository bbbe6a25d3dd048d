"""The quadratic control variate changes the error, never the mean."""

import pytest
import torch

import allmasks as am
from allmasks.methods import MonteCarlo
from allmasks.samplers import Independent, LatinHypercube
from model_cases import CASES, brute_force

THREE = [c for c in CASES if c.name in ("two sites, classes", "last site, three classes")]


@pytest.mark.parametrize("case", THREE, ids=lambda c: c.name)
@pytest.mark.parametrize("sampler", [Independent(), LatinHypercube()], ids=lambda s: type(s).__name__)
def test_it_is_unbiased_and_lowers_the_error(case, sampler):
    net = case.build()
    truth = float(brute_force(case, net).detach().mean())
    results = []
    with torch.no_grad():
        for control in (None, "quadratic"):
            method = MonteCarlo(n_masks=8192, sampler=sampler, control=control)
            results.append(am.expected_loss(net, case.x, case.y, case.loss, method=method))
    for result in results:
        assert abs(float(result.value) - truth) < 4.5 * float(result.error)
    if case.name.startswith("last"):
        assert float(results[1].error) < 0.7 * float(results[0].error)


@pytest.mark.parametrize("run", [am.plan_expected_loss, am.expected_loss])
def test_it_names_what_it_needs(run):
    case = next(c for c in CASES if c.name == "first site, classes")
    with pytest.raises(am.MethodNotApplicable, match='control="quadratic" needs the cross-entropy'):
        run(case.build(), case.x, case.y, case.loss, method=MonteCarlo(n_masks=256, control="quadratic"))
