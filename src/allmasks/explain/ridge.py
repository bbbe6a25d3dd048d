"""Dropout of the inputs of linear regression is ridge: data term + penalty = expected loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from allmasks.explain.moments import check_size, law_and_values, mask_probabilities
from allmasks.explain.page import Page, Picture, Series, Topic, number, numbers, rate
from allmasks.language import Translate

__all__ = ["Ridge", "RidgeFit", "ridge"]


@dataclass(frozen=True)
class RidgeFit:
    """Two regressions on the same (n, d) data that give the same weights.

    `listed`: ordinary least squares on every masked copy of the data, weighted by its probability.
    `ridge`: one solve of (XᵀX + diag λ) w = Xᵀy with λⱼ = p / (1 - p) Σᵢ xᵢⱼ².
    """

    n_examples: int
    n_masks: int
    penalty_weights: NDArray[np.float64]
    listed: NDArray[np.float64]
    ridge: NDArray[np.float64]
    plain: NDArray[np.float64]
    max_difference: float


@dataclass(frozen=True, repr=False)
class Ridge(Topic):
    """E_m[(w·x̃ - y)²] of one example: its two terms, the library's value, and the mean over all masks."""

    w: NDArray[np.float64]
    x: NDArray[np.float64]
    y: float
    p: NDArray[np.float64]
    data_term: float
    penalty: float
    per_feature_penalty: NDArray[np.float64]
    expected_loss: float
    expected_loss_error: float
    enumerated: float
    n_masks: int
    fit: RidgeFit

    def _page(self, _: Translate) -> Page:
        score, features = float(self.w @ self.x), [str(j + 1) for j in range(len(self.w))]
        page = Page(_("Input dropout + squared loss + linear model = ridge")).say(
            f"w = {numbers(self.w)}   x = {numbers(self.x)}   y = {number(self.y)}   p = {rate(self.p)}",
            "E_m[(w·x̃ - y)²] = (w·x - y)² + Σⱼ p / (1 - p) · wⱼ² xⱼ²",
        )
        penalties = Series(_("penalty"), "bars", features, self.per_feature_penalty.tolist())
        page.draw(Picture(_("What each feature's mask adds to the loss"), _("feature"), _("penalty"), [penalties]))
        page.table(
            [_("feature"), "w", "x", "p / (1 - p) · w² x²"],
            [
                [j, number(w), number(x), number(part)]
                for j, w, x, part in zip(features, self.w, self.x, self.per_feature_penalty, strict=True)
            ],
        )
        data, penalty = number(self.data_term), number(self.penalty)
        page.table(
            ["", _("value")],
            [
                [_("data term ({score} - {y})²").format(score=number(score), y=number(self.y)), data],
                [_("penalty"), penalty],
                [f"{_('expected loss')} = {data} + {penalty}", number(self.expected_loss, 10)],
                [_("mean over all {n} masks, one by one").format(n=self.n_masks), number(self.enumerated, 10)],
            ],
        )
        return self._regressions(page, _)

    def _regressions(self, page: Page, _: Translate) -> Page:
        fit = self.fit
        page.say(
            _(
                "The penalty is quadratic in w, as ridge's α‖w‖², but each weight has its own strength: over n "
                "examples λⱼ = p / (1 - p) Σᵢ xᵢⱼ². Features of equal scale give plain ridge."
            ),
            _(
                "So on {n} examples with all their {masks} masked copies listed, ordinary least squares finds the "
                "weights that one ridge solve without any mask finds:"
            ).format(n=fit.n_examples, masks=fit.n_masks),
        )
        page.table(
            [_("weights"), *(f"w{j + 1}" for j in range(len(fit.ridge)))],
            [
                [label, *(number(v) for v in row)]
                for label, row in (
                    (_("least squares on all {masks} masked copies").format(masks=fit.n_masks), fit.listed),
                    (_("ridge with λ"), fit.ridge),
                    ("λ", fit.penalty_weights),
                    (_("least squares without dropout"), fit.plain),
                )
            ],
        )
        told = _("Largest difference between the first two: {difference}")
        return page.say(
            told.format(difference=f"{fit.max_difference:.2g}"),
            _(
                "Exact here only: another loss or a non-linear model has no such formula, and dropout is then not "
                "ridge."
            ),
        )


def _regressions(p: float) -> RidgeFit:
    """Least squares on all masked copies of a small data set, and the ridge that equals it."""
    X = np.array([[1.0, 2, -1], [0, 1, 1], [2, -1, 0], [1, 1, 3], [-1, 0, 2], [3, 1, 1]])
    y = np.array([0.0, 1, 2, 4, 1, 5])
    _, law = law_and_values(np.ones(3), p)
    masks = law.enumerate()
    root = np.sqrt(mask_probabilities(law, masks))
    copies = (root[:, None, None] * law.noise(masks)[:, None, :] * X).reshape(-1, 3)
    targets = (root[:, None] * y).ravel()
    listed = np.linalg.lstsq(copies, targets, rcond=None)[0]
    strengths = law.noise_variance() * (X**2).sum(axis=0)
    solved = np.linalg.solve(X.T @ X + np.diag(strengths), X.T @ y)
    plain = np.linalg.lstsq(X, y, rcond=None)[0]
    return RidgeFit(len(X), law.n_masks, strengths, listed, solved, plain, float(abs(listed - solved).max()))


def ridge(
    w: ArrayLike = (1.0, -1.0, 2.0), x: ArrayLike = (1.0, 2.0, -1.0), y: float = 0.0, p: ArrayLike = 0.5
) -> Ridge:
    """E_m[(w·x̃ - y)²] = (w·x - y)² + Σⱼ p / (1 - p) wⱼ² xⱼ², beside full enumeration.

    Parameters
    ----------
    w, x : (d,) weights and inputs, finite, at most 16 that can be dropped.
    y : the target.
    p : scalar or (d,) drop rates in [0, 1).

    Raises
    ------
    ValueError : p outside [0, 1), numbers not finite, w and x of different lengths, too many inputs to list.

    >>> found = ridge(w=[1, -1, 2], x=[1, 2, -1], y=0, p=0.5)
    >>> found.data_term, found.penalty, found.expected_loss, found.enumerated
    (9.0, 9.0, 18.0, 18.0)
    """
    inputs, law = law_and_values(x, p, name="x")
    weights = np.asarray(w, np.float64)
    if weights.shape != inputs.shape:
        raise ValueError(f"w and x must have the same length, got {weights.size} weights and {inputs.size} inputs")
    target = float(y)
    check_size("w", weights)
    check_size("y", target)
    from allmasks.dropped_scores import expected_score_loss
    from allmasks.methods import ClosedForm

    library = expected_score_loss(
        weights, inputs[None], np.array([target]), law.rates, loss="squared_error", method=ClosedForm()
    )
    masks = law.enumerate()
    losses = (law.noise(masks) @ (weights * inputs) - target) ** 2
    per_feature = law.noise_variance() * weights**2 * inputs**2
    return Ridge(
        w=weights,
        x=inputs,
        y=target,
        p=law.rates,
        data_term=float((weights @ inputs - target) ** 2),
        penalty=float(per_feature.sum()),
        per_feature_penalty=per_feature,
        expected_loss=float(library.value),
        expected_loss_error=float(library.error),
        enumerated=float(mask_probabilities(law, masks) @ losses),
        n_masks=law.n_masks,
        fit=_regressions(float(law.rates.max())),
    )
