"""Every method of the table, whatever it is: held against enumeration by its guarantee, or refusing in one sentence."""

import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import allmasks as am
from allmasks.losses import LOSSES
from allmasks.methods import METHODS, Delta, MonteCarlo
from allmasks.methods.base import Method
from allmasks.methods.options import Option
from allmasks.samplers import Independent
from truth import Biased, every_mask, z_score

rng = np.random.default_rng(3)
W, X, B = rng.standard_normal(6), rng.standard_normal((4, 6)), 0.3
P = np.array([0.5, 0.2, 0.0, 0.7, 0.5, 0.1])
Y = {
    "squared_error": rng.standard_normal(4),
    "logistic": np.array([0.0, 1.0, 0.3, 1.0]),
    "poisson": np.array([0.0, 3.0, 1.0, 2.0]),
    "exponential": np.array([-1.0, 1.0, 1.0, -1.0]),
}
MASKS, WEIGHT = every_mask(P)
SCORES = (MASKS / (1 - P) * W) @ X.T + B


def squashed(s):
    return np.tanh(s) ** 2


CASES = [*LOSSES, squashed]


def exact(loss) -> np.ndarray:
    """E L of each row."""
    values = LOSSES[loss].value(SCORES, Y[loss]) if isinstance(loss, str) else loss(SCORES)
    return WEIGHT @ values


def held(value, error, truth, guarantee, replicates) -> bool:
    """Whether the truth is where the guarantee says."""
    if guarantee == "statistical":
        return bool((np.abs(z_score(value, truth, error, replicates)) < 4.5).all())
    if guarantee == "uncontrolled":
        return bool(np.isnan(error).all() and np.isfinite(value).all())
    return bool((np.abs(value - truth) <= error).all())


def answered(method, loss):
    return am.expected_score_loss(W, X, Y.get(loss, np.zeros(4)), P, loss=loss, intercept=B, method=method)


def or_refusal(call):
    try:
        return call()
    except am.MethodNotApplicable as refused:
        return refused


@pytest.mark.parametrize("loss", CASES, ids=lambda loss: getattr(loss, "__name__", loss))
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_score_is_held_against_every_mask(method, loss):
    result = or_refusal(lambda: answered(method, loss))
    if isinstance(result, am.MethodNotApplicable):
        assert str(result).startswith(f"{method.name} does not apply here: ")
        for other in result.try_instead.split(", "):
            if other.endswith("()"):
                answered(getattr(am.methods, other.removesuffix("()"))(), loss)
        return
    assert result.method == method
    truth = exact(loss)
    assert held(result.per_example, result.per_example_error, truth, result.guarantee, result.n_replicates)
    assert held(result.value, result.error, truth.mean(), result.guarantee, result.n_replicates)


def test_the_same_test_sees_a_planted_bias():
    result = answered(MonteCarlo(n_masks=16384, sampler=Biased(by=0.1)), "logistic")
    truth = exact("logistic")
    assert not held(result.per_example, result.per_example_error, truth, result.guarantee, result.n_replicates)
    closed = answered(None, "poisson")
    assert not held(closed.value, closed.error, exact("poisson").mean() * (1 + 1e-9), closed.guarantee, 0)


LINKS = {"logistic": lambda s: 1 / (1 + np.exp(-s)), "identity": lambda s: s, "log": np.exp}


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_moments_are_held_against_every_mask(method, link):
    values = LINKS[link](SCORES)
    mean = WEIGHT @ values
    variance = WEIGHT @ (values - mean) ** 2
    result = or_refusal(lambda: am.expected_score(W, X, P, link=link, intercept=B, method=method))
    if isinstance(result, am.MethodNotApplicable):
        assert f"{method.name} does not apply here: it has no moments for the {link} link" in str(result)
    elif result.guarantee != "uncontrolled":
        rounding = 1e-13 * (1 + variance)  # the truth's own
        assert held(result.mean, result.mean_error + rounding, mean, result.guarantee, 0)
        assert held(result.variance, result.variance_error + rounding, variance, result.guarantee, 0)


