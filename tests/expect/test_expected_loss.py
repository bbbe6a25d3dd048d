"""expected_loss against enumeration done by hand: each method in the sense of its own guarantee."""

import pytest
import torch

import allmasks as am
from allmasks.methods import ClosedForm, Enumeration, Fourier, MonteCarlo
from allmasks.samplers import Antithetic, Independent, LatinHypercube
from model_cases import CASES, ModelCase, brute_force
from truth import Biased, covered, z_score

cases = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)


def run(case: ModelCase, net, **kwargs):
    with torch.no_grad():
        return with_gradients(case, net, **kwargs)


def with_gradients(case: ModelCase, net, **kwargs):
    return am.expected_loss(net, case.x, case.y, case.loss, **kwargs)


@cases
def test_enumeration_is_the_truth_to_its_own_error(case):
    net = case.build()
    truth = brute_force(case, net).detach()
    result = run(case, net, method=Enumeration())
    assert result.guarantee == "exact"
    assert result.n_masks == 2**case.bits
    assert bool(((result.per_example - truth).abs() <= result.per_example_error).all())
    assert abs(float(result.value - truth.mean())) <= float(result.error) <= 1e-11
    assert float(result.penalty) == pytest.approx(float(truth.mean() - result.weight_scaling_loss), abs=1e-12)


@cases
def test_the_automatic_choice_is_exact_here(case):
    net = case.build()
    truth = brute_force(case, net).detach()
    result = run(case, net)
    assert result.guarantee in ("exact", "bounded")
    assert bool(((result.per_example - truth).abs() <= result.per_example_error).all())
    alone = len(case.widths) == 1 and case.name.startswith("last") and "three classes" not in case.name
    expected = (Fourier if case.loss in ("logistic", "cross_entropy") else ClosedForm) if alone else Enumeration
    assert type(result.method) is expected


@cases
@pytest.mark.parametrize("sampler", [Independent(), Antithetic(), LatinHypercube()], ids=lambda s: type(s).__name__)
def test_monte_carlo_agrees_with_the_truth(case, sampler):
    net = case.build()
    truth = brute_force(case, net).detach()
    result = run(case, net, method=MonteCarlo(n_masks=1024, sampler=sampler), seed=5)
    assert result.guarantee == "statistical"
    assert result.n_masks in (1024, 0)
    if float(result.error) > 1e-12:
        assert abs(z_score(result.value, truth.mean(), result.error, result.n_replicates)) < 4.5
    for i in range(len(truth)):
        if float(result.per_example_error[i]) > 1e-12:
            z = z_score(result.per_example[i], truth[i], result.per_example_error[i], result.n_replicates)
            assert abs(z) < 4.5


SENSITIVE = [case for case in CASES if case.name in ("last site, squared", "last site, poisson")]
"""Cases whose loss moves with the keep probability at first order."""


@pytest.mark.parametrize("case", SENSITIVE, ids=lambda c: c.name)
def test_a_keep_probability_off_by_one_percent_is_caught(case):
    net = case.build()
    truth = brute_force(case, net).detach().mean()
    scores = []
    for sampler in (LatinHypercube(), Biased()):
        result = run(case, net, method=MonteCarlo(n_masks=2**13, sampler=sampler))
        scores.append(abs(z_score(result.value, truth, result.error, result.n_replicates)))
    assert scores[0] < 4.5 < scores[1]


def coverage(case: ModelCase, sampler, seeds: int = 2000) -> float:
    """How often the 95 % interval of 256 masks holds the truth."""
    net = case.build()
    truth = float(brute_force(case, net).detach().mean())
    problem = am.expect.prepare(net, case.x, case.y, case.loss)
    method = MonteCarlo(n_masks=256, sampler=sampler)
    requests = (am.expect.Request(method, seed=seed) for seed in range(seeds))
    return covered((problem.expected(request, grad=False).interval(0.95) for request in requests), truth)


@pytest.mark.slow
@pytest.mark.parametrize("case", [CASES[0], CASES[3], *SENSITIVE], ids=lambda c: c.name)
def test_intervals_cover_the_truth(case):
    assert 0.93 <= coverage(case, LatinHypercube()) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("case", SENSITIVE, ids=lambda c: c.name)
def test_intervals_of_a_biased_sampler_do_not(case):
    assert coverage(case, Biased(), seeds=500) < 0.93  # a quarter of the seeds is enough to see it


@cases
@pytest.mark.parametrize("method", [None, MonteCarlo(n_masks=256), Enumeration()], ids=repr)
def test_gradients_reach_the_parameters(case, method):
    net = case.build()
    result = with_gradients(case, net, method=method)
    result.value.backward()
    got = [p.grad.clone() for p in net.parameters()]
    if isinstance(method, MonteCarlo) and result.n_masks:
        # The gradient of the very estimate, by finite differences along a direction.
        direction = [torch.sign(g) for g in got]
        slope = sum(float((g * d).sum()) for g, d in zip(got, direction, strict=True))
        step = 1e-6
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                for p, d in zip(net.parameters(), direction, strict=True):
                    p.add_(sign * step * d)
                values.append(float(run(case, net, method=method).value))
                for p, d in zip(net.parameters(), direction, strict=True):
                    p.sub_(sign * step * d)
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, rel=1e-5)
        return
    net.zero_grad()
    brute_force(case, net).mean().backward()
    for mine, parameter in zip(got, net.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-9, atol=1e-11)


def test_sample_weight_weighs_values_and_errors():
    case = CASES[3]
    net = case.build()
    truth = brute_force(case, net).detach()
    weight = torch.tensor([0.0, 1.0, 2.0, 0.5, 0.5])
    exact = run(case, net, method=Enumeration(), sample_weight=weight)
    assert float(exact.value) == pytest.approx(float((truth * weight).sum() / 4), abs=1e-12)
    heavy = run(case, net, method=MonteCarlo(n_masks=512), sample_weight=[0, 0, 0, 0, 1])
    assert float(heavy.error) == pytest.approx(float(heavy.per_example_error[4]), rel=1e-9)


def test_tolerance_fixes_the_masks_by_a_pilot():
    case = CASES[3]
    net = case.build()
    truth = brute_force(case, net).detach().mean()
    result = run(case, net, method=MonteCarlo(atol=2e-3))
    assert float(result.error) <= 2e-3 * 1.3
    assert abs(z_score(result.value, truth, result.error, result.n_replicates)) < 4.5
    # No peeking: the same n given directly gives the same answer.
    again = run(case, net, method=MonteCarlo(n_masks=result.n_masks))
    assert float(again.value) == float(result.value)
    with pytest.raises(ValueError, match="is within reach, or pass a larger budget"):
        run(case, net, method=MonteCarlo(atol=1e-9))


def test_more_masks_never_change_the_first():
    case = CASES[3]
    net = case.build()
    few, many = (run(case, net, method=MonteCarlo(n_masks=n)) for n in (256, 512))
    torch.testing.assert_close(many.replicates[:32], few.replicates, rtol=1e-12, atol=0)
