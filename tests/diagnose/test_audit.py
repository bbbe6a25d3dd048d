"""The audit against enumeration: what each site costs alone, what switching it off saves, and what is left."""

import json
import math
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import allmasks as am
from allmasks.diagnose import instruments
from allmasks.methods import Enumeration, MonteCarlo
from model_cases import CASES, ModelCase, brute_force, seeded, squared

TWO = CASES[3]


def three_sites() -> nn.Module:
    return nn.Sequential(
        nn.Dropout(0.2), nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 3), nn.Dropout(0.4), nn.Linear(3, 1)
    )


THREE = ModelCase(
    "three sites",
    lambda: seeded(three_sites, scale=1.5),
    (3, 4, 3),
    TWO.x,
    torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None],
    "squared_error",
    squared,
)


def truth_with(case: ModelCase, net: nn.Module, on: set[str]) -> float:
    """The mean over the masks of some sites, the others switched off."""
    rates = {name: module.p for name, module in net.named_modules() if isinstance(module, nn.Dropout)}
    try:
        for name in rates:
            net.get_submodule(name).p = rates[name] if name in on else 0.0
        return float(brute_force(case, net).detach().mean())
    finally:
        for name, p in rates.items():
            net.get_submodule(name).p = p


@pytest.mark.parametrize("case", [TWO, THREE], ids=lambda c: c.name)
@pytest.mark.parametrize("method", [None, MonteCarlo(n_masks=2048)], ids=["exact", "sampled"])
def test_every_number_against_enumeration(case, method):
    net = case.build()
    found = am.audit(net, (case.x, case.y), case.loss, method=method, progress=False)
    names = [site.name for site in found.sites]
    everything = truth_with(case, net, set(names))
    nothing = truth_with(case, net, set())
    exact = method is None

    def close(got, truth, error):
        assert abs(got - truth) <= (error if exact else 4.5 * error) + 1e-13
        assert (error < 1e-10) == (exact or error == 0)

    close(float(found.expected.value), everything, float(found.expected.error))
    assert found.eval_mode_loss == pytest.approx(nothing, abs=1e-13)
    assert found.train_mode_loss == float(found.expected.value)
    interaction = everything - nothing
    for row in found.per_site:
        alone = truth_with(case, net, {row.site.name}) - nothing
        interaction -= alone
        close(row.alone, alone, row.alone_error)
        close(row.saved, everything - truth_with(case, net, set(names) - {row.site.name}), row.saved_error)
        assert row.guarantee == ("exact" if exact else "statistical") or row.alone_error < 1e-10
    close(found.interaction, interaction, found.interaction_error)
    assert found.penalty_share == pytest.approx(1 - nothing / float(found.expected.value), rel=1e-9)
    assert (found.exact is not None) == exact


def test_pairing_makes_differences_sharper_than_their_parts():
    case, method = THREE, MonteCarlo(n_masks=1024)
    found = am.audit(case.build(), (case.x, case.y), case.loss, method=method, progress=False)
    assert max(row.saved_error for row in found.per_site) < float(found.expected.error) * 1.2


def test_convergence_falls_as_one_over_root_k():
    case = TWO
    found = am.audit(case.build(), (case.x, case.y), case.loss, progress=False)
    assert [point.n_masks for point in found.convergence] == [2**i for i in range(9)]
    first = found.convergence[0].error
    for point in found.convergence:
        assert point.error == pytest.approx(first / math.sqrt(point.n_masks))
        assert abs(point.value - found.reference) < 4.5 * point.error


def test_a_loader_and_a_pair_give_the_same():
    case = TWO
    pair = am.audit(case.build(), (case.x, case.y), case.loss, progress=False)
    loader = DataLoader(TensorDataset(case.x, case.y), batch_size=2)
    other = am.audit(case.build(), loader, case.loss, progress=False)
    assert float(other.expected.value) == pytest.approx(float(pair.expected.value), rel=1e-12)
    with pytest.raises(TypeError, match=r"data must be a pair \(x, y\) or a DataLoader, got int"):
        am.audit(case.build(), 3, case.loss)


