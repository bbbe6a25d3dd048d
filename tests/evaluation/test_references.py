"""Metrics equal those of kept libraries on the same samples, in the reference's own definition, on 50 drawn cases."""

import numpy as np
import pytest
import torch
from scipy.special import entr
from sklearn import metrics as sk
from torch import nn

import allmasks as am
from allmasks.evaluation.calibration_error import calibration_error
from allmasks.evaluation.classes import Classes, Options, class_measures
from allmasks.evaluation.digest import SampleDigest, normal_distance
from allmasks.evaluation.ranking import Ranked
from allmasks.evaluation.regressions import at_point, miscalibration_area, regression_measures
from allmasks.evaluation.selective import Selective

CASES = range(50)


def drawn(seed, binary=False):
    """Labels and probabilities with ties, of some confidence."""
    rng = np.random.default_rng(seed)
    n, c = int(rng.integers(20, 300)), 2 if binary else int(rng.integers(2, 12))
    z = rng.normal(size=(n, c)) * rng.choice([0.3, 1, 4])
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    if seed % 3 == 0:
        p = np.round(p, 2) + 1e-9
        p /= p.sum(axis=1, keepdims=True)
    y = np.array([rng.choice(c, p=row) for row in p])
    y[:c] = np.arange(c)
    return p, y


def values(p, y, binary=False, n_bins=15):
    found = Classes(p, y, None, np.zeros(len(y)))
    return {m.name: float(m.value(found, None)[0]) for m in class_measures(Options(n_bins), p.shape[1], binary=binary)}


@pytest.mark.parametrize("seed", CASES)
def test_classification_is_sklearns(seed):
    p, y = drawn(seed)
    found, wrong = values(p, y), p.argmax(axis=1) != y
    entropy = entr(p).sum(axis=1)
    wanted = {
        "accuracy": sk.accuracy_score(y, p.argmax(axis=1)),
        "log_loss": sk.log_loss(y, p, labels=np.arange(p.shape[1])),
        "brier": ((p - np.eye(p.shape[1])[y]) ** 2).sum(axis=1).mean(),
    }
    if 0 < wrong.sum() < len(y):
        for name, score in (("confidence", 1 - p.max(axis=1)), ("entropy", entropy)):
            wanted[f"error_{name}_auroc"] = sk.roc_auc_score(wrong, score)
            wanted[f"error_{name}_aupr"] = sk.average_precision_score(wrong, score)
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name


@pytest.mark.parametrize("seed", CASES)
def test_binary_is_sklearns_with_weights_too(seed):
    p, y = drawn(seed, binary=True)
    found = values(p, y, binary=True)
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(y, p[:, 1]), abs=1e-9)
    assert found["aupr"] == pytest.approx(sk.average_precision_score(y, p[:, 1]), abs=1e-9)
    assert found["brier"] == pytest.approx(sk.brier_score_loss(y, p[:, 1]), abs=1e-9)
    weights = np.random.default_rng(seed).integers(0, 4, size=(3, len(y))).astype(float)
    weights[:, :2] = 1
    ranked = Ranked(p[:, 1], y == 1, weights)
    for i, w in enumerate(weights):
        assert ranked.auroc()[i] == pytest.approx(sk.roc_auc_score(y, p[:, 1], sample_weight=w), abs=1e-9)
        assert ranked.average_precision()[i] == pytest.approx(
            sk.average_precision_score(y, p[:, 1], sample_weight=w), abs=1e-9
        )
        false, true, _ = sk.roc_curve(y, p[:, 1], sample_weight=w, drop_intermediate=False)
        assert ranked.false_positives()[i] == pytest.approx(false[(true >= 0.95 - 1e-12).argmax()], abs=1e-9)


@pytest.mark.parametrize("seed", CASES)
def test_binned_calibration_error_is_torchmetrics(seed):
    torchmetrics = pytest.importorskip("torchmetrics.functional.classification")
    # It reckons in float32, where .99999998 is 1, which has a bin of its own there: such rows are left out. Rounded
    # probabilities lie on edges and fall to either side of them: none are drawn.
    p, y = drawn(3 * seed + 1)
    below = p.max(axis=1).astype(np.float32) < 1
    p, y = p[below], y[below]
    scores, labels = torch.from_numpy(p), torch.from_numpy(y)
    for norm in ("l1", "l2", "max"):
        wanted = torchmetrics.multiclass_calibration_error(scores, labels, p.shape[1], n_bins=15, norm=norm)
        ours = calibration_error(
            p.max(axis=1), p.argmax(axis=1) == y, n_bins=15, equal="width", norm=norm, debias=False
        )
        assert ours == pytest.approx(float(wanted), abs=1e-6), norm
    assert values(p, y)["ece_equal_width"] == pytest.approx(
        float(torchmetrics.multiclass_calibration_error(scores, labels, p.shape[1], n_bins=15)), abs=1e-6
    )


