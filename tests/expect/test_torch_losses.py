"""A torch loss module means what torch means by it: the number it gives for the whole data set, under each mask."""

import copy
import warnings
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import allmasks as am
from allmasks.methods import Enumeration
from truth import every_mask

N, D, K, P = 7, 3, 4, 0.3
G = torch.Generator().manual_seed(5)


def randn(*shape):
    return torch.randn(*shape, generator=G, dtype=torch.float64)


def rand(*shape):
    return torch.rand(*shape, generator=G, dtype=torch.float64)


X = randn(N, D)
REAL, SHARES, NUMBERS = randn(N, K), torch.softmax(randn(N, K), dim=1), torch.tensor([0, 1, 2, 3, 1, 0, 2])
BITS, SIGNS, COUNTS = (rand(N, K) > 0.4).double(), (rand(N, K) > 0.5).double() * 2 - 1, (rand(N, K) * 5).floor()
LABELS = torch.tensor(
    [[0, 2, -1, 1], [3, -1, 0, 0], [1, 2, 3, -1], [2, -1, -1, -1], [0, 1, 2, 3], [1, -1, 0, 0], [3, 0, -1, 2]]
)
TOKENS = torch.randint(0, K, (N, 5), generator=G)
TOKENS[0, 2:], TOKENS[3, 1:], TOKENS[5] = -100, -100, -100
CLASS_WEIGHT = torch.tensor([0.2, 3.0, 1.0, 0.7], dtype=torch.float64)
WITHOUT_ONE = torch.tensor([0.2, 3.0, 1.0, 0.0], dtype=torch.float64)
ROW_SIGNS = SIGNS[:, 0]


class Net(nn.Module):
    """One dropout before a Linear, whose output is cut into what the loss wants."""

    def __init__(self, width, shape, after):
        super().__init__()
        self.drop, self.head = nn.Dropout(P), nn.Linear(D, width).double()
        self.shape, self.after = shape, after

    def forward(self, x):
        return self.after(self.head(self.drop(x)).reshape(len(x), *self.shape))


def same(z):
    return z


def squeezed(z):
    return z.squeeze(-1)


def halves(z):
    return z[:, 0], z[:, 1]


def thirds(z):
    return z[:, 0], z[:, 1], z[:, 2]


def mean_and_variance(z):
    return z[:, 0], F.softplus(z[:, 1]) + 0.1


@dataclass
class Case:
    loss: nn.Module
    y: Any
    shape: tuple[int, ...] = (K,)
    after: Any = same
    exact: bool = False
    """Whether the last layer's masks are integrated by formula."""
    formula_loss: Any = field(default=None)


def each(kind, y, shape=(K,), after=same, exact=False, **options):
    return [Case(kind(reduction=r, **options), y, shape, after, exact) for r in ("mean", "sum")]


CTC_TARGET = (torch.randint(1, K, (N, 3), generator=G), torch.full((N,), 6), torch.tensor([3, 2, 1, 3, 2, 3, 1]))


def log_softmax(z):
    return torch.log_softmax(z, dim=1)


def log_probs(z):
    return torch.log_softmax(z, dim=-1).movedim(0, 1)


