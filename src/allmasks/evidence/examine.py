"""One trained net looked at with every instrument: the numbers that the claims share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from allmasks.diagnose.co_adaptation import measure_co_adaptation
from allmasks.diagnose.concentration import measure_concentration
from allmasks.diagnose.robustness import measure_robustness
from allmasks.diagnose.scaled_units import ScaledUnits
from allmasks.diagnose.unit_penalty import measure_unit_penalty
from allmasks.expect import prepare

if TYPE_CHECKING:
    from allmasks.evidence.shared_nets import Lab

__all__ = ["FRACTIONS", "SITES", "contributions", "correlation", "examine"]

SITES = ("2", "5")
FRACTIONS = tuple(np.round(np.arange(0, 1, 0.1), 1))


def examine(lab: Lab, dataset: str, arm: str, seed: int) -> dict[str, Any]:
    """Plain numbers; those of a site are averaged over the net's two hidden layers."""
    net = lab.net(dataset, arm, seed)
    x, y = lab.tensors(dataset, seed, "test", 100)
    held_out = prepare(net, x, y, "cross_entropy")
    training = prepare(net, *lab.tensors(dataset, seed, "train", 100), "cross_entropy")
    rows: list[dict[str, Any]] = []
    for name in SITES:
        site = next(s for s in held_out.look.sites if s.name == name)
        run = ScaledUnits(held_out, site)
        pairs = measure_co_adaptation(run, max_pairs=400)
        shares = measure_concentration(run, n_orders=16)
        robust = measure_robustness(run, FRACTIONS, n_orders=16)
        assert robust.accuracy is not None
        assert robust.worst_accuracy is not None
        paid = measure_unit_penalty(ScaledUnits(training, site))
        h = run.activations()
        incoming = _weight(net, int(name) - 2)
        outgoing = _weight(net, int(name) + 1)
        full = max(float(robust.accuracy[0]), 1e-9)
        loss_scale = float(np.abs(shares.shapley).sum())
        rows.append(
            {
                "co_adaptation": pairs.strength,
                "correlation": pairs.mean_correlation,
                "effective_rank": pairs.effective_rank / run.units,
                "gini": shares.gini,
                "entropy": shares.entropy,
                "carry_90": shares.carry_90 / run.units,
                "importance": np.sort(np.abs(shares.shapley))[::-1].tolist(),
                "worst_unit": float(shares.ablation.max()) / max(loss_scale, 1e-12),
                "robust": robust.area / full,
                "robust_worst": robust.worst_area / full,
                "accuracy_curve": (robust.accuracy / full).tolist(),
                "worst_curve": (robust.worst_accuracy / full).tolist(),
                "zeros": float((h == 0).double().mean()),
                "activation": float(h.mean()),
                "dead": float(np.mean(paid.dead_fraction == 1)),
                "penalty": float(paid.penalty.sum()),
                "penalty_second": float(paid.second_order.sum()),
                "penalty_rank": correlation(paid.penalty, paid.noise_variance),
                "penalty_r2": _proportional(paid.penalty, paid.noise_variance),
                "output_noise": _output_noise(h, outgoing),
                "cosine": _mean_cosine(incoming),
            }
        )
    weights = torch.cat([layer.weight.detach().flatten() for layer in net if isinstance(layer, nn.Linear)])
    site = next(s for s in training.look.sites if s.name == "5")
    penalties = measure_unit_penalty(ScaledUnits(training, site)).penalty
    squared = (_weight(net, 6) ** 2).sum(0).numpy()
    lam = np.where(squared > 0, penalties / np.where(squared > 0, squared, 1), 0.0)
    out = {key: np.mean([row[key] for row in rows], axis=0).tolist() for key in rows[0]}
    return out | {
        "norm": float(weights.norm()),
        "zero_weights": float((weights.abs() < 1e-8).double().mean()),
        "gradient": _input_gradient(net, x),
        "noisy_accuracy": _noisy_accuracy(net, x, y, seed),
        "lambda": np.sort(lam)[::-1].tolist(),
        "lambda_spread": float(lam.std() / lam.mean()) if lam.mean() > 0 else 0.0,
    }


def correlation(a: Any, b: Any) -> float:
    """Spearman's rank correlation; 0 where one side is constant, which says nothing."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(spearmanr(a, b).statistic)


def contributions(net: nn.Sequential, x: Tensor, site: str) -> tuple[np.ndarray, np.ndarray]:
    """(units,) E[h²], what a unit's mask can stir up, and E[h²] ‖w_out‖², how much of it reaches the next layer."""
    index = int(site)
    with torch.no_grad():
        h = net[:index](x)
    squares = (h**2).mean(0)
    return squares.numpy(), (squares * (_weight(net, index + 1) ** 2).sum(0)).numpy()


def _weight(net: nn.Sequential, index: int) -> Tensor:
    layer = net[index]
    assert isinstance(layer, nn.Linear)
    return layer.weight.detach()


def _proportional(y: np.ndarray, x: np.ndarray) -> float:
    """R² of y = c·x, against no fit at all: 1 where y is proportional to x."""
    total = float(y @ y)
    return float(x @ y) ** 2 / (float(x @ x) * total) if total > 0 and float(x @ x) > 0 else 0.0


def _output_noise(h: Tensor, outgoing: Tensor) -> float:
    """Log of the variance that masks of p = 1/2 stir up in the next layer, over that layer's own variance."""
    noise = float(((h**2).mean(0) * (outgoing**2).sum(0)).sum())
    signal = float((h @ outgoing.T).var(dim=0).sum())
    return math.log(noise / signal) if noise > 0 and signal > 0 else 0.0


def _mean_cosine(weight: Tensor) -> float:
    """Mean |cosine| between the incoming weights of different units."""
    unit = nn.functional.normalize(weight, dim=1)
    cosine = (unit @ unit.T).abs()
    n = len(cosine)
    return float((cosine.sum() - cosine.diagonal().sum()) / (n * (n - 1)))


def _input_gradient(net: nn.Module, x: Tensor) -> float:
    """Log of the root mean square Jacobian of the class probabilities by the inputs."""
    jacobian = torch.func.vmap(torch.func.jacrev(lambda row: net(row).softmax(-1)))(x)
    return 0.5 * math.log(float((jacobian.detach() ** 2).sum(dim=(1, 2)).mean()) + 1e-30)


def _noisy_accuracy(net: nn.Module, x: Tensor, y: Tensor, seed: int) -> float:
    """Accuracy with Gaussian noise of standard deviation 1/2 on the standardized inputs, 8 draws."""
    noise = torch.randn(8, *x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)
    with torch.no_grad():
        return float((net(x + 0.5 * noise).argmax(-1) == y).double().mean())
