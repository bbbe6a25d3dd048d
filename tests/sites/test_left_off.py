"""`leave_off`: named randomness stays as in eval mode, is not averaged over, and every result says so."""

import os
import random

import numpy as np
import pytest
import torch
from torch import nn

import allmasks as am
from allmasks.expect import Request, prepare
from architectures import PathTwice, x


class SpecAugment(nn.Module):
    """Masks a stretch of the time axis while it trains: spans that no independent bits make."""

    def forward(self, h):
        if self.training:
            start = np.random.randint(0, h.shape[1])  # noqa: NPY002
            h = h.clone()
            h[:, start : start + 2] = 0
        return h


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.augment, self.body = SpecAugment(), nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5))
        self.noise, self.head = nn.Dropout(0.2), nn.Linear(8, 1)

    def forward(self, h):
        if self.training:
            h = h + 0.1 * torch.randn_like(h)
        return self.head(self.noise(self.body(self.augment(h))))


def net():
    torch.manual_seed(0)
    return Net(), x(4, 6), torch.zeros(4, 1)


LEFT = ("augment", "(root):randn*")


def test_what_is_refused_is_left_off_by_the_name_that_the_refusal_prints():
    model, h, y = net()
    refused = [site for site in am.find_dropout(model, h) if not site.controllable]
    assert refused
    with pytest.raises(am.UncontrolledRandomness, match="leave_off"):
        am.expected_loss(model, h, y, "squared_error")
    names, found = [], refused
    while found:  # a refusal names one thing at a time where the other has hidden it
        names += [site.name for site in found]
        found = [site for site in am.find_dropout(model, h, leave_off=names) if not site.controllable]
    by_name = am.expected_loss(model, h, y, "squared_error", leave_off=names)
    by_pattern = am.expected_loss(model, h, y, "squared_error", leave_off=LEFT)
    assert by_name.value.item() == by_pattern.value.item()


def test_it_is_the_answer_of_the_model_without_it_and_is_said():
    model, h, y = net()
    result = am.expected_loss(model, h, y, "squared_error", leave_off=LEFT, n_masks=64)

    class Without(Net):
        def forward(self, h):
            return self.head(self.noise(self.body(h)))

    other = Without()
    other.load_state_dict(model.state_dict())
    assert result.value.item() == am.expected_loss(other, h, y, "squared_error", n_masks=64).value.item()
    (note,) = [note for note in result.notes if "leave_off" in note]
    assert "augment:numpy.random.randint" in note
    assert "(root):randn" in note
    assert note == next(n for n in am.predict(model, h, leave_off=LEFT, task="regression").notes if "leave_off" in n)
    audit = am.audit(model, h, y, "squared_error", leave_off=LEFT, progress=False, n_masks=32)
    assert note in audit.notes
    for plan in (
        am.plan_expected_loss(model, h, y, "squared_error", leave_off=LEFT),
        am.plan_prediction(model, h, task="regression", leave_off=LEFT),
    ):
        assert f"note: {note}" in repr(plan)


def test_what_the_system_draws_is_left_off_and_rests():
    class Jittered(nn.Module):
        def forward(self, h):
            noise = os.urandom(1)[0] / 2560 if self.training else 0
            return h + noise

    model, h = nn.Sequential(Jittered(), nn.Dropout(0.5), nn.Linear(6, 1)), x(4, 6)
    assert [site.controllable for site in am.find_dropout(model, h)] == [True, False]
    assert [site.name for site in am.find_dropout(model, h, leave_off="0.noise")] == ["1"]


class Windows(nn.Module):
    """Cuts a stretch out of the features while it trains, where it is written in a function of its own."""

    def forward(self, h):
        if not self.training:
            return h
        window = self.window(h)
        jitter: torch.Tensor = 0.1 * torch.randn_like(h)
        return h * window + jitter

    def window(self, h):
        start = random.sample(range(h.shape[1]), 1)[0]
        return torch.arange(h.shape[1]) != start


