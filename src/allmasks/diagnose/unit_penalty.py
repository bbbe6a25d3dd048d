"""Who pays the penalty within a site: the loss that each unit's mask alone adds, beside its second-order form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from allmasks.diagnose.scaled_units import ScaledUnits, each_site
from allmasks.results import Guarantee, Result, plain_numbers
from allmasks.sites import DropoutSite, leaves_no_trace

__all__ = ["UnitPenalty", "measure_unit_penalty", "unit_penalty"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class UnitPenalty(Result):
    """What each unit's mask alone costs; all arrays are (units,).

    Attributes
    ----------
    penalty, penalty_error : E[L | only unit j random] − L, in the units of the loss, and its round-off bound.
    second_order : ½ · p/(1−p) · hⱼ² · ∂²L/∂hⱼ², averaged over examples; nan where the model has no second derivative.
    mean, variance : of the unit's activation over the examples.
    noise_variance : p/(1−p) · E[hⱼ²], the variance that dropout adds.
    dead_fraction : share of examples in which the unit is exactly 0.
    guarantee : "exact": the examples are taken as given.
    """

    site: DropoutSite
    penalty: Array
    penalty_error: Array
    second_order: Array
    mean: Array
    variance: Array
    noise_variance: Array
    dead_fraction: Array
    n_examples: int
    guarantee: Guarantee = "exact"

    @property
    def dead(self) -> list[int]:
        """Units that are 0 in every example."""
        return np.flatnonzero(self.dead_fraction == 1.0).tolist()

    @property
    def order(self) -> list[int]:
        """Units, those that pay most first."""
        return np.argsort(-self.penalty, kind="stable").tolist()

    @property
    def agreement(self) -> float:
        """1 − Σ|second order − penalty| / Σ|penalty|: 1 where the second order is all there is; nan without penalty."""
        total = float(np.abs(self.penalty).sum())
        return 1.0 - float(np.abs(self.second_order - self.penalty).sum()) / total if total > 0 else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Every field in plain numbers, ready for json.dump."""
        return super().to_dict() | {"agreement": plain_numbers(self.agreement), "dead": self.dead}


@leaves_no_trace
def unit_penalty(
    model: nn.Module,
    data: Any,
    y: Any = None,
    loss: Any = None,
    *,
    sites: Iterable[str] | None = None,
    leave_off: str | Sequence[str] = (),
) -> list[UnitPenalty]:
    """The penalty unit by unit: (1−p) L(hⱼ/(1−p)) + p L(0) − L(hⱼ), all other units and sites at their mean mask.

    Two passes of what follows the site for each unit, many units in one batch; no Hessian is needed, and the
    second-order form (Wager, Wang & Liang 2013) stands beside it to be judged.

    Parameters
    ----------
    model, data, y, loss : as in `am.audit`.
    sites : names of dropout sites; default all whose units can be removed.
    leave_off : as in `am.expected_loss`.

    Raises
    ------
    ValueError : a name that is no such site, or a model without one; and as `expected_loss`.

    Examples
    --------
    >>> net = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 1, bias=False)).double()
    >>> with torch.no_grad():
    ...     _ = net[1].weight.copy_(torch.tensor([[1.0, -1.0, 2.0]]))
    >>> x, y = torch.tensor([[1.0, 2.0, -1.0]]).double(), torch.zeros(1, 1).double()
    >>> found = unit_penalty(net, (x, y), "squared_error")[0]
    >>> found.penalty.tolist(), found.second_order.tolist()  # w² x², as in the notes' example
    ([1.0, 4.0, 4.0], [1.0, 4.0, 4.0])
    """
    return [measure_unit_penalty(run) for run in each_site(model, data, y, loss, sites, leave_off)]


def measure_unit_penalty(run: ScaledUnits) -> UnitPenalty:
    """`unit_penalty` of one site that is ready to run."""
    p, units, weight, share = run.site.p, run.units, run.problem.weight.cpu(), run.problem.share.cpu()
    at_mean, at_mean_error = run.losses(run.ones(1), with_error=True)
    dropped, kept = run.ones(units), run.ones(units)
    dropped.fill_diagonal_(0.0)
    kept.fill_diagonal_(1.0 / (1.0 - p))
    off, off_error = run.losses(dropped, with_error=True)
    on, on_error = run.losses(kept, with_error=True)
    penalty = run.averaged((1 - p) * on + p * off - at_mean)
    size = (1 - p) * on.abs() + p * off.abs() + at_mean.abs()
    error = run.averaged((1 - p) * on_error + p * off_error + at_mean_error) + run.summing(size)
    h, squares = run.activations(), run.squares()
    mean = share @ h
    second = 0.5 * p / (1 - p) * (weight @ run.curvature())
    return UnitPenalty(
        site=run.site,
        penalty=penalty.numpy(),
        penalty_error=error.numpy(),
        second_order=second.numpy(),
        mean=mean.numpy(),
        variance=(share @ (h - mean) ** 2).numpy(),
        noise_variance=(p / (1 - p) * (share @ squares)).numpy(),
        dead_fraction=_share(run.silent()),
        n_examples=run.n_examples,
    )


def _share(silent: torch.Tensor) -> Array:
    # A sum of ones divided by their number is exactly 1, which "dead" relies on.
    return (silent.sum(dim=0) / len(silent)).numpy()
