"""Mean, spread and entropies against enumeration by hand; exact paths to their own error, sampled ones by |z| < 4.5."""

import numpy as np
import pytest
import torch
from torch import nn

import allmasks as am
from allmasks.methods import ClosedForm, Enumeration, Fourier, MonteCarlo
from allmasks.samplers import Antithetic, Independent, LatinHypercube
from model_cases import every_thinned, generator, seeded
from truth import Biased, every_mask, z_score

QUANTITIES = ("mean", "std", "entropy", "expected_entropy", "mutual_information")
X = torch.randn(4, 3, generator=generator(4), dtype=torch.float64)


def two_sites(outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.3), nn.Linear(4, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, outputs)
    )


def last_only(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Dropout(0.4), nn.Linear(7, outputs))


def big_last(outputs: int) -> nn.Module:
    """Enough below the last layer that its masks are nested."""
    layers = [nn.Dropout(0.3), nn.Linear(3, 90), nn.Tanh(), nn.Linear(90, 5), nn.Tanh(), nn.Dropout(0.5)]
    return nn.Sequential(*layers, nn.Linear(5, outputs))


CASES = {
    "two sites, regression": (lambda: two_sites(2), (4, 5), "regression"),
    "two sites, binary": (lambda: two_sites(1), (4, 5), "binary"),
    "two sites, classes": (lambda: two_sites(3), (4, 5), "multiclass"),
    "last, regression": (lambda: last_only(2), (7,), "regression"),
    "last, binary": (lambda: last_only(2), (7,), "binary"),
    "last, two classes": (lambda: last_only(2), (7,), "multiclass"),
    "last, three classes": (lambda: last_only(3), (7,), "multiclass"),
    "nested, classes": (lambda: big_last(3), (3, 5), "multiclass"),
    "nested, binary": (lambda: big_last(1), (3, 5), "binary"),
}
cases = pytest.mark.parametrize("name", CASES)


def build(name):
    make, widths, task = CASES[name]
    return seeded(make, seed=2, scale=1.5), widths, task


def every_output(net, widths):
    """(masks, n, k) outputs and (masks,) probabilities, dropout layers replaced by fixed masks."""
    with torch.no_grad():
        weights, outputs = zip(*((weight, under(X)) for weight, under in every_thinned(net, widths)), strict=True)
    return torch.stack(outputs), torch.tensor(weights, dtype=torch.float64)


def truth(net, widths, task):
    z, w = every_output(net, widths)
    v = {"regression": lambda: z, "binary": z.sigmoid, "multiclass": lambda: z.softmax(-1)}[task]()
    w = w[:, None, None]
    mean = (w * v).sum(0)
    found = {"mean": mean, "std": (w * (v - mean) ** 2).sum(0).sqrt()}
    if task != "regression":

        def h(p):
            return -(p * p.log()).sum(-1) if task == "multiclass" else -(p * p.log() + (1 - p) * (1 - p).log())

        each = h(v)
        found["entropy"] = h(mean)
        found["expected_entropy"] = (w[..., 0] if task == "multiclass" else w).mul(each).sum(0)
        found["mutual_information"] = found["entropy"] - found["expected_entropy"]
    return found


@cases
@pytest.mark.parametrize("method", [None, Enumeration()], ids=repr)
def test_exact_answers_hold_to_their_own_error(name, method):
    net, widths, task = build(name)
    result = am.predict(net, X, task=task, method=method)
    assert result.guarantee == "exact"
    for quantity, value in truth(net, widths, task).items():
        error = getattr(result, f"{quantity}_error")
        assert bool(((getattr(result, quantity) - value).abs() <= error).all()), quantity
        assert float(error.max()) < 1e-9
    alone = name.startswith("last") and "three" not in name
    if method is None and alone:
        assert isinstance(result.method, ClosedForm if task == "regression" else Fourier)


@cases
@pytest.mark.parametrize("sampler", [Independent(), Antithetic(), LatinHypercube()], ids=lambda s: type(s).__name__)
def test_sampled_answers_agree_with_the_truth(name, sampler):
    net, widths, task = build(name)
    result = am.predict(net, X, task=task, method=MonteCarlo(n_masks=1024, sampler=sampler), seed=6)
    assert result.guarantee == "statistical"
    for quantity, value in truth(net, widths, task).items():
        error = getattr(result, f"{quantity}_error")
        if float(error.max()) < 1e-11:  # a single site integrated by formula
            torch.testing.assert_close(getattr(result, quantity), value)
            continue
        assert np.abs(z_score(getattr(result, quantity), value, error, result.n_replicates)).max() < 4.5, quantity


def test_a_biased_sampler_is_caught():
    net, widths, task = build("two sites, regression")
    expected = truth(net, widths, task)
    result = am.predict(net, X, task=task, method=MonteCarlo(n_masks=16384, sampler=Biased(by=0.03)))
    for quantity in ("mean", "std"):
        error = getattr(result, f"{quantity}_error")
        assert np.abs(z_score(getattr(result, quantity), expected[quantity], error, 64)).max() > 4.5