def test_the_binned_error_of_a_calibrated_model_is_biased_and_the_debiased_square_is_not():
    rng = np.random.default_rng(0)
    plug_in, square = [], []
    for _ in range(400):
        confidence = rng.uniform(0.5, 1, size=1000)
        right = rng.uniform(size=1000) < confidence
        plug_in.append(calibration_error(confidence, right, norm="l1", debias=False))
        bins = np.array_split(np.argsort(confidence), 15)
        gaps = [(confidence[b].mean() - right[b].mean()) ** 2 for b in bins]
        noise = [right[b].mean() * (1 - right[b].mean()) / (len(b) - 1) for b in bins]
        square.append(np.mean(gaps) - np.mean(noise))
    assert np.mean(plug_in) > 0.03
    assert abs(np.mean(square)) < 4.5 * np.std(square) / 20


@pytest.mark.parametrize("seed", CASES)
def test_risk_and_coverage_by_hand(seed):
    p, y = drawn(seed)
    confidence, wrong = p.max(axis=1), (p.argmax(axis=1) != y).astype(float)
    jitter = confidence + np.random.default_rng(seed).normal(size=len(y)) * 1e-3
    order = np.argsort(-jitter)
    risk = wrong[order].cumsum() / np.arange(1, len(y) + 1)
    best = np.sort(wrong).cumsum() / np.arange(1, len(y) + 1)
    found = Selective(jitter, wrong)
    assert found.aurc()[0] == pytest.approx(risk.mean(), abs=1e-12)
    assert found.excess()[0] == pytest.approx(risk.mean() - best.mean(), abs=1e-12)
    k = int(np.ceil(0.8 * len(y) - 1e-9))
    assert found.accuracy_at(0.8)[0] == pytest.approx(1 - risk[k - 1], abs=1e-12)
    allowed = np.flatnonzero(risk <= 0.3)
    assert found.coverage_at(0.3)[0] == pytest.approx((allowed[-1] + 1) / len(y) if len(allowed) else 0, abs=1e-12)


def ensemble(seed):
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(5, 80)), int(rng.integers(2, 64))
    f = rng.normal(size=(n, 1)) + rng.normal(size=(n, k)) * rng.choice([0.01, 0.3, 2.0])
    return f, rng.normal(size=n), float(rng.choice([0.3, 1.0, 25.0]))


def digested(f, y, tau, mixture, blocks=None):
    k = f.shape[1]
    weight = torch.full((k,), 1 / k, dtype=torch.float64)
    samples, target = torch.from_numpy(f), torch.from_numpy(y)
    blocks = np.ones(k, int) if blocks is None else blocks
    found = SampleDigest(tau, mixture)(target, samples.mean(dim=1), samples, weight, blocks)
    return {name: v.flatten(end_dim=1).numpy() for name, v in found.items() if name != "y"}


@pytest.mark.parametrize("seed", CASES)
def test_crps_is_scoringrules(seed):
    sr = pytest.importorskip("scoringrules")
    f, y, tau = ensemble(seed)
    k = f.shape[1]
    found = digested(f, y, tau, mixture=False)
    ours = found["distance"].mean(axis=1) - found["spread"] / 2
    assert ours == pytest.approx(sr.crps_ensemble(y, f, estimator="fair"), abs=1e-9)
    found = digested(f, y, tau, mixture=True)
    pairs = (1 - 1 / k) * found["spread"] + found["own_spread"] / k
    ours = found["distance"].mean(axis=1) - pairs / 2
    wanted = sr.crps_mixnorm(y, f, np.full_like(f, tau**-0.5), np.full_like(f, 1 / k))
    assert ours == pytest.approx(wanted, abs=1e-6)
    # With each replicate left out: what the others give by themselves.
    for r in range(min(k, 3)):
        if k > 2:
            without = digested(np.delete(f, r, axis=1), y, tau, mixture=True)["spread"]
            assert found["spread_without"][:, r] == pytest.approx(without, abs=1e-9)