def test_without_dropout_the_penalty_is_exactly_zero():
    for net in (nn.Linear(3, 3).double(), nn.Sequential(nn.Dropout(0.0), nn.Linear(3, 3)).double()):
        found = am.audit(net, (TWO.x, TWO.y), "cross_entropy", progress=False)
        assert (float(found.expected.penalty), found.expected.guarantee, found.penalty_share) == (0.0, "exact", 0.0)
        assert found.per_site == found.convergence == ()
        assert found.explanation.startswith("No mask varies")


def test_the_explanation_gives_as_many_digits_as_the_error_deserves():
    found = am.audit(THREE.build(), (THREE.x, THREE.y), THREE.loss, method=MonteCarlo(n_masks=512), progress=False)
    value, error = re.search(r"loses ([\d.]+) ± ([\d.]+) in train mode", found.explanation).groups()
    assert len(value.split(".")[1]) == len(error.split(".")[1])
    assert float(value) == pytest.approx(float(found.expected.value), abs=float(error) / 5)
    exact = am.audit(THREE.build(), (THREE.x, THREE.y), THREE.loss, method=Enumeration(), progress=False)
    assert "±" not in exact.explanation


def test_it_prints_and_serialises(tmp_path):
    found = am.audit(TWO.build(), (TWO.x, TWO.y), TWO.loss, progress=False)
    numbers = json.loads(json.dumps(found.to_dict()))
    assert numbers["expected"]["value"] == float(found.expected.value)
    assert [row["site"]["name"] for row in numbers["per_site"]] == ["2", "5"]
    assert "weight-scaling loss" in repr(found)
    page = found.to_html(tmp_path / "a.html")
    assert page.read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html>")


class TwoHeads(nn.Module):
    """A loss of the first head alone: nothing of the second is in its graph."""

    def __init__(self):
        super().__init__()
        self.body, self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(5, 1)
        self.drop, self.other = nn.Dropout(0.5), nn.Dropout(0.3)

    def forward(self, x):
        h = torch.relu(self.body(x))
        return self.first(self.drop(h)), self.second(self.other(h))


def test_a_head_that_the_loss_does_not_read():
    torch.manual_seed(0)
    net = TwoHeads().double()
    x, y = torch.randn(6, 4).double(), torch.randint(0, 3, (6,))
    found = am.audit(
        net, (x, y), lambda out, y: nn.functional.cross_entropy(out[0], y, reduction="none"), progress=False
    )
    read, other = found.instruments
    assert (np.abs(other.unit_penalty.penalty) <= other.unit_penalty.penalty_error).all()
    assert (other.unit_penalty.second_order == 0).all()
    alone = nn.Sequential(net.body, nn.ReLU(), net.drop, net.first)
    (wanted,) = am.diagnose.unit_penalty(alone, (x, y), "cross_entropy")
    np.testing.assert_allclose(read.unit_penalty.penalty, wanted.penalty, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(read.unit_penalty.second_order, wanted.second_order, rtol=1e-9)
    assert abs(found.per_site[1].alone) <= found.per_site[1].alone_error < 1e-10


def test_a_loss_near_the_smallest_double_has_shares():
    x, y = torch.randn(6, 4).double(), torch.zeros(6, 1).double()
    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 1)).double()
    found = am.audit(net, (x, y), lambda out, y: 1e-300 * out[:, 0] ** 2, progress=False)
    assert 0 < found.penalty_share < 1
    assert found.penalty_share_error > 0


@pytest.mark.slow
def test_of_many_sites_those_that_add_most_are_measured_unit_by_unit(monkeypatch):
    assert instruments.MAX_SITES == 32
    monkeypatch.setattr(instruments, "MAX_SITES", 4)  # the rule is one for any number
    torch.manual_seed(0)
    layers = [layer for p in np.linspace(0.01, 0.2, 6) for layer in (nn.Linear(4, 4), nn.Tanh(), nn.Dropout(p))]
    net = nn.Sequential(*layers, nn.Linear(4, 2))
    found = am.audit(net, (torch.randn(8, 4), torch.randint(0, 2, (8,))), "cross_entropy", progress=False)
    assert len(found.per_site) == 6
    assert len(found.instruments) == 4
    kept = {one.site.name for one in found.instruments}
    left = [abs(one.alone) for one in found.per_site if one.site.name not in kept]
    assert max(left) <= min(abs(one.alone) for one in found.per_site if one.site.name in kept)
    assert "Of 6 sites, the 4 that add most were measured unit by unit; am.diagnose takes any." in found.notes
