"""Audits built by hand: known numbers, hostile names, no model behind them."""

from types import SimpleNamespace

import numpy as np
import torch

from allmasks.diagnose import Audit, ConvergencePoint, SitePenalty
from allmasks.diagnose.audit import explain
from allmasks.methods import Enumeration, MonteCarlo
from allmasks.results import ExpectedLoss

EVIL_MODEL = "<script>alert(1)</script>"
EVIL_SITE = "a</script><b>"


def make_site(name, p=0.5, units=64, **changes):
    fields = {
        "kind": "dropout",
        "shape": (units,),
        "mean_preserving": True,
        "controllable": True,
        "reason": None,
        "batch_dim": 0,
        "after": None,
    }
    return SimpleNamespace(name=name, p=p, units=units, **(fields | changes))


def make_audit(*, exact=False, names=("input.drop", "block1.drop", "block2.drop"), **changes):
    rng = np.random.default_rng(0)
    per_example = torch.as_tensor(rng.gamma(0.5, 0.46276, 500))
    value = 0.23138
    at_mean = 0.18214
    error = 2e-15 if exact else 0.00061
    guarantee = "exact" if exact else "statistical"
    expected = ExpectedLoss(
        value=torch.tensor(value, dtype=torch.float64),
        error=torch.tensor(error, dtype=torch.float64),
        guarantee=guarantee,
        method=Enumeration() if exact else MonteCarlo(),
        n_masks=4096 if exact else 1024,
        per_example=per_example,
        per_example_error=torch.full_like(per_example, error * 20),
        weight_scaling_loss=torch.tensor(at_mean, dtype=torch.float64),
        penalty=torch.tensor(value - at_mean, dtype=torch.float64),
        penalty_error=torch.tensor(error, dtype=torch.float64),
        replicates=None if exact else torch.as_tensor(rng.normal(value, 0.0035, 32)),
    )
    sites = tuple(make_site(name, p=0.2 if i == 0 else 0.5) for i, name in enumerate(names))
    alone = (0.00801, 0.02112, 0.01604, *[0.001] * len(names))
    per_site = tuple(
        SitePenalty(site, a, error / 2, a * 1.15, error / 3, guarantee) for site, a in zip(sites, alone, strict=False)
    )
    k = 2 ** np.arange(9)
    means = value + 0.02 / np.sqrt(k) * rng.standard_normal(9)
    fields = {
        "model_name": "Net",
        "n_examples": 500,
        "loss": "cross_entropy",
        "units": "nats",
        "seed": 0,
        "sites": sites,
        "expected": expected,
        "per_site": per_site,
        "interaction": value - at_mean - sum(one.alone for one in per_site),
        "interaction_error": error,
        "convergence": tuple(ConvergencePoint(int(n), float(v), 0.02 / n**0.5) for n, v in zip(k, means, strict=True)),
        "exact": value if exact else None,
        "reference": value,
        "train_mode_loss": value,
        "train_mode_error": error,
        "eval_mode_loss": at_mean,
        "explanation": explain(value, error, at_mean, value - at_mean, random=True),
        "penalty_share": (value - at_mean) / value,
        "penalty_share_error": at_mean / value**2 * error,
        "seconds": 3.21,
        "notes": (),
    }
    return Audit(**(fields | changes))