def test_the_likelihood_of_targets():
    net, widths, _ = build("two sites, regression")
    y = torch.randn(4, 2, generator=generator(9), dtype=torch.float64)
    z, w = every_output(net, widths)
    density = (0.5 * np.log(2.5 / (2 * np.pi)) - 1.25 * (z - y) ** 2).sum(-1).exp()
    expected = (w[:, None] * density).sum(0).log()
    exact = am.predict(net, X, task="regression", y=y, noise_precision=2.5)
    torch.testing.assert_close(exact.log_likelihood, expected, rtol=1e-10, atol=1e-10)
    sampled = am.predict(net, X, task="regression", y=y, noise_precision=2.5, method=MonteCarlo(n_masks=2048))
    assert np.abs(z_score(sampled.log_likelihood, expected, sampled.log_likelihood_error, 64)).max() < 4.5
    torch.testing.assert_close(exact.total_std, (exact.std**2 + 1 / 2.5).sqrt())
    net, widths, _ = build("nested, classes")
    classes = torch.tensor([0, 2, 1, 1])
    z, w = every_output(net, widths)
    expected = (w[:, None] * z.softmax(-1)[:, torch.arange(4), classes]).sum(0).log()
    for method in (None, MonteCarlo(n_masks=2048)):
        found = am.predict(net, X, y=classes, method=method, task="multiclass")
        error = found.log_likelihood_error.clamp(min=1e-12)
        assert np.abs(z_score(found.log_likelihood, expected, error, 64)).max() < 4.5


@pytest.mark.parametrize("target", [0.3, -2.0, 30.0])
@pytest.mark.parametrize("name", ["last only", "below too"])
def test_the_likelihood_with_the_last_layer_integrated(name, target):
    make, widths = {"last only": (last_only, (7,)), "below too": (big_last, (3, 5))}[name]
    net = seeded(lambda: make(1), seed=2, scale=1.5)
    y = torch.full((4, 1), target, dtype=torch.float64)
    z, w = every_output(net, widths)
    logs = (0.5 * np.log(2.5 / (2 * np.pi)) - 1.25 * (z - y) ** 2)[..., 0]
    expected = torch.logsumexp(w.log()[:, None] + logs, dim=0)
    method = None if name == "last only" else MonteCarlo(n_masks=4096)
    found = am.predict(net, X, task="regression", y=y, noise_precision=2.5, method=method)
    if name == "last only":
        assert isinstance(found.method, ClosedForm)
        assert bool(((found.log_likelihood - expected).abs() <= found.log_likelihood_error).all())
        assert float(found.log_likelihood_error.max()) < 1e-9
    else:
        assert found.guarantee == "statistical"
        assert np.abs(z_score(found.log_likelihood, expected, found.log_likelihood_error, 64)).max() < 4.5


@pytest.mark.parametrize("p", [0.005, 0.5, 0.97])
@pytest.mark.parametrize("spread", [0.3, 3.0, 30.0, 300.0])
def test_an_integrated_likelihood_keeps_its_digits(p, spread):
    from allmasks.prediction.density import log_gaussian_likelihood

    terms = spread * torch.randn(20, 9, generator=generator(3), dtype=torch.float64)
    y = spread * torch.linspace(-12.0, 12.0, 20, dtype=torch.float64)
    bits, weight = (torch.from_numpy(v) for v in every_mask([p] * 9))
    logs = 0.5 * np.log(0.7 / (2 * np.pi)) - 0.35 * (0.4 + terms @ bits.t() - y[:, None]) ** 2
    expected = torch.logsumexp(weight.log() + logs, dim=1)
    found = log_gaussian_likelihood(terms, 0.4, p, y, 0.7)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-10)


def test_a_likelihood_that_one_mask_decides_stays_below_its_bound_and_is_flagged():
    net = nn.Sequential(nn.Dropout(0.004), nn.Linear(6, 1, bias=False)).double()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[20.0, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3]]))
    x = torch.ones(50, 6, dtype=torch.float64)
    y = torch.zeros(50, 1, dtype=torch.float64)  # only where the first unit is dropped
    found = am.predict(net, x, task="regression", y=y, noise_precision=1.0, method=MonteCarlo(n_masks=256))
    assert float(found.log_likelihood.max()) < -0.5 * np.log(2 * np.pi)
    assert not bool(found.reliable["log_likelihood"].any())


def test_the_likelihood_of_a_binary_head_is_exact():
    net = seeded(lambda: last_only(1), seed=2, scale=1.5)
    y = torch.tensor([[0.0], [1.0], [1.0], [0.0]], dtype=torch.float64)
    z, w = every_output(net, (7,))
    chance = (w[:, None, None] * torch.where(y.bool(), z.sigmoid(), 1 - z.sigmoid())).sum(0)[:, 0]
    found = am.predict(net, X, task="binary", y=y)
    assert found.guarantee == "exact"
    assert bool(((found.log_likelihood - chance.log()).abs() <= found.log_likelihood_error).all())


def test_samples_quantiles_and_their_mean():
    net, _widths, _ = build("two sites, regression")
    result = am.predict(net, X, task="regression", keep_samples=True, n_masks=512, noise_precision=4.0)
    assert result.samples.shape == (512, 4, 2)
    torch.testing.assert_close(result.samples.mean(dim=0), result.mean)
    low, high = result.quantile([0.05, 0.95])
    assert bool(((low < result.mean) & (result.mean < high)).all())
    noisy = result.quantile(0.5, noise=True)
    z = result.samples
    below = torch.special.ndtr((noisy - z) * 2.0).mean(dim=0)
    torch.testing.assert_close(below, torch.full_like(below, 0.5), rtol=1e-9, atol=1e-9)


def test_the_gap_is_that_to_eval_mode():
    net, _widths, task = build("two sites, classes")
    result = am.predict(net, X, task=task)
    with torch.no_grad():
        torch.testing.assert_close(result.weight_scaling, net.eval()(X).softmax(-1))
    torch.testing.assert_close(result.gap, result.mean - result.weight_scaling)