CASES = {
    "L1Loss": each(nn.L1Loss, REAL),
    "MSELoss": [
        *each(nn.MSELoss, REAL[:, 0], (1,), squeezed, exact=True),
        *each(nn.MSELoss, REAL, exact=True),
        *each(nn.MSELoss, randn(N, 2, 3), (2, 3)),
    ],
    "SmoothL1Loss": each(nn.SmoothL1Loss, REAL, beta=0.4),
    "HuberLoss": each(nn.HuberLoss, REAL, delta=0.3),
    "KLDivLoss": [
        *each(nn.KLDivLoss, SHARES, after=log_softmax),
        Case(nn.KLDivLoss(reduction="batchmean"), SHARES, after=log_softmax),
        Case(nn.KLDivLoss(reduction="batchmean", log_target=True), SHARES.log(), after=log_softmax),
    ],
    "BCELoss": [
        *each(nn.BCELoss, SHARES, after=torch.sigmoid),
        *each(nn.BCELoss, BITS, after=torch.sigmoid, weight=rand(K)),
    ],
    "BCEWithLogitsLoss": [
        *each(nn.BCEWithLogitsLoss, BITS, exact=True),
        *each(nn.BCEWithLogitsLoss, SHARES, exact=True, pos_weight=CLASS_WEIGHT, weight=rand(K)),
        *each(nn.BCEWithLogitsLoss, BITS - 0.5),
    ],
    "PoissonNLLLoss": [
        *each(nn.PoissonNLLLoss, COUNTS, exact=True),
        *each(nn.PoissonNLLLoss, COUNTS, full=True),
        *each(nn.PoissonNLLLoss, COUNTS, after=F.softplus, log_input=False, full=True, eps=1e-6),
    ],
    "GaussianNLLLoss": [
        *each(nn.GaussianNLLLoss, REAL, (2, K), mean_and_variance),
        *each(nn.GaussianNLLLoss, REAL, (2, K), mean_and_variance, full=True, eps=0.5),
        *each(nn.GaussianNLLLoss, REAL[:, 0], (2,), mean_and_variance),
    ],
    "NLLLoss": [
        *each(nn.NLLLoss, NUMBERS, after=log_softmax),
        *each(nn.NLLLoss, NUMBERS, after=log_softmax, weight=CLASS_WEIGHT, ignore_index=2),
        *each(nn.NLLLoss, TOKENS, (K, 5), after=log_softmax, weight=CLASS_WEIGHT),
    ],
    "CrossEntropyLoss": [
        *each(nn.CrossEntropyLoss, NUMBERS),
        *each(nn.CrossEntropyLoss, NUMBERS, weight=CLASS_WEIGHT, ignore_index=2, label_smoothing=0.2),
        *each(nn.CrossEntropyLoss, NUMBERS, weight=WITHOUT_ONE, ignore_index=2, label_smoothing=0.2),
        *each(nn.CrossEntropyLoss, NUMBERS, weight=WITHOUT_ONE),
        *each(nn.CrossEntropyLoss, TOKENS, (K, 5)),
        *each(nn.CrossEntropyLoss, TOKENS, (K, 5), weight=WITHOUT_ONE, label_smoothing=0.1),
        *each(nn.CrossEntropyLoss, TOKENS, (K, 5), weight=CLASS_WEIGHT, label_smoothing=0.1),
        *each(nn.CrossEntropyLoss, SHARES, weight=CLASS_WEIGHT, label_smoothing=0.1),
        *each(nn.CrossEntropyLoss, torch.softmax(randn(N, K, 2), dim=1), (K, 2)),
        *each(nn.CrossEntropyLoss, NUMBERS % 2, (2,), exact=True),
    ],
    "HingeEmbeddingLoss": each(nn.HingeEmbeddingLoss, SIGNS, margin=0.7),
    "MultiLabelMarginLoss": each(nn.MultiLabelMarginLoss, LABELS),
    "MultiLabelSoftMarginLoss": each(nn.MultiLabelSoftMarginLoss, BITS, weight=CLASS_WEIGHT),
    "SoftMarginLoss": each(nn.SoftMarginLoss, SIGNS, exact=True),
    "MultiMarginLoss": each(nn.MultiMarginLoss, NUMBERS, p=2, margin=0.8, weight=CLASS_WEIGHT),
    "CosineEmbeddingLoss": each(nn.CosineEmbeddingLoss, ROW_SIGNS, (2, K), halves, margin=0.1),
    "MarginRankingLoss": each(nn.MarginRankingLoss, SIGNS, (2, K), halves, margin=0.1),
    "TripletMarginLoss": each(nn.TripletMarginLoss, None, (3, K), thirds, swap=True),
    "TripletMarginWithDistanceLoss": each(nn.TripletMarginWithDistanceLoss, None, (3, K), thirds),
    "CTCLoss": each(nn.CTCLoss, CTC_TARGET, (6, K), log_probs, zero_infinity=True),
}
FLAT = [pytest.param(case, id=f"{name}-{i}") for name, cases in CASES.items() for i, case in enumerate(cases)]
REFUSED = {
    "LinearCrossEntropyLoss": lambda: nn.LinearCrossEntropyLoss(K, 3),
    "AdaptiveLogSoftmaxWithLoss": lambda: nn.AdaptiveLogSoftmaxWithLoss(K, 6, [2]),
}


def net_of(case):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Net(int(torch.tensor(case.shape).prod()), case.shape, case.after)


def torchs_number(loss, output, y):
    """What a training loop would print for these examples in one batch."""
    if isinstance(loss, nn.CTCLoss):
        return loss(output, *y)
    if isinstance(loss, nn.GaussianNLLLoss):
        return loss(output[0], y, output[1])
    if isinstance(output, tuple):
        return loss(*output) if y is None else loss(*output, y)
    return loss(output, y)


