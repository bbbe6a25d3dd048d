"""Steps that are no steps, and what can still be said of little."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import allmasks as am
from verify.zoo_base import D, data, mlp


def asked(step=None, **more):
    model, (x, y) = mlp(), data(D)
    return am.verify(model, x, y, "cross_entropy", step=step and (lambda: step(model, x, y)), **({"passes": 16} | more))


@pytest.mark.parametrize(
    ("step", "error", "says"),
    [
        (
            lambda m, x, y: F.cross_entropy(m(x), y, reduction="none"),
            (TypeError, ValueError),
            "for one loss per example",
        ),
        (lambda m, x, y: None, TypeError, "step"),
        (lambda m, x, y: F.cross_entropy(m(x), y) * torch.inf, ValueError, "not finite"),
        (lambda m, x, y: F.cross_entropy(m(x), y) * float("nan"), ValueError, "not finite"),
    ],
)
def test_a_step_that_gives_no_finite_scalar_is_refused(step, error, says):
    with pytest.raises(error, match=says):
        asked(step)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"passes": 7}, "passes must be a whole number of at least 8, got 7"),
        ({"passes": True}, "passes must be a whole number of at least 8, got True"),
        ({"level": 0.0}, r"level must lie in \(0, 1\), got 0.0"),
        ({"seed": -1}, "seed must be an integer from 0 to"),
        ({"expect": {"2": 1.5}}, r"p of '2' must lie in \[0, 1\), got 1.5"),
        ({"expect": {"2": {"rate": 0.5}}}, "'2' has rate; known are p, kind and sharing"),
        ({"same_masks": ("2",)}, "same_masks is about ranks: pass group= beside it"),
        ({"group": "world"}, "needs torch.distributed"),
    ],
)
def test_bad_arguments_are_told(given, says):
    with pytest.raises(ValueError, match=says):
        asked(**given)


def test_a_step_and_a_model_of_another_kind():
    model, (x, y) = mlp(), data(D)
    with pytest.raises(TypeError, match="step must be a function without arguments that returns the loss, got Tensor"):
        am.verify(model, x, y, "cross_entropy", step=F.cross_entropy(model(x), y))
    with pytest.raises(TypeError, match=r"model must be a torch\.nn.Module, got function"):
        am.verify(lambda x: x, x, y, "cross_entropy")
    with pytest.raises(
        TypeError, match="expect must be a mapping of sites to p, or the path of a TOML file, got float"
    ):
        asked(expect=0.5)


def test_one_example_is_judged_and_what_was_not_tested_is_said():
    model, (x, y) = mlp(), data(D)
    found = am.verify(model, x[:1], y[:1], "cross_entropy", passes=48)
    assert found.ok, found
    assert any("holds one example, so whether examples share" in note for note in found.notes)
    found = am.verify(
        model, x[:1], y[:1], "cross_entropy", step=lambda: F.cross_entropy(model.eval()(x[:1]), y[:1]), passes=48
    )
    assert {finding.fault for finding in found.findings} == {"off"}


def test_a_generator_of_its_own_is_followed_and_given_back():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.generator = torch.Generator().manual_seed(3)

        def forward(self, h):
            if not self.training:
                return h
            return h * torch.empty_like(h).bernoulli_(0.5, generator=self.generator) * 2

    model, (x, y) = mlp(), data(D)
    model[5] = Own()
    before = model[5].generator.get_state()
    found = am.verify(model, x, y, "cross_entropy", passes=48)
    assert found.ok, found
    assert torch.equal(model[5].generator.get_state(), before)


def test_what_is_left_off_is_said_to_be_no_part_of_the_test():
    found = asked(leave_off="2")
    assert found.ok, found
    assert any("What leave_off names is random in the step" in note for note in found.notes)
    assert found.expected_loss != found.expected_loss
    assert not any(check.property == "mean loss" for check in found.checks)
    assert [f.fault for f in asked(lambda m, x, y: F.cross_entropy(m.eval()(x), y), leave_off="2").findings] == ["off"]


def test_passes_that_were_not_enough_are_said():
    """A site whose rate the loss shows, but not within 400 passes, and whose mask no pass shows."""
    from allmasks.verification.detectable import Slope, enough_passes

    few = enough_passes({"a": Slope(1.0, 0.01), "b": Slope(0.02, 0.001)}, {"a": 0.5, "b": 0.5}, 0.1, 7.0, 1.0, 400)
    assert (few.passes, few.site) == (400, "b")
    assert few.needed == 980000
    assert enough_passes({"a": Slope(0.01, 0.1)}, {"a": 0.5}, 0.1, 7.0, 1.0, 400).passes == 96


@pytest.mark.parametrize("wrong", [False, True])
def test_a_step_under_autocast(wrong):
    model, (x, y) = mlp(), data(D)

    def step():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = model[:5](x)
            out = model[6](F.dropout(hidden, 0.25 if wrong else 0.5))
            return F.cross_entropy(out.float(), y)

    def right():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return F.cross_entropy(model(x).float(), y)

    found = am.verify(model, x, y, "cross_entropy", step=step if wrong else right, passes=48)
    assert found.ok is not wrong, found
    plain = am.verify(model, x, y, "cross_entropy", passes=48)
    assert found.detectable["mean loss"] > plain.detectable["mean loss"]  # bfloat16's resolution is in it


@pytest.mark.parametrize("n", [1, 8])
def test_a_rate_next_to_1_has_its_slope_from_below(n):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.999), nn.Linear(8, 3))
    assert am.verify(net, torch.randn(n, 6), torch.randint(0, 3, (n,)), "cross_entropy", passes=48).ok