def test_a_draw_is_left_off_by_the_variables_that_it_goes_to():
    model, h = nn.Sequential(Windows(), nn.Dropout(0.5), nn.Linear(6, 1)), x(4, 6)
    for names in (["0.start", "0.jitter"], ["0.window", "*.jit*"], ["0:random.sample", "0:randn_like"]):
        (site,) = am.find_dropout(model, h, leave_off=names)
        assert (site.name, site.controllable) == ("1", True)
    result = am.expected_loss(model, h, torch.zeros(4, 1), "squared_error", leave_off=["0.start", "0.jitter"])
    other = am.expected_loss(model[1:], h, torch.zeros(4, 1), "squared_error")
    assert result.value.item() == pytest.approx(other.value.item(), rel=1e-6)
    # One of two is not enough, and an attribute that nothing random goes to is none of them.
    for names in ("0.start", "0.jitter"):
        assert not all(site.controllable for site in am.find_dropout(model, h, leave_off=names))
    with pytest.raises(ValueError, match=r"0\.h"):
        am.find_dropout(model, h, leave_off=["0.start", "0.jitter", "0.h"])


def test_a_site_that_could_be_masked_is_left_off_too_and_others_are_as_they_were():
    model, h, y = net()
    sites = am.find_dropout(model, h, leave_off=(*LEFT, "noise"))
    assert [site.name for site in sites] == ["body.2"]
    assert [s.name for s in am.find_dropout(model, h, leave_off=(*LEFT, "body*"))] == ["noise"]
    assert [s.name for s in am.find_dropout(model, h, leave_off=(*LEFT, "body"))] == ["noise"]
    assert am.find_dropout(model, h, leave_off="*") == []
    alone = prepare(model, h, y, "squared_error", leave_off=LEFT).expected(
        Request(seed=3), frozenset({"body.2"}), grad=False
    )
    left = am.expected_loss(model, h, y, "squared_error", leave_off=(*LEFT, "noise"), seed=3)
    assert alone.value.item() == left.value.item()
    everything = am.expected_loss(model, h, y, "squared_error", leave_off="*")
    assert everything.penalty.item() == 0
    assert "body.2" in next(note for note in everything.notes if "leave_off" in note)


def test_one_call_of_a_drop_path_left_off_is_made_as_in_eval_mode():
    # No number that it could draw keeps the mean: left at its highest, the call would be x / (1 - p).
    torch.manual_seed(0)
    model, h = nn.Sequential(PathTwice(0.3)), x(4, 6)
    block = model[0].eval()
    with torch.no_grad():
        want = torch.zeros(4)
        for bit, weight in ((0, 0.3), (1, 0.7)):
            first = h + bit / 0.7 * torch.tanh(block.a(h))
            want += weight * ((first + torch.tanh(block.b(first))) ** 2).sum(dim=1)
    y = torch.zeros(4, 6)
    result = am.expected_loss(model, h, y, "squared_error", leave_off="*rand#2")
    torch.testing.assert_close(result.per_example.detach().float(), want, rtol=1e-5, atol=0)
    problem = prepare(model, h, y, "squared_error")
    alone = problem.expected(Request(), frozenset({"0.path:rand"}), grad=False)
    torch.testing.assert_close(alone.per_example.float(), want, rtol=1e-5, atol=0)
    thin = am.thinned(model, h, leave_off="*rand#2", mask=0)
    with torch.no_grad():
        first = h + float(thin.kept["0.path:rand"]) / 0.7 * torch.tanh(block.a(h))
        torch.testing.assert_close(thin(h), first + torch.tanh(block.b(first)))
        second = am.thinned(model, h, leave_off="0.path:rand", mask=0)
        kept = float(second.kept["0.path:rand#2"])
        first = h + torch.tanh(block.a(h))
        torch.testing.assert_close(second(h), first + kept / 0.7 * torch.tanh(block.b(first)))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_gradients_through_a_checkpointed_call_that_is_left_off():
    torch.manual_seed(0)
    inner = PathTwice(0.3)

    class Saved(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.again = inner, True

        def forward(self, h):
            return torch.utils.checkpoint.checkpoint(self.inner, h, use_reentrant=False) if self.again else inner(h)

    model, h, y = Saved(), x(4, 6), torch.zeros(4, 6)
    grads = []
    for again in (True, False):
        model.again = again
        model.zero_grad()
        am.expected_loss(model, h, y, "squared_error", leave_off="*rand#2").value.backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-5) and a.abs().max() > 0 for a, b in zip(*grads, strict=True))


