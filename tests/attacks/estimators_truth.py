"""The truth of linear models: objective and derivatives over every mask in extended precision; ridge in mpmath."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np

from attacks.scores_truth import LONG, NAMED, listed, sigmoid

CURVATURE = {
    "squared_error": lambda s, y: 2 * np.ones_like(s),
    "logistic": lambda s, y: sigmoid(s) * sigmoid(-s),
    "poisson": lambda s, y: np.exp(s),
}


@dataclass(frozen=True)
class Objective:
    """Σ sᵢ E L(Sᵢ, yᵢ) + `ridge` ‖w‖² of one output; derivatives have the intercept last, where there is one."""

    loss: str
    X: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    p: np.ndarray
    ridge: float
    intercept: bool

    def value(self, w: Any, b: float) -> Any:
        scores, chance, _ = listed(w, self.X, self.p, b)
        losses = NAMED[self.loss].value(scores, self.y[:, None].astype(LONG)) @ chance
        return (self.weight * losses).sum() + self.ridge * (np.asarray(w, LONG) ** 2).sum()

    def derivatives(self, w: Any, b: float) -> tuple[Any, Any, Any]:
        """Gradient, sizes of the terms it is a sum of, Hessian."""
        y = self.y[:, None].astype(LONG)
        scores, chance, _ = listed(w, self.X, self.p, b)
        slopes = NAMED[self.loss].slope(scores, y) * chance * self.weight[:, None]
        sizes = NAMED[self.loss].slope_size(scores, y) * chance * self.weight[:, None]
        bends = CURVATURE[self.loss](scores, y) * chance * self.weight[:, None]
        inputs = self.inputs()
        gradient = np.einsum("im,imj->j", slopes, inputs)
        size = np.einsum("im,imj->j", sizes, np.abs(inputs))
        hessian = np.einsum("im,imj,imk->jk", bends, inputs, inputs)
        d = self.X.shape[1]
        gradient[:d] += 2 * self.ridge * np.asarray(w, LONG)
        size[:d] += 2 * self.ridge * np.abs(np.asarray(w, LONG))
        hessian[np.arange(d), np.arange(d)] += 2 * LONG(self.ridge)
        return gradient, size, hessian

    def inputs(self) -> Any:
        """x m / (1 − p) of each row under each mask, a column of ones last: (n, 2^d, d (+ 1))."""
        d = self.X.shape[1]
        masks = (np.arange(2**d)[:, None] >> np.arange(d)) & 1
        inputs = np.asarray(self.X, LONG)[:, None, :] * (masks / (1 - np.asarray(self.p, LONG)))
        if not self.intercept:
            return inputs
        return np.concatenate([inputs, np.ones((*inputs.shape[:2], 1), LONG)], axis=2)

    def null(self) -> tuple[Any, float]:
        """The objective at w = 0 with the best intercept (or none), and that intercept."""
        zero = np.zeros(self.X.shape[1])
        b = 0.0
        if self.intercept:
            mean = float((self.weight * self.y).sum() / self.weight.sum())
            if self.loss == "squared_error":
                b = mean
            elif mean > 0 and (self.loss == "poisson" or mean < 1):
                b = float(np.log(mean) - (np.log1p(-mean) if self.loss == "logistic" else 0.0))
        return self.value(zero, b), b

    def shortfall(self, w: Any, b: float) -> float:
        """½ gᵀH⁻¹g, how far above its minimum the objective is near there; NaN where H is singular."""
        gradient, _, hessian = self.derivatives(w, b)
        scale = np.sqrt(np.diag(hessian).astype(np.float64))
        if not (scale > 0).all() or not np.isfinite(scale).all():
            return float("nan")
        scaled = (hessian / scale / scale[:, None]).astype(np.float64)
        if np.linalg.cond(scaled) > 1e12:
            return float("nan")
        own = (gradient / scale).astype(np.float64)
        return float(0.5 * own @ np.linalg.solve(scaled, own))


def ridge_solution(X: Any, Y: Any, weight: Any, p: Any, alpha: float, intercept: bool) -> tuple[Any, Any] | None:
    """Coefficients (d, k) and intercepts (k,) of the ridge problem, in 60 digits; None where they are not unique."""
    n, d = X.shape
    with mpmath.workdps(60):
        x = [[mpmath.mpf(float(v)) for v in row] for row in X]
        y = [[mpmath.mpf(float(v)) for v in row] for row in Y]
        s = [mpmath.mpf(float(v)) for v in weight]
        total = mpmath.fsum(s)
        square = [mpmath.fsum(s[i] * x[i][j] ** 2 for i in range(n)) for j in range(d)]
        mx = [mpmath.fsum(s[i] * x[i][j] for i in range(n)) / total if intercept else 0 for j in range(d)]
        my = [mpmath.fsum(s[i] * y[i][k] for i in range(n)) / total if intercept else 0 for k in range(len(Y[0]))]
        A = mpmath.matrix(d)
        for j in range(d):
            for l in range(j + 1):
                A[j, l] = A[l, j] = mpmath.fsum(s[i] * (x[i][j] - mx[j]) * (x[i][l] - mx[l]) for i in range(n))
        for j in range(d):
            rate = mpmath.mpf(float(p[j]))
            A[j, j] += rate / (1 - rate) * square[j] + mpmath.mpf(float(alpha))
        scale = [mpmath.sqrt(A[j, j]) for j in range(d)]
        if any(v == 0 for v in scale):
            return None
        scaled = np.array([[float(A[j, l] / scale[j] / scale[l]) for l in range(d)] for j in range(d)])
        if np.linalg.cond(scaled) > 1e7:
            return None
        coef = np.empty((d, len(my)), LONG)
        unit = mpmath.matrix([[A[j, l] / scale[j] / scale[l] for l in range(d)] for j in range(d)])
        for k in range(len(my)):
            cross = [mpmath.fsum(s[i] * (x[i][j] - mx[j]) * (y[i][k] - my[k]) for i in range(n)) for j in range(d)]
            solved = mpmath.lu_solve(unit, mpmath.matrix([c / v for c, v in zip(cross, scale, strict=True)]))
            coef[:, k] = [LONG(mpmath.nstr(v / scale[j], 25)) for j, v in enumerate(solved)]
        means = np.array([LONG(mpmath.nstr(mpmath.mpf(v), 25)) for v in mx])
        b = np.array([LONG(mpmath.nstr(mpmath.mpf(v), 25)) for v in my]) - means @ coef
    return coef, b
