"""From a prediction and its targets to scored entries: of all masks, of any share of its replicates, of eval mode."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allmasks.evaluation.classes import Classes, Mixed
from allmasks.evaluation.digest import SampleDigest
from allmasks.evaluation.measures import Floats
from allmasks.evaluation.regressions import Regressions, at_point
from allmasks.evaluation.resampling import Masked
from allmasks.prediction import Prediction
from allmasks.prediction.held import Held

__all__ = ["classes_of", "fitted_precision", "held_by", "mixed", "probabilities", "regressions_of", "samples_digested"]


def held_by(prediction: Any) -> Held:
    """What a prediction keeps for being looked at, or a ValueError."""
    if not isinstance(prediction, Prediction):
        raise TypeError(f"prediction must be what am.predict returns, got {type(prediction).__name__}")
    if prediction.held is None:
        raise ValueError(
            "metrics need a prediction of one tensor, and this one holds several; wrap the model so that it returns "
            "the tensor that is meant"
        )
    return prediction.held


def _entries(values: Tensor, classes: int | None = None) -> Floats:
    """(n, …) as (N,), or (N, C) with the classes on this axis."""
    if classes is not None:
        values = values.movedim(classes, -1)
        return values.reshape(-1, values.shape[-1]).double().cpu().numpy()
    return values.reshape(-1).double().cpu().numpy()


def _by_replicate(values: Tensor, keep: NDArray[np.bool_], classes: int | None = None) -> NDArray[np.float32]:
    """Deviations (n, r, …) as (r, N), or (r, N · C)."""
    values = values.movedim(1, 0)
    if classes is not None:
        values = values.movedim(classes, -1)
        flat = values.reshape(len(values), -1, values.shape[-1]).cpu().numpy()[:, keep]
    else:
        flat = values.reshape(len(values), -1).cpu().numpy()[:, keep]
    return np.ascontiguousarray(flat.reshape(len(flat), -1))


def probabilities(prediction: Prediction, quantity: str = "mean") -> Floats:
    """(N, C) class probabilities of "mean" or "weight_scaling"; of a binary score those of 0 and 1."""
    held = held_by(prediction)
    values = held.front(getattr(prediction, quantity))
    if prediction.task == "multiclass":
        return _entries(values, held.class_dim)
    p = _entries(values)
    return np.stack([1 - p, p], axis=1)


def classes_of(prediction: Prediction, y: Tensor | None, keep: NDArray[np.bool_]) -> Masked:
    """A classification's scored entries.

    Parameters
    ----------
    y : targets in the output's layout with the examples first; None for data without.
    keep : (N,) which entries count.
    """
    held = held_by(prediction)
    dim = held.class_dim if prediction.task == "multiclass" else None
    p, center = probabilities(prediction)[keep], probabilities(prediction, "weight_scaling")[keep]
    label = np.zeros(0, np.int64) if y is None else y.reshape(-1).long().cpu().numpy()[keep]
    expected = _entries(held.front(prediction.expected_entropy))[keep]
    log, density = _likelihood(held, y, keep)
    sizes = held.sizes if len(held.sizes) or prediction.guarantee != "statistical" else np.array([prediction.n_masks])
    apart: Any = None
    if "first" in held.tensors:
        apart = _by_replicate(held.tensors["first"], keep, dim)
        of_entropy = _by_replicate(held.tensors["entropy"], keep)

    def at(share: Floats | None) -> Classes:
        if share is None:
            return Classes(p, label, log, expected)
        w = share.astype(np.float32)
        moved = (w @ apart).reshape(len(p), -1)
        both = np.clip(p + (moved if dim is not None else np.concatenate([-moved, moved], axis=1)), 0.0, 1.0)
        own = None if density is None or log is None else log + np.log(np.maximum(density @ share, 1e-300))
        return Classes(both, label, own, np.maximum(expected + w @ of_entropy, 0.0))

    moved: tuple[Classes, ...] = ()
    if not len(sizes) and len(label):
        off = _entries(held.front(prediction.mean_error), dim)[keep]
        off = off if dim is not None else np.repeat(off[:, None], 2, axis=1)
        towards = np.where(np.arange(p.shape[1]) == label[:, None], off, -off)
        moved = tuple(Classes(np.clip(p + sign * towards, 0.0, 1.0), label, None, expected) for sign in (1.0, -1.0))
    return Masked(at, sizes, Classes(center, label), held.shared, moved)


def _likelihood(held: Held, y: Tensor | None, keep: NDArray[np.bool_]) -> tuple[Floats | None, Floats | None]:
    """log p(y) to all its digits, where the run had the same targets and one for each example."""
    target = held.tensors.get("target")
    if y is None or target is None or target.numel() != len(keep) or not keep.all() or len(target) != len(keep):
        return None, None
    if not torch.equal(target.reshape(-1).double().cpu(), y.reshape(-1).double().cpu()):
        return None, None
    if len(held.sizes) and "density" not in held.tensors:
        return None, None
    density = held.tensors["density"].cpu().numpy() if len(held.sizes) else None
    return held.tensors["log"].cpu().numpy(), density


def mixed(inside: Masked, outside: Masked) -> Masked:
    """Data of the distribution and data outside it; a share of replicates is that of both."""

    def at(share: Floats | None) -> Mixed:
        return Mixed(inside.at(share), outside.at(share))

    sizes = inside.sizes
    if len(outside.sizes) != len(sizes):
        sizes = np.array([1])
    return Masked(at, sizes, Mixed(inside.eval_mode, outside.eval_mode), inside.shared)


def samples_digested(prediction: Prediction, y: Tensor, precision: float, *, mixture: bool) -> dict[str, Tensor]:
    """A regression's scores from kept samples, as `SampleDigest` makes them within a run."""
    held = held_by(prediction)
    samples = prediction.samples.movedim(held.batch_dim + 1, 0)
    k, block = samples.shape[1], held.block
    blocks = np.full(-(-k // block), block)
    blocks[-1] = k - block * (len(blocks) - 1)
    weight = torch.full((k,), 1.0 / k, dtype=torch.float64)
    center = held.front(prediction.weight_scaling)
    return SampleDigest(precision, mixture)(y, center, samples, weight, blocks)


def regressions_of(
    prediction: Prediction, y: Tensor, digest: dict[str, Tensor] | None, precision: float | None, *, mixture: bool
) -> Masked:
    """A regression's scored entries; without a digest only what mean and spread can say."""
    held = held_by(prediction)
    target, center = _entries(y), _entries(held.front(prediction.weight_scaling))
    eval_mode = at_point(target, center, precision, mixture=mixture)
    noise = 0.0 if precision is None else 1.0 / precision
    if digest is None:
        return _of_moments(prediction, target, eval_mode, noise)
    found = {name: digest[name].flatten(end_dim=1).numpy() for name in digest if name != "y"}
    statistical = prediction.guarantee == "statistical"
    sizes = np.zeros(0, np.int64)
    if statistical:
        r = found["mean"].shape[1]
        sizes = _sizes(prediction, r)
    base = np.ones(1) if not len(sizes) else sizes / sizes.sum()
    fair = found["spread"]

    def at(share: Floats | None) -> Regressions:
        w = base if share is None else share
        out = np.flatnonzero(w == 0)
        spread = fair
        if share is not None and "spread_without" in found and len(out) == 1 and len(w) > 2:
            spread = found["spread_without"][:, out[0]]
        elif share is not None:
            # What so many masks give: each is its own pair too.
            k = 1.0 / float((w**2 / sizes).sum())
            spread = (1 - 1 / k) * fair + found["own_spread"] / k
        mean = found["mean"] @ w
        width = found["width"]
        if share is not None and "width_shift" in found:
            width = width - found["width_shift"] @ w
        with np.errstate(divide="ignore"):
            log = _log_mean(found["density"], w)
        variance = np.maximum(found["square"] @ w - mean**2, 0.0) + noise
        crps = found["distance"] @ w - spread / 2
        return Regressions(target, mean, variance, log, crps, found["pit"] @ w, width)

    moved: tuple[Regressions, ...] = ()
    if not len(sizes):
        off, whole = _entries(held.front(prediction.mean_error)), at(None)
        moved = (_shifted(whole, off), _shifted(whole, -off))
    return Masked(at, sizes, eval_mode, held.shared, moved)


def _shifted(whole: Regressions, off: Floats) -> Regressions:
    """With means moved by round-off away from the targets, or towards them."""
    away = np.where(whole.mean >= whole.y, off, -off)
    assert whole.crps is not None
    assert whole.log_likelihood is not None
    assert whole.variance is not None
    scale = np.abs(whole.y - whole.mean) / np.maximum(whole.variance, 1e-300)
    return Regressions(
        whole.y,
        whole.mean + away,
        whole.variance,
        whole.log_likelihood - np.sign(away) * np.abs(off) * (scale + 1 / np.sqrt(np.maximum(whole.variance, 1e-300))),
        whole.crps + off,
        whole.pit,
        whole.width,
    )


def _sizes(prediction: Prediction, r: int) -> NDArray[np.int64]:
    from allmasks.replicates import grouped_sizes

    block = held_by(prediction).block
    k = prediction.n_masks
    blocks = np.full(-(-k // block), block)
    blocks[-1] = k - block * (len(blocks) - 1)
    found: NDArray[np.int64] = grouped_sizes(blocks, r)
    return found


def _log_mean(logs: Floats, share: Floats) -> Floats:
    used = logs[:, share > 0]
    top = used.max(axis=1)
    found: Floats = top + np.log(np.exp(used - top[:, None]) @ share[share > 0])
    return found


def _of_moments(prediction: Prediction, target: Floats, eval_mode: Regressions, noise: float) -> Masked:
    held = held_by(prediction)
    mean, std = _entries(held.front(prediction.mean)), _entries(held.front(prediction.std))
    apart = None
    if "first" in held.tensors:
        apart = _by_replicate(held.tensors["first"], np.ones(len(mean), bool))
    known = std**2 + noise

    def at(share: Floats | None) -> Regressions:
        if share is None or apart is None:
            return Regressions(target, mean, known)
        return Regressions(target, mean + share.astype(np.float32) @ apart, known)

    sizes = held.sizes if len(held.sizes) or prediction.guarantee != "statistical" else np.array([prediction.n_masks])
    moved: tuple[Any, ...] = ()
    if not len(sizes):
        off = _entries(held.front(prediction.mean_error))
        moved = tuple(Regressions(target, mean + s * off, known) for s in (1.0, -1.0))
    return Masked(at, sizes, Regressions(target, eval_mode.mean, np.full_like(mean, noise)), held.shared, moved)


def fitted_precision(f: Floats, y: Floats) -> float:
    """τ of greatest likelihood of targets (N,) under the mixture of N(f, 1/τ) over samples (N, K).

    >>> round(fitted_precision(np.zeros((4, 2)), np.array([1.0, -1.0, 1.0, -1.0])), 6)
    1.0
    """
    from scipy.optimize import minimize_scalar

    square = (y[:, None] - f) ** 2
    least = square.min(axis=1)
    scale = float(square.mean())
    if not scale > 0:
        raise ValueError("every prediction equals its target, so no noise can be fitted; pass noise_precision=τ")

    def loss(log_tau: float) -> float:
        tau = math.exp(log_tau) / scale
        inside = np.exp(-0.5 * tau * (square - least[:, None])).mean(axis=1)
        return float((0.5 * tau * least - np.log(inside)).mean() - 0.5 * math.log(tau))

    # Where a mask fits every target the likelihood has no bound: no more than 1e6 times the mean square.
    return (
        math.exp(float(minimize_scalar(loss, bounds=(-2.0, 14.0), method="bounded", options={"xatol": 1e-10}).x))
        / scale
    )