class Halfway(Method):
    """A method that nobody registered: the second-order form, for squares."""

    def integrates(self, loss):
        return "estimated" if loss == "squared_error" else None

    def on_scores(self, asked):
        return Delta().on_scores(asked)


def test_a_method_of_ones_own_is_planned_and_run_for_models():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1)).double()
    x, y = torch.randn(5, 3).double(), torch.randn(5, 1).double()
    plan = am.plan_expected_loss(net, x, y, "squared_error", method=Halfway())
    assert (plan.method, plan.guarantee) == (Halfway(), "estimated")
    assert "feeds the last Linear: Halfway over all its masks" in repr(plan)
    assert "Halfway" not in repr(am.plan_expected_loss(net, x, y, "squared_error"))
    result = am.expected_loss(net, x, y, "squared_error", method=Halfway())
    # The second order is all there is of a square.
    assert result.method == Halfway()
    exact = am.expected_loss(net, x, y, "squared_error")
    assert result.value.item() == pytest.approx(exact.value.item(), rel=1e-12)
    with pytest.raises(am.MethodNotApplicable, match="Halfway does not apply here: a loss it has a formula for"):
        am.expected_loss(net, x, y.abs(), "poisson", method=Halfway())


def test_a_value_that_does_nothing_refuses_everything():
    class Nothing(Method):
        pass

    with pytest.raises(am.MethodNotApplicable, match=r"Nothing does not apply here: it is not for scores. Try F"):
        answered(Nothing(), "logistic")
    with pytest.raises(am.MethodNotApplicable, match=r"no moments for the log link. Try method=None, Enum"):
        am.expected_score(W, X, P, link="log", method=Nothing())


def test_a_file_needs_no_list_of_its_names(tmp_path, monkeypatch):
    """A method is found by what it is; its base, with a name of its own that begins with _, is none."""
    text = "from allmasks.methods.base import Method\nclass _Base(Method): pass\nclass Unlisted(_Base): pass\n"
    (tmp_path / "unlisted.py").write_text(text)
    with monkeypatch.context() as patched:
        patched.setattr(am.methods, "__path__", [str(tmp_path)])
        found = am.methods._found()
    del am.methods.Unlisted, sys.modules["allmasks.methods.unlisted"]
    assert [kind.__name__ for kind in found] == ["Unlisted"]


@dataclass(frozen=True, repr=False)
class Draws(Method):
    """Independent masks, and no more to it."""

    def on_model(self, averaged, sites, request):
        return (Option(self, "independent masks", "statistical", 64, sites=sites, sampler=Independent()),)


def test_masks_of_an_own_method_are_judged_as_others_are():
    """An error that the masks drawn cannot have shown is flagged whichever method drew them."""
    torch = pytest.importorskip("torch")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torch.nn.Sequential(
            torch.nn.Dropout(0.001), torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)
        )
    x, y = torch.ones(3, 8), torch.zeros(3, 1)
    own = am.expected_loss(net, x, y, "squared_error", method=Draws())
    plain = MonteCarlo(n_masks=64, sampler=Independent())
    other = am.expected_loss(net, x, y, "squared_error", method=plain)
    assert (own.value, own.error, own.reliable, own.notes) == (other.value, other.error, False, other.notes)


def test_a_plan_says_what_a_looser_truncation_is_worth():
    torch = pytest.importorskip("torch")
    net, x, y = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(4, 1)), torch.ones(3, 4), torch.zeros(3, 1)
    for method, guarantee in ((am.methods.Fourier(), "exact"), (am.methods.Fourier(tol=1e-5), "bounded")):
        assert am.plan_expected_loss(net, x, y, "logistic", method=method).guarantee == guarantee
        assert am.expected_loss(net, x, y, "logistic", method=method).guarantee == guarantee
