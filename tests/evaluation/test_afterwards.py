"""Calibration, conformal sets, what to label, the two intervals, and a network as an estimator."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import allmasks as am


def net(outputs=4, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Dropout(0.2), nn.Linear(3, outputs)).double()


def drawn(n, sharpness=1.0, seed=1):
    torch.manual_seed(seed)
    x = torch.randn(n, 3).double()
    logits = sharpness * net().eval()(x).detach()
    return x, torch.distributions.Categorical(logits=logits).sample()


def predicted(x, **more):
    return am.predict(net(), x, n_masks=32, **more)


def test_a_temperature_is_found_and_noise_is_not_claimed():
    x, y = drawn(1500, sharpness=3.0)
    found = am.calibrate(predicted(x), y)
    assert found.helps
    assert found.gain > 10 * found.gain_error
    new, labels = drawn(1500, sharpness=3.0, seed=2)
    before = predicted(new).evaluate(labels)["log_loss"].plug_in
    p = found.probabilities(predicted(new))
    assert -p[torch.arange(1500), labels].log().mean() < before - 0.1
    claims = 0
    for seed in range(12):
        x, y = drawn(300, sharpness=0.97, seed=10 + seed)
        claims += am.calibrate(predicted(x), y).helps
    assert claims <= 3


def regression(n, seed, spread=1.0):
    torch.manual_seed(seed)
    x = torch.randn(n, 3).double()
    model = net(1)
    y = model.eval()(x).detach() + spread * (0.5 + x[:, :1].abs()) * torch.randn(n, 1).double()
    return am.predict(model, x, task="regression", noise_precision=4.0), y


@pytest.mark.parametrize("method", ["scale", "isotonic"])
def test_a_regression_covers_after_calibration(method):
    prediction, y = regression(1500, 1, spread=2.0)
    found = am.calibrate(prediction, y, method=method)
    assert found.helps
    new, target = regression(3000, 2, spread=2.0)
    inside = [((target >= low) & (target <= high)).double().mean() for low, high in (
        new.predictive_interval(0.9), found.interval(new, 0.9))]  # fmt: skip
    assert inside[0] < 0.75
    assert abs(inside[1] - 0.9) < 0.03


def test_split_conformal_covers_and_is_crepes():
    x, y = drawn(2600)
    prediction = predicted(x)
    p = prediction.mean.numpy()
    calibration, test = predicted(x[:600]), predicted(x[600:])
    for score in ("threshold", "cumulative"):
        found = am.conformal(calibration, y[:600], level=0.9, score=score)
        sets = found.sets(test)
        covered = float(sets[torch.arange(2000), y[600:]].double().mean())
        assert abs(covered - 0.9) < 0.035
    crepes = pytest.importorskip("crepes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = crepes.ConformalClassifier().fit(1 - p[np.arange(600), y[:600]])
        theirs = other.predict_set(1 - p[600:], confidence=0.9, smoothing=False)
    assert (
        am.conformal(calibration, y[:600], score="threshold").sets(test).numpy() == theirs.astype(bool)
    ).mean() > 0.999


def test_conformal_intervals_are_crepes_and_cover():
    calibration, y = regression(601, 3)
    test, target = regression(2000, 4)
    found = am.conformal(calibration, y, level=0.9)
    low, high = found.intervals(test)
    assert abs(float(((target >= low) & (target <= high)).double().mean()) - 0.9) < 0.03
    crepes = pytest.importorskip("crepes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = crepes.ConformalRegressor().fit(
            (y - calibration.mean)[:, 0].numpy(), sigmas=calibration.total_std[:, 0].numpy()
        )
        theirs = other.predict_int(test.mean[:, 0].numpy(), sigmas=test.total_std[:, 0].numpy(), confidence=0.9)
    assert torch.cat([low, high], dim=1).numpy() == pytest.approx(theirs, rel=1e-9)


def test_by_class_ties_groups_and_folds():
    x, y = drawn(3000)
    found = am.conformal(predicted(x[:1500]), y[:1500], by_class=True)
    sets = found.sets(predicted(x[1500:]))
    for k in range(4):
        mine = y[1500:] == k
        assert abs(float(sets[mine, k].double().mean()) - 0.9) < 0.05
    # All scores alike: without broken ties every set would hold everything.
    flat = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 4)).double()
    nn.init.zeros_(flat[1].weight)
    nn.init.zeros_(flat[1].bias)
    same = am.predict(flat, x, task="multiclass", n_masks=8)
    labels = torch.randint(0, 4, (3000,))
    tied = [am.conformal(same, labels, score="threshold", level=0.8, seed=s).sets(same) for s in range(8)]
    assert abs(float(torch.stack(tied).double().mean()) - 0.8) < 0.02
    grouped = am.conformal(predicted(x[:600]), y[:600], groups=np.arange(600) // 3)
    assert grouped.n == 200
    folds = [(predicted(x[i : i + 400]), y[i : i + 400]) for i in (0, 400, 800)]
    cross = am.conformal(folds, level=0.9)
    assert (cross.kind, round(cross.guaranteed, 12)) == ("cross", 0.8)
    test = predicted(x[1500:])
    covered = cross.sets([test] * 3)[torch.arange(1500), y[1500:]].double().mean()
    assert abs(float(covered) - 0.9) < 0.03
    (a, ya), (b, yb) = regression(300, 5), regression(300, 6)
    new, target = regression(2000, 7)
    low, high = am.conformal([(a, ya), (b, yb)]).intervals([new, new])
    assert abs(float(((target >= low) & (target <= high)).double().mean()) - 0.9) < 0.04


def test_acquisition_is_in_order_and_knows_how_sure_it_is():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 16), nn.ReLU(), nn.Dropout(0.5),
                          nn.Linear(16, 3))  # fmt: skip
    x = torch.randn(120, 3)
    few, many = (am.predict(model, x, task="multiclass", n_masks=k, seed=k) for k in (32, 2048))
    for by in ("mutual_information", "entropy", "variation_ratio"):
        a, b = few.acquire(20, by), many.acquire(20, by)
        assert (np.diff(a.scores) <= 0).all()
        assert a.overlap < b.overlap
        shared = len(set(a.indices) & set(b.indices)) / 20
        assert abs(shared - a.overlap) < 0.35, by
        assert ((a.order >= 0.5) & (a.order <= 1)).all()
    assert (few.acquire(5).indices == few.acquire(5).indices).all()
    joint = am.predict(model, x, task="multiclass", n_masks=64, consistent=True, keep_samples=True)
    assert len(joint.acquire(7, "epig").indices) == 7
    with pytest.raises(ValueError, match="the same masks for all examples"):
        few.acquire(3, "epig")
    with pytest.raises(ValueError, match="from 1 to 120, got 0"):
        few.acquire(0)
    with pytest.raises(ValueError, match="by must be one of 'mutual_information'"):
        few.acquire(3, "nonsense")
    # Nothing varies between these two: the seed says which is first.
    twins = am.predict(model, x[:1].repeat(40, 1), task="multiclass", n_masks=32, consistent=True)
    assert {int(twins.acquire(1, seed=s).indices[0]) for s in range(8)} != {0}


def test_the_two_intervals():
    prediction, _ = regression(2000, 8)
    low, high = prediction.predictive_interval(0.9)
    assert prediction.error_interval(0.9) is not None
    narrow = prediction.error_interval(0.9)
    assert float((high - low).mean()) > 100 * float((narrow[1] - narrow[0]).mean())
    with pytest.raises(ValueError, match=r"am\.conformal"):
        predicted(drawn(5)[0]).predictive_interval()
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 1)).double()
    x = torch.randn(4, 3).double()
    kept = am.predict(model, x, task="regression", noise_precision=2.0, keep_samples=True, n_masks=64)
    low, high = kept.predictive_interval(0.8)
    assert torch.allclose(low, kept.quantile(0.1, noise=True))
    with pytest.raises(ValueError, match="noise_precision"):
        am.predict(model, x, task="regression").predictive_interval()


def test_a_network_is_an_estimator():
    from sklearn.base import clone
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator
    from sklearn.inspection import permutation_importance
    from sklearn.model_selection import cross_val_score

    x, y = drawn(200)
    rows, labels = x.numpy(), np.array(["a", "b", "c", "d"])[y.numpy()]
    estimator = am.as_estimator(net(), "multiclass", classes=list("abcd"), n_masks=16)
    assert estimator.score(rows, labels) > 0.25
    assert np.allclose(estimator.predict_proba(rows), am.predict(net(), x, n_masks=16).mean, atol=1e-12)
    assert set(clone(estimator).fit(rows, labels).predict(rows)) <= set("abcd")
    calibrated = CalibratedClassifierCV(FrozenEstimator(estimator)).fit(rows, labels)
    assert calibrated.predict_proba(rows).shape == (200, 4)
    assert permutation_importance(estimator, rows, labels, n_repeats=1, random_state=0).importances_mean.shape == (3,)
    assert len(cross_val_score(estimator, rows, labels, cv=3)) == 3
    regressor = am.as_estimator(net(1), "regression", noise_precision=4.0)
    mean, std = regressor.fit(rows, rows[:, 0]).predict(rows, return_std=True)
    assert mean.shape == std.shape == (200,)
    assert (std > 0.5).all()
    with pytest.raises(ValueError, match="2 features, but MaskedRegressor is expecting 3"):
        regressor.predict(rows[:, :2])
    with pytest.raises(ValueError, match="4 outputs and there are 3 classes"):
        am.as_estimator(net(), "multiclass", classes=[0, 1, 2]).predict(rows)
    with pytest.raises(ValueError, match="task must be one of"):
        am.as_estimator(net(), "ranking")
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
        am.as_estimator(3, "regression")


def test_sklearns_checks_that_apply():
    from sklearn.utils import estimator_checks as checks

    for estimator in (am.as_estimator(net(1), "regression"), am.as_estimator(net(2), "multiclass")):
        name = type(estimator).__name__
        for check in (
            "check_no_attributes_set_in_init",
            "check_get_params_invariance",
            "check_set_params",
        ):
            getattr(checks, check)(name, estimator)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda p, y: am.calibrate(p, y[:5]), "one entry for each of the 200 examples, got 5"),
        (lambda p, y: am.calibrate(p, y, method="scale"), "method must be one of 'temperature'"),
        (lambda p, y: am.calibrate(p, torch.where(torch.arange(200) < 10, y, -100)), "20 units at least"),
        (lambda p, y: am.conformal(p, y, level=0), "level must lie between 0 and 1"),
        (lambda p, y: am.conformal(p), "y is needed"),
        (lambda p, y: am.conformal([p]), r"a list of \(prediction, y\)"),
        (lambda p, y: am.conformal(p, y + 9), "class numbers must lie in 0 … 3"),
        (lambda p, y: am.conformal(p, y, score="best"), "score must be one of"),
        (lambda p, y: am.conformal(p, y).intervals(p), r"ask for sets\(prediction\)"),
        (lambda p, y: am.conformal(p, y).sets([p, p]), "needs as many, got 2"),
        (lambda p, y: am.conformal(3, y), r"what am\.predict returns"),
    ],
)
def test_refusals(call, text):
    x, y = drawn(200)
    with pytest.raises((ValueError, TypeError), match=text):
        call(predicted(x), y)


def test_too_few_examples_give_everything_and_say_so():
    x, y = drawn(200)
    found = am.conformal(predicted(x[:5]), y[:5])
    assert bool(found.sets(predicted(x)).all())
    assert "too few" in found.notes[0]
    prediction, target = regression(5, 1)
    low, _ = am.conformal(prediction, target).intervals(prediction)
    assert math.isinf(float(low[0, 0]))