@pytest.mark.parametrize("block", [1, 2, 4, 8])
@pytest.mark.parametrize("mixture", [False, True])
def test_pairs_leave_out_those_of_one_block(block, mixture):
    """Against all pairs written out; the mixture's, which are a part of them, in the mean over many entries."""
    rng = np.random.default_rng(block)
    k = 70
    f, tau = rng.normal(size=(6, k)), 4.0
    blocks = np.full(-(-k // block), block)
    blocks[-1] = k - block * (len(blocks) - 1)
    owner = np.repeat(np.arange(len(blocks)), blocks)
    apart = owner[:, None] != owner
    all_pairs = normal_distance(f[:, :, None] - f[:, None], 2**0.5 * tau**-0.5 if mixture else 0.0)
    found = digested(f, np.zeros(6), tau, mixture, blocks)
    wanted = (all_pairs * apart).sum(axis=(1, 2)) / apart.sum()
    assert found["spread"] == pytest.approx(wanted, rel=0.05 if mixture else 1e-12)
    sizes = np.array([len(part) for part in np.array_split(np.arange(len(blocks)), min(64, len(blocks)))])
    replicate = np.repeat(np.arange(len(sizes)), np.add.reduceat(blocks, np.cumsum([0, *sizes[:-1]])))
    for r in (0, 1, len(sizes) - 1):
        left = apart & (replicate[:, None] != r) & (replicate != r)
        wanted = (all_pairs * left).sum(axis=(1, 2)) / left.sum()
        assert found["spread_without"][:, r] == pytest.approx(wanted, rel=0.08 if mixture else 1e-12)


@pytest.mark.parametrize("seed", CASES)
def test_regression_is_sklearns_and_the_toolboxs(seed):
    uct = pytest.importorskip("uncertainty_toolbox")
    f, y, tau = ensemble(seed)
    mean, sigma = f.mean(axis=1), tau**-0.5
    known = at_point(y, mean, tau, mixture=True)
    found = {m.name: float(m.value(known, None)[0]) for m in regression_measures(known)}
    std = np.full_like(mean, sigma)
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(y, mean), abs=1e-12)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(y, mean), abs=1e-12)
    assert found["crps"] == pytest.approx(uct.crps_gaussian(mean, std, y), abs=1e-9)
    assert -found["log_likelihood"] == pytest.approx(uct.nll_gaussian(mean, std, y), abs=1e-9)
    assert found["sharpness"] == pytest.approx(uct.sharpness(std), abs=1e-12)
    assert found["miscalibration_area"] == pytest.approx(
        uct.miscalibration_area(mean, std, y, num_bins=100, prop_type="interval"), abs=1e-6
    )
    assert float(miscalibration_area(known.pit, np.ones((1, len(y))))[0]) == pytest.approx(found["miscalibration_area"])


def test_what_evaluate_says_is_what_the_samples_say():
    """From the model to the number: the plug-in metrics are those of the kept samples."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 16), nn.ReLU(), nn.Dropout(0.3))
    x = torch.randn(60, 4)
    classifier, y = net.append(nn.Linear(16, 3)), torch.randint(0, 3, (60,))
    result = am.predict(classifier, x, task="multiclass", n_masks=100, keep_samples=True)
    found = result.evaluate(y)
    p = result.samples.mean(dim=0).numpy()
    for name, value in {
        "log_loss": sk.log_loss(y, p, labels=range(3)),
        "accuracy": sk.accuracy_score(y, p.argmax(axis=1)),
        "brier": ((p - np.eye(3)[y]) ** 2).sum(axis=1).mean(),
        "error_entropy_auroc": sk.roc_auc_score(p.argmax(axis=1) != y.numpy(), -(p * np.log(p)).sum(axis=1)),
    }.items():
        assert found[name].plug_in == pytest.approx(value, abs=1e-9), name
    entropy = -(p * np.log(p)).sum(axis=1)
    each = result.samples.numpy()
    information = entropy + (each * np.log(each)).sum(axis=2).mean(axis=0)
    assert found["error_mutual_information_auroc"].plug_in == pytest.approx(
        sk.roc_auc_score(p.argmax(axis=1) != y.numpy(), information), abs=1e-9
    )
    at_mean = result.weight_scaling.numpy()
    assert found["log_loss"].weight_scaling.value == pytest.approx(sk.log_loss(y, at_mean, labels=range(3)), abs=1e-9)