def expected_by_listing(net, loss, x, y):
    """The mean over all masks that every example has for itself, of torch's own number, and that of eval mode."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's word about KLDivLoss(reduction="mean")
        # The masks of all examples are equal: a number that is a (weighted) mean or sum over examples does not mind.
        total = sum(
            probability * torchs_number(loss, masked(net, x, bits), y)
            for bits, probability in zip(*map(torch.from_numpy, every_mask([P] * D)), strict=True)
        )
        return total, torchs_number(loss, copy.deepcopy(net).eval()(x), y)


def masked(net, x, bits):
    head = net.head(x * bits.to(x) / (1 - P))
    return net.after(head.reshape(len(x), *net.shape))


@pytest.mark.parametrize("case", FLAT)
def test_torchs_number_whatever_the_batch_size(case):
    net = net_of(case)
    truth, at_mean = expected_by_listing(net, case.loss, X, case.y)
    for method, batch_size in ((None, None), (Enumeration(), 3)) if case.exact else ((None, 3),):
        found = am.expected_loss(net, X, case.y, case.loss, method=method, batch_size=batch_size)
        assert found.guarantee == "exact"
        assert abs(found.value.item() - truth.item()) <= float(found.error) + 1e-13 * abs(truth.item())
        assert float(found.weight_scaling_loss) == pytest.approx(at_mean.item(), rel=1e-12)
        if method is None:
            assert (found.n_masks == 0) == case.exact
    wanted = torch.autograd.grad(truth, list(net.parameters()))
    found_grad = torch.autograd.grad(found.value, list(net.parameters()))
    for a, b in zip(found_grad, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_every_loss_of_torch_is_right_or_refused():
    listed = {*nn.modules.loss.__all__, *(name for name in dir(nn) if name.endswith("Loss"))}
    assert listed - {"NLLLoss2d"} == {*CASES, *REFUSED}
    for build in REFUSED.values():
        with pytest.raises(ValueError, match="weights of its own"):
            am.expected_loss(net_of(Case(build(), None)), X, NUMBERS, build())


def test_a_deprecated_name_means_the_same():
    net = net_of(Case(nn.NLLLoss(), TOKENS, (K, 5), same))
    with pytest.warns(FutureWarning, match="deprecated"):
        old_loss = nn.NLLLoss2d()
    old, new = (am.expected_loss(net, X, TOKENS, loss).value for loss in (old_loss, nn.NLLLoss()))
    assert old.item() == new.item()


@pytest.mark.parametrize(
    ("loss", "shares"),
    [
        (nn.CrossEntropyLoss(reduction="sum"), torch.ones(N)),
        (nn.CrossEntropyLoss(), torch.ones(N).double() / N),
        (nn.CrossEntropyLoss(weight=CLASS_WEIGHT), CLASS_WEIGHT[NUMBERS] / CLASS_WEIGHT[NUMBERS].sum()),
        (nn.CrossEntropyLoss(reduction="none", weight=CLASS_WEIGHT), torch.ones(N).double() / N),
        ("cross_entropy", torch.ones(N).double() / N),
    ],
)
def test_the_value_is_each_examples_share(loss, shares):
    found = am.expected_loss(net_of(Case(loss, NUMBERS)), X, NUMBERS, loss)
    assert (found.per_example @ shares.double()).item() == pytest.approx(found.value.item(), rel=1e-14)


def test_tokens_count_alike_in_the_module_and_examples_in_the_name():
    net = net_of(Case(None, TOKENS, (K, 5)))
    with torch.no_grad():
        module = am.expected_loss(net, X, TOKENS, nn.CrossEntropyLoss())
        named = am.expected_loss(net, X, TOKENS, "cross_entropy")
    tokens = (TOKENS != -100).sum(dim=1).double()
    assert torch.equal(module.per_example, named.per_example)
    assert module.value.item() == pytest.approx((module.per_example @ tokens / tokens.sum()).item())
    assert named.value.item() == pytest.approx(float(named.per_example[tokens > 0].mean()))


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([case for cases in CASES.values() for case in cases if case.y is not None]), st.data())
def test_sample_weight_is_repetition(case, data):
    """A whole-number weight is that many copies of the example, as torch would see them."""
    copies = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=N, max_size=N).filter(any)))
    net = net_of(case)
    rows = torch.repeat_interleave(torch.arange(N), copies)
    y = tuple(part[rows] for part in case.y) if isinstance(case.y, tuple) else case.y[rows]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        truth = float(torchs_number(case.loss, copy.deepcopy(net).eval()(X[rows]), y))
        if truth != truth:  # nothing but ignored targets: torch's 0/0
            with pytest.raises(ValueError, match="no example has positive weight"):
                am.expected_loss(net, X, case.y, case.loss, sample_weight=copies)
            return
        found = am.expected_loss(net, X, case.y, case.loss, sample_weight=copies)
    assert float(found.weight_scaling_loss) == pytest.approx(truth, rel=1e-11, abs=1e-13)


def refused(loss, y, shape=(K,), after=same):
    return am.expected_loss(net_of(Case(loss, y, shape, after)), X, y, loss)


class Squeezed(nn.MSELoss):
    def forward(self, output, target):
        return super().forward(output.squeeze(-1), target)


@pytest.mark.parametrize(
    ("loss", "y", "shape", "after", "message"),
    [
        (
            nn.MSELoss(),
            REAL[:, 0],
            (1,),
            same,
            r"MSELoss of outputs \(7, 1\) needs targets of shape \(7, 1\), got \(7,\)",
        ),
        (
            nn.MSELoss(reduction="none"),
            REAL,
            (K,),
            same,
            'gives 4 losses for each example; build it with reduction="mean"',
        ),
        (nn.CrossEntropyLoss(reduction="none"), TOKENS, (K, 5), same, "gives 5 losses for each example"),
        (
            nn.BCELoss(weight=rand(N, K)),
            BITS,
            (K,),
            torch.sigmoid,
            "one for each place in a batch.*pass sample_weight=",
        ),
        (nn.GaussianNLLLoss(), REAL, (K,), same, r"needs a model that returns \(mean, variance\); this one returns 1"),
        (nn.TripletMarginLoss(), REAL, (3, K), thirds, "compares the model's three outputs; pass y=None"),
        (nn.CTCLoss(), TOKENS, (6, K), log_probs, r"y=\(targets \(n, S\), input_lengths \(n,\), target_lengths"),
        (nn.CrossEntropyLoss(weight=CLASS_WEIGHT[:2]), NUMBERS, (K,), same, "2 class weights do not fit the model's 4"),
        (nn.NLLLoss(), SHARES, (K,), log_softmax, "needs integer class numbers, got torch.float64"),
        (nn.MultiMarginLoss(), REAL[:, 0], (K,), same, "needs integer targets, got torch.float64"),
        (nn.MSELoss(), REAL.clone().index_fill_(0, torch.tensor([2]), torch.nan), (K,), same, "targets contain NaN"),
        (Squeezed(), REAL, (K,), same, "averages over examples; build it with"),
    ],
)
def test_what_torch_would_not_mean_is_refused(loss, y, shape, after, message):
    with pytest.raises(ValueError, match=message):
        refused(loss, y, shape, after)


def test_a_subclass_with_a_forward_of_its_own_is_a_callable():
    net = net_of(Case(None, REAL, (1,)))
    found = am.expected_loss(net, X, REAL[:, 0], Squeezed(reduction="none"))
    named = am.expected_loss(net, X, REAL[:, :1], "squared_error")
    assert found.value.item() == pytest.approx(named.value.item())


def test_float32_modules_and_nets():
    """The module's own weights may be float32 and the net's too; the loss is taken in float64."""
    net, loss = net_of(Case(None, NUMBERS)).float(), nn.CrossEntropyLoss(weight=CLASS_WEIGHT.float())
    truth, _ = expected_by_listing(net, loss, X.float(), NUMBERS)
    found = am.expected_loss(net, X.float(), NUMBERS, loss)
    assert found.value.item() == pytest.approx(truth.item(), rel=1e-6)
    assert loss.weight.dtype == torch.float32
    assert loss.reduction == "mean"


def test_the_audit_and_the_instruments_take_sums_and_shares():
    """A summed loss has summed penalties; activations are averaged over examples all the same."""
    net = net_of(Case(None, BITS))
    mean = am.audit(net, (X, BITS), nn.BCEWithLogitsLoss(), progress=False)
    total = am.audit(net, (X, BITS), nn.BCEWithLogitsLoss(reduction="sum"), progress=False)
    factor = N * K
    assert float(total.expected.penalty) == pytest.approx(factor * float(mean.expected.penalty))
    one, other = mean.instruments[0], total.instruments[0]
    assert other.unit_penalty.penalty.tolist() == pytest.approx((factor * one.unit_penalty.penalty).tolist())
    assert other.unit_penalty.mean.tolist() == pytest.approx(one.unit_penalty.mean.tolist())
    assert other.unit_penalty.noise_variance.tolist() == pytest.approx(one.unit_penalty.noise_variance.tolist())
    assert other.robustness.accuracy.tolist() == pytest.approx(one.robustness.accuracy.tolist())
    assert one.robustness.accuracy[0] == pytest.approx(float(((net.eval()(X) > 0) == (BITS > 0.5)).double().mean()))


def test_logistic_takes_probabilities():
    """As the score loss does: y log(1 + e^-z) + (1 - y) log(1 + e^z), summed over outputs."""
    net = net_of(Case(None, SHARES))
    truth, _ = expected_by_listing(net, nn.BCEWithLogitsLoss(reduction="sum"), X, SHARES)
    found = am.expected_loss(net, X, SHARES, "logistic")
    assert found.n_masks == 0
    assert abs(N * found.value.item() - truth.item()) <= N * float(found.error) + 1e-13
    with pytest.raises(ValueError, match=r"targets 0 or 1, or probabilities in between, got 1\.5"):
        am.expected_loss(net, X, SHARES + 1.5 - SHARES[0, 0], "logistic")
    assert isinstance(found.value, Tensor)
