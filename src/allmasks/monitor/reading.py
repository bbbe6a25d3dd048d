"""One look at a model in training: what the callbacks and the plain loop's monitor all log."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from allmasks.diagnose.audit import all_and_alone, combine
from allmasks.expect import Expectation, Request, prepare
from allmasks.expect.arguments import data_and_loss
from allmasks.methods import Method
from allmasks.over_masks.shards import shard
from allmasks.ranks.agreement import agree_on_call
from allmasks.ranks.groups import ALONE, Group, join
from allmasks.results import ExpectedLoss, Guarantee, Result
from allmasks.sites import borrowed, check_module, leaves_no_trace, patterns_of

__all__ = ["LOG", "PREFIX", "Question", "Reading", "SiteShare", "all_ranks", "check_every", "read", "unstopped"]

PREFIX = "allmasks/"
"""What the names that are logged begin with."""

LOG = logging.getLogger("allmasks.monitor")

_RESOLVED = 4
"""A ratio is taken only where the penalty below it is at least this many times its error; else it says nothing."""


@dataclass(frozen=True)
class SiteShare:
    """What one site adds.

    Attributes
    ----------
    name, p : the site, and its drop rate at the time.
    penalty, penalty_error : E[L | only this site random] − weight-scaling loss, in units of the loss.
    share, share_error : that penalty over the whole one. Shares need not sum to 1, since sites act on one another;
        both are nan where the whole penalty is not told from 0.
    guarantee : of `penalty`.
    reliable : whether both errors can be trusted, as in `ExpectedLoss`.
    """

    name: str
    p: float
    penalty: float
    penalty_error: float
    share: float
    share_error: float
    guarantee: Guarantee
    reliable: bool = True


@dataclass(frozen=True)
class Reading(Result):
    """A model's loss over all masks at one moment of its training.

    Attributes
    ----------
    weight_scaling_loss : what the model loses in eval mode.
    expected_loss, expected_loss_error : E_m[L], and its error in the sense of `guarantee`.
    penalty, penalty_error : their difference: what dropout adds.
    guarantee, method, n_masks : as in `ExpectedLoss`.
    sites : one `SiteShare` for each site that was found, those with p = 0 included.
    reason : None; or why nothing could be measured at that moment, all numbers then being nan.
    reliable : whether the error of the expected loss can be trusted, as in `ExpectedLoss`; `notes` say why not.
    """

    weight_scaling_loss: float
    expected_loss: float
    expected_loss_error: float
    penalty: float
    penalty_error: float
    guarantee: Guarantee
    method: Method | None
    n_masks: int
    sites: tuple[SiteShare, ...]
    reason: str | None = None
    reliable: bool = True
    notes: tuple[str, ...] = ()

    def scalars(self, prefix: str = PREFIX) -> dict[str, float]:
        """Every number under the name it is logged by, such as "allmasks/penalty" and "allmasks/share/<site>"."""
        names = ("weight_scaling_loss", "expected_loss", "expected_loss_error", "penalty", "penalty_error")
        found = {name: getattr(self, name) for name in names}
        for site in self.sites:
            for name in ("p", "penalty", "penalty_error", "share", "share_error"):
                found[f"{name}/{site.name}"] = getattr(site, name)
        return {prefix + name: value for name, value in found.items()}

    def finite(self, prefix: str = PREFIX) -> dict[str, float]:
        """The same without what is unknown (nan), which charts and JSON have no place for."""
        return {name: value for name, value in self.scalars(prefix).items() if math.isfinite(value)}


@dataclass(frozen=True)
class Question:
    """What is asked at every reading: the data, the loss, and how its mean is taken. See `read`."""

    data: Any
    loss: Any
    method: Method | None = None
    n_masks: int | None = None
    atol: float | None = None
    seed: int = 0
    batch_size: int | None = None
    leave_off: str | Sequence[str] = ()

    @property
    def request(self) -> Request:
        """The part of it that `expect` knows."""
        return Request(self.method, self.n_masks, self.atol, None, None, self.seed)

    @contextmanager
    def problem(self, model: nn.Module) -> Iterator[Expectation]:
        """The model looked at; when the block ends it, its generators and the loader's are as they were."""
        group = all_ranks()
        check_module(model)
        with borrowed(model), torch.no_grad():
            asked: dict[str, Any] = {
                "method": self.method,
                "n_masks": self.n_masks,
                "atol": self.atol,
                "seed": self.seed,
            }
            asked["leave_off"] = patterns_of(self.leave_off)
            agree_on_call(group, "a monitor's reading", model, self.loss, **asked)
            own = group.run(lambda: self.data if group is ALONE else shard(self.data, group))
            how: dict[str, Any] = {"batch_size": self.batch_size, "leave_off": self.leave_off, "group": group}
            yield prepare(model, own, None, self.loss, **how, paired=True)

    @leaves_no_trace
    def check(self, model: nn.Module) -> tuple[str, ...]:
        """Raise now what the first reading would raise after hours of training; draws no mask. The sites' names."""
        with self.problem(model) as problem:
            problem.look.group.run(lambda: problem.plan(self.request))
            return tuple(site.name for site in problem.look.sites)

    def attempt(self, model: nn.Module, sites: tuple[str, ...] = ()) -> Reading:
        """See `read`; but a training is never stopped by being watched: what is raised becomes the reading's reason.

        Losses that are not finite, a rate of 1, memory that is short: the reason is logged too, as a warning of the
        logger "allmasks.monitor".
        """
        try:
            return self.read(model)
        except Exception as problem:
            reason = f"{type(problem).__name__}: {problem}"
            LOG.warning("nothing was measured, and training goes on: %s", reason)
            nan = math.nan
            shares = tuple(SiteShare(name, nan, nan, nan, nan, nan, "uncontrolled", False) for name in sites)
            return Reading(nan, nan, nan, nan, nan, "uncontrolled", self.method, 0, shares, reason, False)

    @leaves_no_trace
    def read(self, model: nn.Module) -> Reading:
        """See `read`."""
        with self.problem(model) as problem:
            expected, _, alone = all_and_alone(problem, self.request)
        return Reading(
            weight_scaling_loss=float(expected.weight_scaling_loss),
            expected_loss=float(expected.value),
            expected_loss_error=float(expected.error),
            penalty=float(expected.penalty),
            penalty_error=float(expected.penalty_error),
            guarantee=expected.guarantee,
            method=expected.method,
            n_masks=expected.n_masks,
            sites=tuple(_share(site.name, site.p, alone.get(site.name), expected) for site in problem.look.sites),
            reliable=expected.reliable,
            notes=expected.notes,
        )


