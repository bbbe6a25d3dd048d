"""Any number of masks, exactly: how K falls into blocks, and what the public calls make of it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import allmasks as am
from allmasks.methods import MonteCarlo
from allmasks.methods.monte_carlo import asked_for
from allmasks.replicates import mean_and_error
from allmasks.samplers import Antithetic, Independent, LatinHypercube
from allmasks.sampling import MIN_BLOCKS, blocks_of, masks_for

SAMPLERS = [LatinHypercube(), Antithetic(), Independent()]
each = pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
COUNTS = (1, 2, 3, 10, 31, 64, 100, 255, 256, 300, 1000)
W, X, Y = (
    np.array([0.7, -1.2, 0.4, 2.0]),
    np.array([[1.0, 0.5, -1.0, 1.5], [0.3, -2.0, 1.0, 1.0]]),
    np.array([1.0, 0.0]),
)


@given(n=st.integers(1, 5000), which=st.integers(0, 2))
def test_blocks_hold_exactly_the_masks_asked_for(n, which):
    blocks = blocks_of(SAMPLERS[which], n)
    assert blocks.sizes.sum() == n
    assert len(blocks.sizes) == blocks.count
    assert (blocks.sizes[:-1] == blocks.block).all()
    assert 1 <= blocks.sizes[-1] <= blocks.block
    covered = np.concatenate([np.arange(n)[part] for part in blocks.parts(37)])
    assert covered.tolist() == list(range(n))
    assert all(part.start % blocks.block == 0 for part in blocks.parts(37))
    if which == 0:
        # The largest of 8, 4, 2, 1 that leaves 32 blocks, or independent masks.
        assert blocks.block == next((b for b in (8, 4, 2) if n >= MIN_BLOCKS * b), 1)
        assert isinstance(blocks.sampler, LatinHypercube if blocks.block > 1 else Independent)
    else:
        assert blocks.block == SAMPLERS[which].block


@each
@pytest.mark.parametrize("k", COUNTS)
def test_scores_average_exactly_k_masks(sampler, k):
    result = am.expected_score_loss(W, X, Y, 0.3, method=MonteCarlo(n_masks=k, sampler=sampler), seed=5)
    blocks = blocks_of(sampler, k)
    from allmasks.scores.sampled import _SITE

    kept = blocks.sampler.draw(5, _SITE, range(k), [0, 1], np.full(4, 0.7))
    s = (kept * W * X / 0.7).sum(axis=-1)
    losses = np.logaddexp(0, s) - Y * s
    assert result.n_masks == k
    np.testing.assert_allclose(result.per_example, losses.mean(axis=0), rtol=1e-12)
    assert result.value == pytest.approx(losses.mean(), rel=1e-12)
    np.testing.assert_array_equal(result.replicate_masks, blocks.sizes)
    mean, error = mean_and_error(result.replicates, result.replicate_masks)
    assert mean == pytest.approx(result.value, rel=1e-12)
    if blocks.count == 1:
        assert math.isnan(result.error)
        assert np.isnan(result.per_example_error).all()
        assert all(math.isnan(end) for end in result.interval())
        assert any("cannot show an error" in note for note in result.notes)
    else:
        assert result.error >= error * (1 - 1e-12)  # what unseen masks can be worth may come on top
        assert not any("cannot show an error" in note for note in result.notes)


@each
@pytest.mark.parametrize("k", COUNTS)
def test_models_average_exactly_k_masks_however_they_are_cut(sampler, k):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Dropout(0.3), nn.Linear(4, 3), nn.ReLU(), nn.Dropout(0.5), nn.Linear(3, 1)).double()
    x, y = torch.from_numpy(X), torch.from_numpy(Y)[:, None]
    method = MonteCarlo(n_masks=k, sampler=sampler)

    def loss(output, target):
        return (output - target).square().sum(dim=1)

    result = am.expected_loss(net, x, y, loss, method=method, seed=2)
    losses = torch.zeros(k, 2, dtype=torch.float64)
    chosen = range(k) if k <= 10 else (0, 1, k // 2, k - 1)
    for m in chosen:
        for i in range(2):
            one = am.thinned(net, x, seed=2, mask=m, example_index=i, sampler=sampler, n_masks=k)
            losses[m, i] = loss(one(x[i : i + 1]), y[i : i + 1]).detach()
    assert result.n_masks == k
    assert result.replicate_masks.sum() == k
    if k <= 10:
        torch.testing.assert_close(result.per_example.detach(), losses.mean(dim=0))
    elif blocks_of(sampler, k).block == 1:
        for m in chosen:
            assert float(result.replicates[m]) == pytest.approx(float(losses[m].mean()), rel=1e-9)
    mean, error = mean_and_error(result.replicates, result.replicate_masks)
    assert float(mean) == pytest.approx(float(result.value.detach()), rel=1e-12)
    if float(error) > 0:
        assert float(error) == pytest.approx(float(result.error), rel=1e-12)
    else:  # one block, or few that happen to be alike
        assert math.isnan(result.error)


@pytest.mark.parametrize(("few", "many"), [(256, 512), (256, 1000), (128, 255), (64, 127), (1, 63), (300, 1001)])
def test_more_masks_of_one_block_size_begin_with_the_fewer(few, many):
    small, large = (am.expected_score_loss(W, X, Y, 0.3, n_masks=k) for k in (few, many))
    whole = few // small.replicate_masks[0]
    np.testing.assert_array_equal(small.replicates[:whole], large.replicates[:whole])


def test_the_error_of_unequal_blocks_is_right_in_the_mean():
    # 20 000 runs of 3 masks in a pair and one alone, of 5 in blocks of 2: E[error²] is the variance of the value.
    rows, y = np.tile(X[:1], (20_000, 1)), np.ones(20_000)
    for k in (3, 5):
        method = MonteCarlo(n_masks=k, sampler=Antithetic())
        result = am.expected_score_loss(0.3 * W, rows, y, 0.3, loss="poisson", method=method)
        squares = np.nan_to_num(result.per_example_error) ** 2  # nan where all masks were alike
        ratio = result.per_example.var() / squares.mean()
        off = math.hypot(math.sqrt(2 / 20_000), squares.std() / squares.mean() / math.sqrt(20_000))
        # Opposite masks are not independent, so the jackknife of unequal blocks errs a little on the safe side.
        assert 0.6 < ratio < 1 + 4.5 * off


def test_a_method_and_a_keyword_may_not_contradict():
    assert asked_for(MonteCarlo(n_masks=5), n_masks=5) == MonteCarlo(n_masks=5)
    assert asked_for(MonteCarlo(atol=0.1), n_masks=500) == MonteCarlo(n_masks=500, atol=0.1)
    calls = [
        lambda **how: am.expected_score_loss(W, X, Y, 0.3, **how),
        lambda **how: am.expected_loss(NET, ones, ones[:, :1], "squared_error", **how),
        lambda **how: am.plan_expected_loss(NET, ones, ones[:, :1], "squared_error", **how),
        lambda **how: am.predict(NET, ones, **how),
        lambda **how: am.audit(NET, (ones, ones[:, :1]), "squared_error", progress=False, **how),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="n_masks=9 beside a method with n_masks=5: pass one of the two"):
            call(method=MonteCarlo(n_masks=5), n_masks=9)
    with pytest.raises(ValueError, match=r"atol=0\.2 beside a method with atol=0\.1"):
        am.expected_loss(NET, ones, ones[:, :1], "squared_error", method=MonteCarlo(atol=0.1), atol=0.2)


NET = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 1))
ones = torch.ones(4, 3)


@pytest.mark.parametrize("k", [1, 2, 3, 10, 31, 64, 100, 255])
def test_every_call_takes_any_number(k):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 8), nn.Tanh())
    x, y = torch.randn(4, 3), torch.randn(4, 8)
    sampled = MonteCarlo(n_masks=k)
    prediction = am.predict(net, x, method=sampled)
    assert prediction.n_masks == k
    assert prediction.mean_error.isnan().all() == (k == 1)
    audit = am.audit(net, (x, y), lambda a, b: (a - b).square().sum(dim=1), method=sampled, progress=False)
    assert audit.expected.n_masks == k
    assert all(math.isnan(site.saved_error) == (k == 1) for site in audit.per_site)
    reading = am.monitor.read(net, (x, y), lambda a, b: (a - b).square().sum(dim=1), method=sampled)
    assert reading.n_masks == k


def test_the_pilot_allows_for_its_own_error():
    # s² of 32 normal block means is below the confidence limit's share of σ² in one run of ten.
    rng = np.random.default_rng(0)
    errors = rng.normal(size=(4000, 32)).std(axis=1, ddof=1) / math.sqrt(32)
    kept = np.mean([1 / math.sqrt(masks_for(e, 32, 1, 0.05)) <= 0.05 for e in errors])
    assert abs(kept - 0.9) < 4.5 * math.sqrt(0.09 / 4000)


@pytest.mark.parametrize("tolerance", [{"rtol": 0.01}, {"atol": 0.01}])
def test_a_tolerance_does_not_stop_on_a_pilot_that_missed_what_matters(tolerance):
    # The one unit that matters is kept once in a thousand masks: 256 of them said .69315 ± 0, the truth is 3.69.
    weights, row = np.array([3.0, 0.0, 0.0, 0.0]), np.ones((1, 4))
    with pytest.raises(am.MethodNotApplicable, match=r"a standard error of .* would take about .* masks"):
        am.expected_score_loss(weights, row, [0.0], 0.999, method=MonteCarlo(**tolerance))
    near = am.expected_score_loss(weights, row, [0.0], 0.999, method=MonteCarlo(rtol=0.1))
    assert near.n_masks > 10_000
    assert abs(near.value - 3.692454) < 4.5 * near.error
    assert near.error < 0.13 * 3.7
    net = nn.Sequential(nn.Dropout(0.999), nn.Linear(4, 1, bias=False)).double()
    with torch.no_grad():
        net[1].weight.copy_(torch.from_numpy(weights)[None])

    def loss(output, target):
        return nn.functional.softplus(output).sum(dim=1)

    x, y = torch.from_numpy(row), torch.zeros(1, 1).double()
    with pytest.raises(ValueError, match=r"would take about .* masks for each example, over the limit"):
        am.expected_loss(net, x, y, loss, method=MonteCarlo(**tolerance))
    found = am.expected_loss(net, x, y, loss, method=MonteCarlo(n_masks=256))
    assert not found.reliable
    assert any("Units that are kept or dropped too seldom for 256 masks" in note for note in found.notes)
    assert math.isnan(found.error)


def test_what_unseen_masks_can_be_worth_is_in_the_error():
    weights, row = np.array([3.0, 0.0, 0.0, 0.0]), np.ones((1, 4))
    found = am.expected_score_loss(weights, row, [0.0], 0.999, n_masks=256)
    assert found.reliable  # the error is a bound, and a note says so
    # The unit was never kept: with probability .001 the loss is 3 000 and not log 2.
    assert found.error == pytest.approx(0.001 * (3000 - math.log(2)), rel=1e-9)
    assert any("most that masks hardly drawn can be worth" in note for note in found.notes)
    low, high = found.interval()
    assert low < 3.692454 < high


def test_units_that_cannot_matter_flag_nothing():
    # Kept once in a thousand masks, but with weight 0, or with inputs of 0.
    weights, p = np.array([1.0, -0.7, 3.0, 0.0]), np.array([0.5, 0.5, 0.999, 0.999])
    for row in ([1.0, 2.0, 0.0, 5.0], [3.0, 1.0, 0.0, 0.0]):
        found = am.expected_score_loss(weights, [row], [0.0], p, n_masks=256)
        assert found.reliable
        assert not found.notes


def test_masks_all_alike_prove_nothing_unless_none_matters():
    row = [[1.0, 1.0]]
    nothing = am.expected_score_loss([0.0, 0.0], row, [1.0], 0.5, n_masks=256)
    assert (nothing.error, nothing.reliable) == (0.0, True)
    # One unit, kept in half of every block: the mean is right whatever masks are drawn.
    one = am.expected_score_loss([3.0, 0.0], row, [1.0], 0.5, n_masks=256)
    assert (one.error, one.reliable) == (0.0, True)
    assert one.value == pytest.approx(math.log1p(math.exp(6)) / 2 + math.log(2) / 2 - 3, rel=1e-12)
    # Saturated: every loss is 0 in float64, whatever is drawn, and that is no proof.
    flat = am.expected_score_loss([80.0, 90.0], row, [1.0], 0.5, intercept=900.0, n_masks=256)
    assert math.isnan(flat.error)
    assert not flat.reliable
    assert any("All 256 masks gave the same loss" in note for note in flat.notes)


def test_notes_say_what_stopped_a_run():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Dropout(0.3), nn.Linear(10, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))
    data = torch.randn(6, 10), torch.randint(0, 3, (6,))

    def run(**how):
        return am.expected_loss(net, *data, "cross_entropy", **how)

    wide = run(atol=0.5, n_masks=1000)
    assert wide.n_masks == 256
    assert "atol=0.5 stopped the run at 256 masks, before n_masks=1000." in wide.notes
    for cap, masks in (({"n_masks": 300}, 300), ({"budget": 1860}, 310)):
        capped = run(atol=1e-4, **cap)
        assert capped.n_masks == masks
        name = next(f"{k}={v}" for k, v in cap.items())
        assert any(
            note.startswith(f"{name} stopped the run at {masks} masks: atol=0.0001 takes") for note in capped.notes
        )
    few = run(atol=1e-4, n_masks=31)
    assert few.n_masks == 31
    assert "n_masks=31 stopped the run at 31 masks; a tolerance takes 256 or more." in few.notes
    assert am.expected_score_loss(W, X, Y, 0.3, method=MonteCarlo(atol=1e-9, n_masks=777)).n_masks == 777


def test_a_model_without_dropout_draws_no_mask():
    found = am.expected_loss(nn.Linear(3, 1), ones, ones[:, :1], "squared_error", n_masks=300)
    assert (found.n_masks, found.guarantee, found.reliable) == (0, "exact", True)


def test_n_masks_caps_how_many_masks_are_listed():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(10, 2), nn.ReLU(), nn.Linear(2, 1))
    x, y = torch.randn(2, 10), torch.randn(2, 1)
    assert am.expected_loss(net, x, y, "squared_error").n_masks == 1024
    assert am.expected_loss(net, x, y, "squared_error", n_masks=2000).guarantee == "exact"
    capped = am.expected_loss(net, x, y, "squared_error", n_masks=300)
    assert (capped.n_masks, capped.guarantee) == (300, "statistical")
    assert "more than n_masks=300" in repr(am.plan_expected_loss(net, x, y, "squared_error", n_masks=300))
    assert am.expected_loss(net, x, y, "squared_error", n_masks=300, budget=4096).guarantee == "exact"


@pytest.mark.parametrize("scale", [1e-200, 1e-90, 1.0, 1e90, 1e150])
def test_errors_and_flags_do_not_depend_on_the_unit(scale):
    def loss(s):
        return scale * (s - 1) ** 2

    one = am.expected_score_loss(W, X, Y, 0.3, loss=lambda s: (s - 1) ** 2, n_masks=256)
    other = am.expected_score_loss(W, X, Y, 0.3, loss=loss, n_masks=256)
    assert other.error == pytest.approx(scale * one.error, rel=1e-9)
    np.testing.assert_allclose(other.per_example_error, scale * one.per_example_error, rtol=1e-9)
    assert other.reliable == one.reliable


def test_predictions_say_what_stopped_them():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Dropout(0.3), nn.Linear(10, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 16), nn.Tanh())
    x = torch.randn(4, 10)
    for cap in (31, 300):
        capped = am.predict(net, x, atol=1e-4, n_masks=cap)
        assert capped.n_masks == cap
        assert any(f"n_masks={cap} stopped the run" in note for note in capped.notes)
