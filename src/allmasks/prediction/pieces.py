"""From masks to features: whole passes, a last layer with many masks of its own, or that layer integrated exactly.

An evaluator goes through the masks of a batch and yields `Piece`s. Which one runs is decided in `averages.route_of`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from allmasks.methods import Fourier
from allmasks.over_masks.data import Batch
from allmasks.over_masks.sources import MaskChunk, MaskSource, drawn_bits, no_masks
from allmasks.prediction.density import gaussian_fit
from allmasks.prediction.features import features
from allmasks.prediction.outputs import Outputs
from allmasks.prediction.round_off import ULPS, Fit, carried, fit
from allmasks.prediction.task import Task
from allmasks.samplers import Sampler
from allmasks.sites import LastLayer

__all__ = ["Evaluator", "Integrated", "LastOnly", "Nested", "Piece", "Whole"]


@dataclass
class Piece:
    """Features of some masks: for each tensor of the output a dict of (k, n, …); errors of formulas likewise.

    `values` are the predictions themselves, (k, n, …), and `fit` (k, j, n) log-likelihoods, where asked for.
    """

    weight: Tensor
    features: list[dict[str, Tensor]]
    errors: list[dict[str, Tensor]] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    fit: Fit | None = None


@dataclass(frozen=True)
class Wanted:
    """What else is wanted of a batch.

    Attributes
    ----------
    target, precision : the target in the output's layout, and the noise.
    values : the predictions themselves.
    sizes : magnitude of each output in eval mode, (n, …); with `carry`, what round-off makes of it is carried along.
    """

    target: Tensor | None = None
    precision: float | None = None
    values: bool = False
    sizes: tuple[Tensor, ...] = ()
    carry: bool = False


class Evaluator(Protocol):
    """Features of a batch under the masks of a source; `center` is the prediction in eval mode."""

    def __call__(self, batch: Batch, source: MaskSource, center: list[Tensor], wanted: Wanted) -> Iterator[Piece]: ...


def _passes(
    outputs: Outputs, batch: Batch, source: MaskSource, device: torch.device, observe: str | None = None
) -> Iterator[tuple[MaskChunk, Any]]:
    """(which masks, without their bits; what a pass under them gives) of a batch."""
    forward = outputs.forward(source.sites, observe)
    at_once = outputs.look.at_once(len(batch), outputs.sites)
    for chunk in source.chunks(batch.examples, at_once, device):
        for where, found in forward(batch, chunk):
            yield MaskChunk({}, chunk.weight[where], chunk.start + where.start), found


def _finished(
    task: Task, outputs: list[Tensor], center: list[Tensor], wanted: Wanted, chunk: MaskChunk, batch: Batch
) -> Piece:
    """Features of outputs (k, j, n, …), averaged over their j."""
    values, entropies = zip(*(task.value_and_entropy(leaf) for leaf in outputs), strict=True)
    for value, at_mean in zip(values, center, strict=True):
        if value.shape[2:] != at_mean.shape:
            raise ValueError(
                f"the output changed its shape to {tuple(value.shape[2:])} under {chunk.describe(0)}, from "
                f"{tuple(at_mean.shape)} in eval mode; outputs must keep one shape to be averaged"
            )
        if not bool(torch.isfinite(value).all()):
            m, j, i = (int(v) for v in (~torch.isfinite(value)).nonzero()[0][:3])
            inner = f", mask {(chunk.start + m) * value.shape[1] + j} of the last site" if value.shape[1] > 1 else ""
            raise ValueError(
                f"the prediction is not finite for example {batch.start + i} under {chunk.describe(m)}{inner}; replay "
                f"it with am.thinned(model, x, seed=seed, mask={chunk.start + m}, "
                f"example_index={int(batch.examples[i])})"
            )
    sums = [features(*found) for found in zip(values, entropies, center, strict=True)]
    errors = []
    if wanted.carry:
        everything = zip(outputs, values, entropies, center, wanted.sizes, strict=True)
        errors = [carried(task, *found) for found in everything]
    likelihood = None
    if wanted.target is not None:
        likelihood = fit(task, outputs[0], wanted.target, wanted.precision, wanted.sizes[0])
    return Piece(
        chunk.weight,
        [_over_inner(leaf) for leaf in sums],
        [_over_inner(leaf) for leaf in errors],
        values=[value[:, 0] for value in values] if wanted.values else [],
        fit=likelihood,
    )


def _over_inner(leaf: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: f.mean(dim=1) for name, f in leaf.items()}


@dataclass
class Whole:
    """The model run from start to end under each mask."""

    outputs: Outputs

    def __call__(self, batch: Batch, source: MaskSource, center: list[Tensor], wanted: Wanted) -> Iterator[Piece]:
        for part, outputs in _passes(self.outputs, batch, source, center[0].device):
            lifted = [leaf[:, None] for leaf in outputs]
            yield _finished(self.outputs.task, lifted, center, wanted, part, batch)


@dataclass
class LastOnly:
    """Only the site before the last Linear is random: everything below runs once, the Linear under each mask."""

    outputs: Outputs

    def __call__(self, batch: Batch, source: MaskSource, center: list[Tensor], wanted: Wanted) -> Iterator[Piece]:
        site, last = self.outputs.last_site
        ((_, hidden),) = self.outputs.forward((), observe=site.name)(batch, no_masks(batch.examples))
        at_once = self.outputs.look.at_once(len(batch), (site,))
        for chunk in source.chunks(batch.examples, at_once, center[0].device):
            z = _last_linear(last, hidden, site.by_row(chunk.kept[site.name])[None], site.p)[0]
            outputs = [z.reshape(len(z), 1, *center[0].shape)]
            yield _finished(self.outputs.task, outputs, center, wanted, chunk, batch)


def _last_linear(last: LastLayer, hidden: Tensor, kept: Tensor, p: float) -> Tensor:
    """(k, j, n, outputs) of the last Linear for hidden (k, n, d) under masks (k, j, n, d).

    For each example a product of its masks with the Linear's weights times its activations: the masks are turned into
    numbers but never multiplied, which is most of the work saved.
    """
    weight, bias = last.weight.to(hidden.dtype), last.bias
    k, j, n, d = kept.shape
    scaled = (hidden * (1.0 / (1.0 - p)))[..., None] * weight.t()
    rows = kept.to(hidden.dtype).transpose(1, 2).reshape(k * n, j, d)
    z = torch.bmm(rows, scaled.reshape(k * n, d, -1)).reshape(k, n, j, -1).transpose(1, 2)
    return z if bias is None else z + bias.to(hidden.dtype)


@dataclass
class Nested:
    """Each mask of the sites below with `inner` masks of the site before the last Linear.

    That site's masks are numbered inner * m … inner * m + inner - 1 under the others' mask m.
    """

    outputs: Outputs
    sampler: Sampler
    seed: int
    inner: int
    first: int = 0

    def __call__(self, batch: Batch, source: MaskSource, center: list[Tensor], wanted: Wanted) -> Iterator[Piece]:
        site, last = self.outputs.last_site
        step = max(1, self.outputs.look.at_once(len(batch), (site,)) // self.inner)
        for chunk, hidden in _passes(self.outputs, batch, source, center[0].device, site.name):
            for lo in range(0, len(hidden), step):
                part = MaskChunk({}, chunk.weight[lo : lo + step], chunk.start + lo)
                numbers = np.arange(self.inner * part.start, self.inner * (part.start + len(part)))
                bits = site.by_row(drawn_bits(self.sampler, self.seed, site, numbers, batch.examples, center[0].device))
                kept = bits.reshape(len(part), self.inner, *bits.shape[1:])
                z = _last_linear(last, hidden[lo : lo + step], kept, site.p)
                outputs = [z.reshape(len(part), self.inner, *center[0].shape)]
                yield _finished(self.outputs.task, outputs, center, wanted, part, batch)


@dataclass
class Integrated:
    """The masks before the last Linear integrated by formula, for each mask of the sites below.

    Regression: mean and variance of a dropped-out linear score, closed form. Binary, and the softmax of two classes:
    mean, second moment and entropy of its sigmoid, by `allmasks.scores`' Fourier integrals.
    """

    outputs: Outputs

    def __call__(self, batch: Batch, source: MaskSource, center: list[Tensor], wanted: Wanted) -> Iterator[Piece]:
        site, _ = self.outputs.last_site
        for chunk, hidden in _passes(self.outputs, batch, source, center[0].device, site.name):
            average = self._sigmoid if self.outputs.task.classifies else self._linear
            sums, errors = average(hidden, center[0])
            likelihood = None if wanted.target is None else self._fit(hidden, sums, errors, center[0], wanted)
            yield Piece(chunk.weight, [sums], [errors], fit=likelihood)

    def _fit(
        self, hidden: Tensor, sums: dict[str, Tensor], errors: dict[str, Tensor], center: Tensor, wanted: Wanted
    ) -> Fit:
        """(k, 1, n) log-likelihoods of the targets, the last layer's masks integrated."""
        assert wanted.target is not None
        k, n, _ = hidden.shape
        site, last = self.outputs.last_site
        if self.outputs.task.classifies:
            value, off = (sums["first"] + center), errors["first"]
            if self.outputs.task.name == "multiclass":
                value, off = (self.outputs.task.of_target(v, wanted.target).reshape(k, n) for v in (value, off))
            else:
                right = wanted.target.reshape(n).bool()
                value, off = value.reshape(k, n), off.reshape(k, n)
                value = torch.where(right, value, 1 - value)
            found = Fit(value.log(), (value - off).clamp(min=0.0).log(), (value + off).log())
            return Fit(*(logs[:, None] for logs in (found.log, found.low, found.high)))
        assert wanted.precision is not None
        terms = hidden.double() * last.weight.detach().double()[0] / (1 - site.p)
        bias = 0.0 if last.bias is None else float(last.bias.detach()[0])
        off = self._scale(hidden) * (terms.abs().sum(dim=-1) + abs(bias))
        found = gaussian_fit(terms, bias, site.p, wanted.target.reshape(n).double(), wanted.precision, off)
        return Fit(*(logs.reshape(k, 1, n) for logs in (found.log, found.low, found.high)))

    def _scale(self, hidden: Tensor) -> float:
        """Round-off of the model's own arithmetic, in units of the magnitude of what it adds."""
        return ULPS * torch.finfo(hidden.dtype).eps

    def _linear(self, hidden: Tensor, center: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        site, last = self.outputs.last_site
        w, b = last.weight.detach().double(), last.bias
        h = hidden.double()
        mean, size = h @ w.t(), h.abs() @ w.t().abs()
        if b is not None:
            mean, size = mean + b.double(), size + b.double().abs()
        variance = site.p / (1 - site.p) * (h**2 @ (w**2).t())
        shape = (len(h), *center.shape)
        deviation, variance = (mean.reshape(shape) - center), variance.reshape(shape)
        error = self._scale(hidden) * size.reshape(shape)
        sums = {"first": deviation, "second": deviation**2 + variance}
        return sums, {"first": error, "second": 2 * deviation.abs() * error + error**2 + 4 * error * variance.sqrt()}

    def _sigmoid(self, hidden: Tensor, center: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        from allmasks.dropped_scores import expected_score, expected_score_loss

        (site, last), task = self.outputs.last_site, self.outputs.task
        w, b = last.weight.detach().double(), last.bias
        bias = torch.zeros(len(w), dtype=torch.float64) if b is None else b.detach().double()
        two = task.name == "multiclass"
        if two:
            w, bias = (w[1] - w[0])[None], (bias[1] - bias[0])[None]
        k, n, d = hidden.shape
        rows = hidden.reshape(k * n, d).double().cpu().numpy()
        columns: dict[str, list[np.ndarray]] = {"first": [], "square": [], "entropy": []}
        errors: dict[str, list[np.ndarray]] = {"first": [], "square": [], "entropy": []}
        for weight, intercept in zip(w.cpu().numpy(), bias.cpu().numpy(), strict=True):
            moments = expected_score(weight, rows, site.p, intercept=float(intercept), method=Fourier())
            softplus = expected_score_loss(
                weight, rows, np.zeros(len(rows)), site.p, intercept=float(intercept), return_grad=True
            )
            # h(σ(S)) = log(1 + e^S) − S σ(S), and by Euler's theorem E[(S − b) σ(S)] = x · ∂/∂x E log(1 + e^S).
            assert softplus.grad is not None
            tilted = len(rows) * (rows * softplus.grad["X"]).sum(axis=1) + intercept * moments.mean
            size = np.abs(rows) @ np.abs(weight) / (1 - site.p) + abs(float(intercept))
            arithmetic = self._scale(hidden) * size / 4
            slope = softplus.per_example_error * (4 + size) + 64 * np.finfo(float).eps * d * (1 + size)
            columns["first"].append(moments.mean)
            columns["square"].append(moments.variance + moments.mean**2)
            columns["entropy"].append(softplus.per_example - tilted)
            errors["first"].append(moments.mean_error + arithmetic)
            errors["square"].append(moments.variance_error + 2 * moments.mean_error + 2 * arithmetic)
            errors["entropy"].append(slope + 4 * arithmetic)

        def stacked(parts: list[np.ndarray]) -> Tensor:
            return torch.from_numpy(np.stack(parts, axis=-1)).to(center.device).reshape(k, n, -1)

        mean, square, entropy = (stacked(columns[name]) for name in ("first", "square", "entropy"))
        mean_error, square_error, entropy_error = (stacked(errors[name]) for name in ("first", "square", "entropy"))
        if two:
            mean, square = torch.cat([1 - mean, mean], -1), torch.cat([1 - 2 * mean + square, square], -1)
            mean_error, square_error = mean_error.repeat(1, 1, 2), (square_error + 2 * mean_error).repeat(1, 1, 2)
            entropy, entropy_error = entropy[..., 0], entropy_error[..., 0]
        else:
            shape = (k, *center.shape)
            mean, square, entropy = (v.reshape(shape) for v in (mean, square, entropy))
            mean_error, square_error, entropy_error = (
                v.reshape(shape) for v in (mean_error, square_error, entropy_error)
            )
        # About the center: E(σ − c)² = E σ² − 2 c E σ + c².
        sums = {"first": mean - center, "second": square - 2 * center * mean + center**2, "entropy": entropy}
        second_error = square_error + 2 * center.abs() * mean_error + 8 * torch.finfo(torch.float64).eps
        return sums, {"first": mean_error, "second": second_error, "entropy": entropy_error}
