"""What `am.predict` returns: mean and spread over all masks, each with its error and whether that can be trusted."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import ndtri
from torch import Tensor

from allmasks.methods import Method
from allmasks.prediction.held import Held
from allmasks.replicates import check_level, half_width
from allmasks.results import Guarantee, Result, data_frame, how_computed, with_error

__all__ = ["Prediction"]

_EVALUATION = "allmasks.evaluation"
"""A room above this one, which is loaded when it is asked for."""

QUANTITIES = ("mean", "std", "entropy", "expected_entropy", "mutual_information", "log_likelihood")
"""What has an error, in the order of reports."""


@dataclass(frozen=True, repr=False)
class Prediction(Result):
    """Predictions over all dropout masks. Tensors, float64, in the layout of the model's output.

    Where the model returns several tensors, every such field holds the same structure of tensors.

    Attributes
    ----------
    task : "regression", "binary" or "multiclass"; what is averaged is the output, its sigmoid, or its softmax.
    mean, mean_error : mean over masks of the prediction, and its error in the sense of `guarantee`.
    std, std_error : standard deviation over masks (bias-corrected), and its error.
    guarantee : "exact", "bounded", "estimated" or "statistical", as in `ExpectedLoss`.
    method, n_masks : how, and with how many masks an example (0: none was drawn).
    weight_scaling : the prediction in eval mode.
    gap, gap_error : mean - weight_scaling.
    entropy, expected_entropy, mutual_information : for classification, in nats: of the mean prediction
        (bias-corrected), the mean over masks, and their difference; each with its `_error`. Otherwise None.
    log_likelihood, log_likelihood_error : (n,) log of the mean over masks of the likelihood of y, where y was given.
    noise_precision : the τ of a regression's observation noise of variance 1/τ, where given.
    reliable : quantity -> tensor of booleans: False where the error itself cannot be trusted, because few masks
        decide (confident predictions, one dominating unit, a unit hardly ever dropped).
    samples : (n_masks, …) predictions under each mask, where asked for.
    n_replicates : independent groups of masks behind a statistical error; 0 otherwise.
    inert : names of random sites whose masks changed nothing.
    notes : sentences a reader should know.
    held : the means of each replicate, for `evaluate` and `acquire`; None where the model returns several tensors.
    """

    task: str
    mean: Any
    mean_error: Any
    std: Any
    std_error: Any
    guarantee: Guarantee
    method: Method
    n_masks: int
    weight_scaling: Any
    gap: Any
    gap_error: Any
    entropy: Any = None
    entropy_error: Any = None
    expected_entropy: Any = None
    expected_entropy_error: Any = None
    mutual_information: Any = None
    mutual_information_error: Any = None
    log_likelihood: Any = None
    log_likelihood_error: Any = None
    noise_precision: float | None = None
    reliable: dict[str, Any] = field(default_factory=dict)
    samples: Any = None
    n_replicates: int = 0
    inert: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    held: Held | None = field(default=None, compare=False)

    _left_out = ("held",)

    @property
    def certain(self) -> Any:
        """(n, …) whether the class of the largest mean probability is proven: no other's interval reaches its own.

        Masks that were drawn prove nothing: without a guarantee "exact" or "bounded" it is False throughout.
        """
        if self.task != "multiclass":
            raise ValueError(f"certain is about the largest of several classes, and the task is {self.task}")
        proven = self.guarantee in ("exact", "bounded")

        def of(mean: Any, error: Any) -> Any:
            dim = self._class_dim(mean)
            best = mean.argmax(dim=dim, keepdim=True)
            below = (mean - error).gather(dim, best).squeeze(dim)
            above = (mean + error).scatter(dim, best, -math.inf).amax(dim=dim)
            return (below > above) & proven

        return _map(of, self.mean, self.mean_error)

    def _class_dim(self, mean: Any) -> int:
        """The axis that the entropy does not have."""
        rest = _leaves(self.entropy)
        shapes = [tuple(leaf.shape) for leaf in rest]
        dims = [d for d in range(1, mean.ndim) if (*mean.shape[:d], *mean.shape[d + 1 :]) in shapes]
        return dims[-1] if dims else mean.ndim - 1

    def interval(self, level: float = 0.95, quantity: str = "mean") -> tuple[Any, Any]:
        """Where the mean over all masks lies, by its Monte Carlo error; for observations see `predictive_interval`.

        ± error if proven, Student's t if statistical. The same as `error_interval`.

        Parameters
        ----------
        level : coverage of each statistical interval, in (0, 1).
        quantity : "mean", "std", "entropy", "expected_entropy", "mutual_information" or "log_likelihood".
        """
        check_level(level)
        value = getattr(self, quantity, None) if quantity in QUANTITIES else None
        if value is None:
            there = ", ".join(repr(q) for q in QUANTITIES if getattr(self, q) is not None)
            raise ValueError(f"quantity must be one of {there}, got {quantity!r}")
        factor = 1.0
        if self.guarantee == "statistical":
            factor = half_width(1.0, level, self.n_replicates)
        error = getattr(self, f"{quantity}_error")
        return _map(lambda v, e: v - factor * e, value, error), _map(lambda v, e: v + factor * e, value, error)

    def error_interval(self, level: float = 0.95, quantity: str = "mean") -> tuple[Any, Any]:
        """Where the mean lies, by its Monte Carlo error: `interval` by a name that says so."""
        return self.interval(level, quantity)

    def predictive_interval(self, level: float = 0.9) -> tuple[Any, Any]:
        """The band in which a new *observation* lies: the central interval of spread over masks and noise together.

        From kept samples the quantiles of the mixture of N(sample, 1/τ); else mean ± z √(std² + 1/τ), which takes the
        predictions over masks as normal. The band for the mean itself, which shrinks with more masks, is
        `error_interval`; one with a guarantee for any model is `am.conformal`'s.

        Parameters
        ----------
        level : share of new observations inside, in (0, 1), if the model is right.

        Raises
        ------
        ValueError : a classification, whose new observation is a class; no `noise_precision`.
        """
        check_level(level)
        if self.task != "regression":
            raise ValueError(
                "predictive_interval is for regressions; the sets of classes in which an observation lies are "
                "am.conformal(prediction, y).sets(prediction)"
            )
        if self.samples is not None:
            tails = ((1 - level) / 2, (1 + level) / 2)
            self._precision("predictive_interval")
            low, high = (self.quantile(tail, noise=True) for tail in tails)
            return low, high
        reach = float(ndtri(0.5 + level / 2))
        total = self.total_std
        return _map(lambda m, s: m - reach * s, self.mean, total), _map(lambda m, s: m + reach * s, self.mean, total)

    def evaluate(self, y: Any, **options: Any) -> Any:
        """Metrics of this prediction, each with its error over masks and over data: see `am.evaluate`.

        Parameters
        ----------
        y : targets in the layout of the output, without the class axis.
        options : ood (a prediction), noise_precision, groups, seed, level, n_bins, coverage, risk, as there.
        """
        return importlib.import_module(_EVALUATION).evaluate_prediction(self, y, **options)

    def acquire(self, n: int, by: str | None = None, *, seed: int = 0) -> Any:
        """The n examples to label next, each with the probability that it belongs among them for all masks.

        Parameters
        ----------
        by : "mutual_information" (BALD, the default of classes), "entropy", "variation_ratio" (1 − the largest
            probability), "std" (the default of regressions), or "epig", which needs `consistent=True` and
            `keep_samples=True`.
        seed : of the order of ties.

        Returns
        -------
        Acquisition : `indices`, `scores`, `errors`, `confidence`, `order`, `overlap`.

        Raises
        ------
        ValueError : more examples than there are, or a score that does not apply.
        """
        return importlib.import_module(f"{_EVALUATION}.acquisition").acquire(self, n, by, seed=seed)

    def to_frame(self) -> Any:
        """A pandas DataFrame, one row an example: each quantity and its error; needs pandas.

        Several outputs become columns mean[0], mean[1], ….

        Raises
        ------
        ValueError : a model that returns several tensors. ImportError : pandas is not installed.
        """
        if not isinstance(self.mean, Tensor):
            raise ValueError("a model with several outputs has no one table: take the tensors of .mean, .std … apart")
        names = [name for quantity in QUANTITIES for name in (quantity, f"{quantity}_error")]
        return data_frame({name: getattr(self, name) for name in [*names, "weight_scaling"]})

    @property
    def total_std(self) -> Any:
        """√(std² + 1/τ): spread over masks and observation noise together; needs `noise_precision`."""
        return _map(lambda s: (s * s + 1.0 / self._precision("total_std")).sqrt(), self.std)

    def quantile(self, q: Any, *, noise: bool = False) -> Any:
        """Quantiles over masks of the prediction, from kept samples.

        Parameters
        ----------
        q : number or (k,) in [0, 1]; several give a leading axis.
        noise : of the predictive distribution instead, the mixture of N(sample, 1/τ).
        """
        if self.samples is None:
            raise ValueError("quantile needs the samples: call predict(..., keep_samples=True)")
        levels = np.asarray(q, np.float64)
        if not ((levels >= 0) & (levels <= 1)).all():
            raise ValueError(f"q must lie in [0, 1], got {q}")
        scale = self._precision("quantile(noise=True)") ** -0.5 if noise else None
        return _map(lambda samples: _quantile(samples, levels, scale), self.samples)

    def _precision(self, what: str) -> float:
        if self.noise_precision is None:
            raise ValueError(f"{what} needs the observation noise: call predict(..., noise_precision=τ)")
        return self.noise_precision

    def _rows(self) -> list[tuple[str, str]]:
        rows = [("task", self.task), *how_computed(self.guarantee, self.method, self.n_masks)]
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in _leaves(self.mean))
        rows.append(("predictions", shapes))
        for name in QUANTITIES:
            values, errors = _leaves(getattr(self, name)), _leaves(getattr(self, f"{name}_error"))
            if not values or not sum(v.numel() for v in values):
                continue
            total = sum(v.numel() for v in values)
            average = sum(float(v.sum()) for v in values) / total
            largest = max(float(e.max()) for e in errors)
            rows.append((name.replace("_", " "), f"{average:.5g} on average, largest error {largest:.2g}"))
            doubtful = sum(int((~flag).sum()) for flag in _leaves(self.reliable.get(name)))
            if doubtful:
                rows.append(("", f"error not to be trusted for {doubtful} of {total}"))
        gaps = [(g.abs(), e) for g, e in zip(_leaves(self.gap), _leaves(self.gap_error), strict=True) if g.numel()]
        if gaps:
            gap, error = max(gaps, key=lambda pair: float(pair[0].max()))
            worst = int(gap.argmax())
            text = with_error(float(gap.flatten()[worst]), float(error.flatten()[worst]))
            rows.append(("largest gap to eval mode", text))
        return rows + [("site without effect", name) for name in self.inert]


def _leaves(tree: Any) -> list[Any]:
    from torch import Tensor
    from torch.utils._pytree import tree_leaves

    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _map(function: Any, *trees: Any) -> Any:
    from torch.utils._pytree import tree_map

    return tree_map(lambda *leaves: None if leaves[0] is None else function(*leaves), *trees)


def _quantile(samples: Any, levels: np.ndarray, scale: float | None) -> Any:
    import torch

    values = samples.double().cpu().numpy()
    if scale is None:
        return torch.from_numpy(np.asarray(np.quantile(values, levels, axis=0)))
    from scipy.special import ndtr

    # The mixture's distribution function is increasing: bisection, to the last digits of a double.
    reach = 40.0 * scale
    rows = []
    for level in np.atleast_1d(levels):
        if level in (0.0, 1.0):
            rows.append(np.full(values.shape[1:], -math.inf if level == 0 else math.inf))
            continue
        low, high = values.min(axis=0) - reach, values.max(axis=0) + reach
        for _ in range(80):
            middle = (low + high) / 2
            below = ndtr((middle - values) / scale).mean(axis=0) < level
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        rows.append((low + high) / 2)
    return torch.from_numpy(np.stack(rows) if levels.ndim else rows[0])
