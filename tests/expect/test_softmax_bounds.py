"""Cross-entropy of several classes with dropout before the last Linear: proven bounds against every mask."""

import pytest
import torch
from torch import nn

import allmasks as am
from allmasks.methods import Enumeration, MonteCarlo, SoftmaxBounds
from allmasks.replicates import student

torch.manual_seed(0)
NET = nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Dropout(0.3), nn.Linear(10, 4)).double()
NET[3].weight.data *= 0.5
X, Y = torch.randn(20, 8).double(), torch.randint(0, 4, (20,))
IGNORED = torch.where(torch.arange(20) == 3, -100, Y)
SHARES = torch.rand(20, 4).double()
SHARES /= SHARES.sum(dim=1, keepdim=True)
HEAVY = torch.tensor([1.0, 2.0, 0.0, 0.5]).double()

LOSSES = {
    "named": ("cross_entropy", Y),
    "ignored": (nn.CrossEntropyLoss(), IGNORED),
    "weighted": (nn.CrossEntropyLoss(weight=HEAVY), IGNORED),
    "smoothed": (nn.CrossEntropyLoss(weight=HEAVY, label_smoothing=0.1), IGNORED),
    "summed": (nn.CrossEntropyLoss(reduction="sum", weight=HEAVY, label_smoothing=0.1), Y),
    "soft": (nn.CrossEntropyLoss(label_smoothing=0.2), SHARES),
    "soft weighted": (nn.CrossEntropyLoss(weight=HEAVY), SHARES),
}


@pytest.mark.parametrize("name", LOSSES)
def test_every_option_of_the_cross_entropy_lies_between_its_bounds(name):
    loss, y = LOSSES[name]
    ours = am.expected_loss(NET, X, y, loss, method=SoftmaxBounds(tol=1e-2))
    every = am.expected_loss(NET, X, y, loss, method=Enumeration())
    assert ours.guarantee == "bounded"
    assert bool(((ours.per_example - every.per_example).abs() <= ours.per_example_error + 1e-14).all())
    assert abs(float(ours.value.detach() - every.value.detach())) <= float(ours.error) < 1e-2 * len(X)
    wanted = list(NET.parameters())
    for a, b in zip(*(torch.autograd.grad(r.value, wanted) for r in (ours, every)), strict=True):
        assert float((a - b).abs().max()) < 0.02 * (1 + float(b.abs().max()))


def test_gradients_meet_those_of_every_mask_where_the_bounds_do():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(8, 9), nn.Tanh(), nn.Dropout(0.2), nn.Linear(9, 3)).double()
    net[3].weight.data *= 0.05
    x = X.clone().requires_grad_()
    results = [am.expected_loss(net, x, Y % 3, "cross_entropy", method=m) for m in (SoftmaxBounds(1e-9), Enumeration())]
    assert float(results[0].error) < 1e-9
    wanted = [x, *net.parameters()]
    for a, b in zip(*(torch.autograd.grad(r.value, wanted) for r in results), strict=True):
        assert float((a - b).abs().max()) < 1e-6 * float(b.abs().max())
    again = am.expected_loss(net, x, Y % 3, "cross_entropy", method=SoftmaxBounds(1e-9))

    def twice():
        first = torch.autograd.grad(again.value, wanted, create_graph=True)
        torch.autograd.grad(sum(g.square().sum() for g in first), wanted)

    with pytest.raises(RuntimeError, match="have no second derivative; pass the loss as a callable"):
        twice()


WIDE = nn.Sequential(nn.Linear(8, 48), nn.ReLU(), nn.Dropout(0.3), nn.Linear(48, 4))


def test_it_is_chosen_where_dropout_is_last_alone():
    plan = am.plan_expected_loss(WIDE, X.float(), Y, "cross_entropy")
    assert (plan.method, plan.guarantee, plan.n_masks) == (SoftmaxBounds(), "bounded", 0)
    ours = am.expected_loss(WIDE, X.float(), Y, "cross_entropy")
    drawn = am.expected_loss(WIDE, X.float(), Y, "cross_entropy", method=MonteCarlo(n_masks=2048))
    assert abs(float((ours.value - drawn.value).detach())) < 4.5 * float(drawn.error) + float(ours.error)
    assert ours.n_masks == 0


def test_wide_rows_are_refused_where_asked_for_and_sampled_otherwise():
    net = nn.Sequential(*WIDE[:3], nn.Linear(48, 4))
    net[3].weight.data *= 30
    with pytest.raises(
        am.MethodNotApplicable, match=r"the bounds of \d+ of 20 rows are wider than tol=0.001: rows 0 \("
    ):
        am.expected_loss(net, X.float(), Y, "cross_entropy", method=SoftmaxBounds())
    drawn = am.expected_loss(net, X.float(), Y, "cross_entropy")
    assert drawn.guarantee == "statistical"
    assert "masks were sampled instead" in drawn.notes[-1]


def test_beside_other_sites_it_goes_inside_each_mask():
    net = nn.Sequential(nn.Dropout(0.2), *WIDE)
    assert am.plan_expected_loss(net, X.float(), Y, "cross_entropy").method == MonteCarlo()
    ours = am.expected_loss(net, X.float(), Y, "cross_entropy", method=SoftmaxBounds())
    plain = am.expected_loss(net, X.float(), Y, "cross_entropy", n_masks=2048)
    assert ours.guarantee == "statistical"
    assert ours.n_masks == 256
    assert 0 < float(ours.bound) < float(ours.error)
    assert "of the error is proven" in ours.notes[-1]
    spread = float(ours.error - ours.bound) ** 2 + float(plain.error) ** 2
    assert abs(float(ours.value.detach() - plain.value.detach())) < 4.5 * spread**0.5 + float(ours.bound)
    low, high = ours.interval(0.9)
    half = student(0.9, ours.n_replicates) * float(ours.error - ours.bound) + float(ours.bound)
    assert (high - low) / 2 == pytest.approx(half, rel=1e-9)
    enough = am.expected_loss(net, X.float(), Y, "cross_entropy", method=SoftmaxBounds(), atol=5e-3)
    assert float(enough.error - enough.bound) < 1e-2


@pytest.mark.parametrize(
    ("net", "loss", "y", "says"),
    [
        (nn.Sequential(nn.Linear(8, 4), nn.Dropout(0.5)), "cross_entropy", Y, "no site feeds a Linear"),
        (WIDE, lambda z, t: z.sum(dim=1), Y, "no cross-entropy of one softmax"),
        (nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 2)), "cross_entropy", Y % 2, "integrated exactly by Fourier"),
    ],
)
def test_where_it_does_not_apply_it_says_why(net, loss, y, says):
    with pytest.raises(am.MethodNotApplicable, match=says):
        am.expected_loss(net, X.float(), y, loss, method=SoftmaxBounds())