def read(model: nn.Module, data: Any, y: Any = None, loss: Any = None, **how: Any) -> Reading:
    """Measure a model in the middle of its training, and leave that training as it was, bit for bit.

    Parameters
    ----------
    model : any module; it is only borrowed.
    data, y : a pair (x, y) as one argument or as two, or a DataLoader.
    loss : as in `expected_loss`.
    how : method, n_masks, atol, seed, batch_size, as in `expected_loss`. The same seed every time means the same masks
        every time, so that a change along training is the model's.

    Where torch.distributed is running, every rank must call this with the same data, of which it measures its share.

    Raises
    ------
    ValueError, MethodNotApplicable, UncontrolledRandomness : as `expected_loss`.

    >>> net = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(3, 1))
    >>> reading = read(net, (torch.ones(4, 3), torch.zeros(4, 1)), "squared_error")
    >>> reading.guarantee, round(reading.sites[0].share, 6)
    ('exact', 1.0)
    """
    return Question(*data_and_loss(data, y, loss), **how).read(model)


def _share(name: str, p: Any, alone: ExpectedLoss | None, expected: ExpectedLoss) -> SiteShare:
    rate = float(torch.as_tensor(p, dtype=torch.float64).mean())
    own = 0.0 if alone is None else float(alone.penalty)
    own_error = 0.0 if alone is None else float(alone.penalty_error)
    whole, whole_error = float(expected.penalty), float(expected.penalty_error)
    share = share_error = math.nan
    if whole != 0 and abs(whole) >= _RESOLVED * whole_error:
        share = own / whole
        if alone is None:
            share_error = 0.0
        elif alone.replicates is not None and expected.replicates is not None:
            # The same masks stand above and below the line: first order in the difference of the two, block by block.
            share_error = combine([(1.0, alone), (-share, expected)])[1] / abs(whole)
        else:
            share_error = (own_error + abs(share) * whole_error) / (abs(whole) - whole_error)
    guarantee: Guarantee = "exact" if alone is None else alone.guarantee
    reliable = expected.reliable and (alone is None or alone.reliable)
    return SiteShare(name, rate, own, own_error, share, share_error, guarantee, reliable)


@contextmanager
def unstopped(what: str) -> Iterator[None]:
    """What is raised inside is logged, and goes no further: a training does not end for the sake of its log."""
    try:
        yield
    except Exception as problem:
        LOG.warning("%s, and training goes on: %s: %s", what, type(problem).__name__, problem)


def check_every(every: int) -> int:
    """A number of epochs between two readings."""
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(f"every must be a whole number of epochs of at least 1, got {every!r}")
    return every


def all_ranks() -> Group:
    """The processes that train together, or this one alone."""
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return join("world" if several else None)
