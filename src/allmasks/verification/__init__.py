"""Is a training step's dropout what it should be?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from allmasks.expect.arguments import settled
from allmasks.over_masks.data import Data
from allmasks.over_masks.loaders import is_loader
from allmasks.over_masks.progress import progress_bar
from allmasks.ranks.groups import join
from allmasks.sites import class_name, leaves_no_trace
from allmasks.verification.checking import Asked, Run, check
from allmasks.verification.detectable import rate_detectable, spread_factor
from allmasks.verification.diagnosis import diagnose
from allmasks.verification.faults import FAULTS, Check, Finding, Verification
from allmasks.verification.meant import read_meant
from allmasks.verification.steps import all_kept

__all__ = ["FAULTS", "Check", "Finding", "Verification", "verify"]


@leaves_no_trace
def verify(
    model: nn.Module,
    x: Any,
    y: Any = None,
    loss: Any = None,
    *,
    step: Callable[[], Any] | None = None,
    expect: Any = None,
    passes: int | None = None,
    level: float = 1e-6,
    seed: int = 0,
    leave_off: str | Sequence[str] = (),
    group: Any = None,
    same_masks: Sequence[str] = (),
    progress: bool = False,
) -> Verification:
    """Whether a step's dropout is what it should be: on, at its rate, fresh, independent, the same in backward.

    The passes of a right step are draws of one law, whose mean E_m[L], spread and gradient the library knows; each is
    tested, and where masks can be seen, they are tested site by site. The model is only borrowed.

    Parameters
    ----------
    model, x, y, loss : as in `expected_loss`; of a loader, the first batch. What the model itself says is taken as
        meant, unless `expect` says otherwise.
    step : () -> the scalar loss of your own training forward on that very batch (compiled, checkpointed, under
        autocast, wrapped, fused, distributed), with training flags as you have set them; None for the model in train
        mode.
    expect : what is meant: {site or pattern: p, or {"p", "kind", "sharing"}}, or the path of a TOML file with a table
        [sites] (`allmasks sites --write` makes one). `sharing` is "element", "time" (one mask over time), "channel",
        "row" (one bit an example) or "batch" (one mask for all examples).
    passes : training passes; None for enough to catch, with probability .9, a rate off by .05 (or by a quarter of p, if
        that is less) at the site that matters least among those whose E_m[L] shows it, within 96 … 400.
    level : at most this is the probability that a right step is called wrong, over all tests together.
    seed : of the passes and of the masks of E_m[L]; with a group each rank's generators go on as they are.
    leave_off : as in `expected_loss`: randomness of training that is no matter of this test; E_m[L] is then not that of
        the step, and the tests against it are left out.
    group : as in `expected_loss`: every rank makes this call with its own step. Ranks that share masks are found.
    same_masks : patterns of sites whose masks ranks must share (tensor parallelism).
    progress : show a progress bar.

    Returns
    -------
    Verification
        `.ok`, `.findings`, `.raise_if_failed()`, `.detectable`; printable.

    Raises
    ------
    TypeError, ValueError : a step that returns no scalar, is not finite, or moves the parameters; a bad expectation.

    Tests of losses compare two exchangeable samples over all ways of dealing them out (Robinson 1982), those of bits
    are exact (binomial, Fisher); p-values are multiplied by the number of tests.

    Examples
    --------
    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.Dropout(0.5), torch.nn.Linear(32, 1))
    >>> x, y = torch.randn(16, 4), torch.randn(16, 1)
    >>> verify(net, x, y, "squared_error", passes=64).ok
    True
    >>> net[1].p = 0.0
    >>> [finding.fault for finding in verify(net, x, y, "squared_error", passes=64, expect={"1": 0.5}).findings]
    ['off']
    """
    began = time.perf_counter()
    _check_arguments(model, step, passes, level, seed)
    same_masks = (same_masks,) if isinstance(same_masks, str) else tuple(same_masks)
    if same_masks and group is None:
        raise ValueError("same_masks is about ranks: pass group= beside it")
    ranks = join(group)
    meant = read_meant(expect)
    x, y, the_loss = settled(x, y, loss)
    if is_loader(x):
        batch = Data(x, targets=the_loss.needs_target).first(1 << 62)
        x, y = batch.kwargs or batch.args, batch.target
    with progress_bar(progress, "verify") as (start, tick), all_kept(model, step) as modules:
        if start is not None:
            start(passes or 200)
        tick = tick or (lambda done: None)
        options: dict[str, Any] = {
            "leave_off": leave_off,
            "ranks": ranks,
            "same_masks": tuple(same_masks),
            "tick": tick,
        }
        asked = Asked(model, x, y, the_loss, step, meant, passes, level, seed, **options)
        run = check(asked, modules)
    findings, checks = diagnose(run.evidence, level / ranks.size)
    if ranks.size > 1:
        everywhere = [finding for one in ranks.gather(findings) for finding in one]
        findings = tuple({(f.site, f.property, f.fault): f for f in reversed(everywhere)}.values())[::-1]
    law = run.evidence.law
    return Verification(
        model_name=class_name(model),
        n_examples=run.n_examples,
        loss=the_loss.name,
        findings=findings,
        checks=checks,
        detectable=_detectable(run, level, len(checks)),
        level=level,
        passes=len(run.passes.losses),
        witnessed=run.witnessed,
        sites=tuple(site.name for site in run.sites),
        expected_loss=law.expected,
        expected_error=law.error,
        mean_loss=law.mean,
        eval_mode_loss=run.eval_loss,
        seed=seed,
        seconds=time.perf_counter() - began,
        notes=tuple(run.notes),
    )


def _check_arguments(model: Any, step: Any, passes: Any, level: Any, seed: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if step is not None and not callable(step):
        raise TypeError(f"step must be a function without arguments that returns the loss, got {type(step).__name__}")
    if passes is not None and (isinstance(passes, bool) or not isinstance(passes, int) or passes < 8):
        raise ValueError(f"passes must be a whole number of at least 8, got {passes!r}")
    if not (isinstance(level, int | float) and 0 < level < 1):
        raise ValueError(f"level must lie in (0, 1), got {level!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise ValueError(f"seed must be an integer from 0 to 2**64 - 1, got {seed!r}")


def _detectable(run: Run, level: float, tests: int) -> dict[str, float]:
    """Property → the smallest discrepancy that is caught with probability .9."""
    factor = spread_factor(level, tests)
    found: dict[str, float] = {}
    evidence, k = run.evidence, len(run.passes.losses)
    lawful = evidence.lawful
    found["serial correlation"] = factor / k**0.5
    by_loss = float("nan")
    if lawful is not None and lawful.spread > 0:
        by_loss = factor * lawful.spread * (1 / k + 1 / len(lawful.losses)) ** 0.5 + evidence.resolution
        found["mean loss"] = by_loss
        # The spread of a spread, from the fourth moment of the draws.
        centered = lawful.losses - lawful.losses.mean()
        kurtosis = float((centered**4).mean() / max((centered**2).mean() ** 2, 1e-300))
        found["spread of the loss"] = factor * ((max(kurtosis - 1, 0.1) / 4) * (1 / k + 1 / len(centered))) ** 0.5
        if lawful.along.size:
            first = lawful.along[:, 0]
            size = abs(float(first.mean()))
            if size > 0:
                found["gradient"] = factor * float(first.std(ddof=1)) * (2 / len(first)) ** 0.5 / size
    seen = {one.name: one for one in run.found}
    for site in run.sites:
        if not 0 < site.p < 1:
            continue
        reach = []
        one = seen.get(site.name)
        if one is not None and one.bits is not None:
            reach.append(rate_detectable(site.p, int((one.bits >= 0).sum()), level / max(tests, 1)))
        slope = run.slopes.get(site.name)
        if slope is not None and slope.visible and by_loss == by_loss:
            reach.append(by_loss / abs(slope.value))
        reach = [value for value in reach if value == value]
        if reach:
            found[f"rate of {site.name}"] = min(reach)
    return found