class LowKeeps(nn.Module):
    """A layer that is applied where what is drawn is low; the dropout in it is met all the same."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.25))

    def forward(self, h):
        return self.layer(h) if not self.training or random.random() < 0.6 else h


def test_what_a_low_number_keeps_rests_at_a_low_number():
    torch.manual_seed(0)
    model, h, y = nn.Sequential(LowKeeps()), x(4, 6), torch.zeros(4, 6)
    assert {s.name for s in am.find_dropout(model, h)} == {"0:random", "0.layer.1"}
    left = am.expected_loss(model, h, y, "squared_error", leave_off="*:random", n_masks=64)
    whole = am.expected_loss(model[0].layer, h, y, "squared_error", n_masks=64)
    assert left.value.item() == pytest.approx(whole.value.item(), abs=5 * (left.error + whole.error).item())
    alone = prepare(model, h, y, "squared_error").expected(Request(n_masks=64), frozenset({"0.layer.1"}), grad=False)
    assert alone.value.item() == left.value.item()


@pytest.mark.parametrize("given", [3, [3], ("noise", None)])
def test_what_is_no_name_is_refused(given):
    model, h, _ = net()
    with pytest.raises(TypeError, match="leave_off must be names of sites or modules"):
        am.find_dropout(model, h, leave_off=given)


def test_a_name_that_matches_nothing_is_refused_with_the_names_that_there_are():
    model, h, y = net()
    with pytest.raises(ValueError, match=r"leave_off names 'bdy\*'.*it has .*body\.2"):
        am.find_dropout(model, h, leave_off=(*LEFT, "bdy*"))
    with pytest.raises(ValueError, match="leave_off names 'noise:dropout'"):
        am.expected_loss(model, h, y, "squared_error", leave_off=(*LEFT, "noise:dropout"))
    with pytest.raises(ValueError, match="leave_off holds an empty name"):
        am.find_dropout(model, h, leave_off=("",))
    # A module without randomness has nothing to leave off, which is no mistake: its rate may be 0 today.
    assert len(am.find_dropout(model, h, leave_off=(*LEFT, "head"))) == 2


def test_instruments_and_monitors_take_it():
    model, h, y = net()
    assert [found.site.name for found in am.diagnose.unit_penalty(model, h, y, "squared_error", leave_off=LEFT)]
    for call in (am.diagnose.robustness, am.diagnose.concentration, am.diagnose.co_adaptation):
        (only,) = call(model, h, y, "squared_error", leave_off=(*LEFT, "noise"))
        assert only.site.name == "body.2"
    with am.monitor.Monitor(model, (h, y), "squared_error", leave_off=LEFT, n_masks=16) as monitor:
        assert monitor.step().reason is None


def test_batches_of_several_shapes_leave_off_the_same():
    torch.manual_seed(0)

    class Any(nn.Module):
        def __init__(self):
            super().__init__()
            self.augment, self.drop = SpecAugment(), nn.Dropout(0.5)

        def forward(self, h):
            return self.drop(self.augment(h)).sum(dim=1, keepdim=True)

    data = [(x(3, 6), torch.zeros(3, 1)), (x(3, 4), torch.zeros(3, 1))]
    loader = torch.utils.data.DataLoader(data, batch_size=None)
    result = am.expected_loss(Any(), loader, loss="squared_error", leave_off="augment")
    assert "augment:numpy.random.randint" in result.notes[-1]
    assert [site.shape for site in am.find_dropout(Any(), x(3, 4), leave_off="augment")] == [(4,)]
