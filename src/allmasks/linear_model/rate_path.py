"""The whole path over the drop rate from one factorisation, leave-one-out errors included.

With λ = p/(1 − p), D = diag(Σ sᵢ xᵢⱼ²) and the rows centered, w(λ) = (XᵀX + αI + λD)⁻¹ Xᵀy. In coordinates √D w the
matrix is D^{−½}(XᵀX + αI)D^{−½} + λI: one eigendecomposition serves every λ. The fit is linear in y, so leaving row i
out changes its residual rᵢ to rᵢ / (1 − hᵢᵢ) — *with D held fixed*. (A refit without row i would also take xᵢⱼ² out of
D; on sparse data that is a visibly different number. `cv=n` gives it.)
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

from allmasks.linear_model.centered import Centered, centered_gram, centered_kernel, row_blocks
from allmasks.linear_model.quadratic import LARGEST_GRAM, inverted

__all__ = ["RatePath", "WidePath", "rate_path"]

Array = NDArray[np.float64]

_SMALLEST = 1e-9
"""1 − hᵢᵢ below which a row determines its own fit: what leaving it out would do is then not known."""


class RatePath:
    """Eigenvectors of one side of the problem; `at` evaluates any rate from them."""

    def __init__(self, data: Centered, squares: Array, alpha: float) -> None:
        n, d = data.X.shape
        self.data, self.alpha = data, alpha
        self.scale = np.where(squares > 0, 1.0 / np.sqrt(np.where(squares > 0, squares, 1.0)), 0.0)
        self.by_kernel = n < d
        if min(n, d) > LARGEST_GRAM:
            raise ValueError(
                f"a path over p needs a matrix of {min(n, d)} × {min(n, d)}, more than {LARGEST_GRAM}; fit "
                "DropoutRidge for a few rates instead, say by GridSearchCV"
            )
        if self.by_kernel:
            values, self.vectors = linalg.eigh(
                centered_kernel(data, self.scale**2), check_finite=False, overwrite_a=True
            )
            self.rotated = self.vectors.T @ data.targets
        else:
            gram = centered_gram(data)
            gram[np.diag_indices(d)] += np.where(squares > 0, alpha, 0.0)
            gram *= self.scale
            gram *= self.scale[:, None]
            # Older SciPy asks "evd" for too little workspace in one dimension.
            driver = "evd" if d > 1 else None
            values, self.vectors = linalg.eigh(gram, driver=driver, check_finite=False, overwrite_a=True)
            self.rotated = self.vectors.T @ (self.scale[:, None] * data.t_dot(data.targets))
        self.values = np.maximum(values, 0.0)

    def coefficients(self, strengths: Array) -> list[Array]:
        """w for each λ, (d, k)."""
        inverse = np.stack([inverted(self.values, float(v)) for v in strengths])
        k = self.rotated.shape[1]
        spectral = (inverse[:, :, None] * self.rotated).transpose(1, 0, 2).reshape(len(self.values), -1)
        coordinates = self.vectors @ spectral
        if self.by_kernel:
            flat = (self.scale**2)[:, None] * self.data.t_dot(coordinates)
        else:
            flat = self.scale[:, None] * coordinates
        return list(flat.reshape(-1, len(strengths), k).transpose(1, 0, 2))

    def degrees_of_freedom(self, strengths: Array, center: bool) -> Array:
        """Trace of the hat matrix for each λ, the intercept's 1 included."""
        fitted = self.values
        if not self.by_kernel and self.alpha > 0:
            fitted = fitted - self.alpha * (np.square(self.vectors).T @ self.scale**2)
        return np.array([fitted @ inverted(self.values, float(v)) for v in strengths]) + float(center)

    def left_out(self, strengths: Array, center: bool) -> Array:
        """Squared leave-one-out errors times s, summed over outputs: (n, len(strengths)); infinite where unknown."""
        inverse = np.stack([inverted(self.values, float(v)) for v in strengths], axis=1)
        root, targets = self.data.root, self.data.targets
        own = root**2 / float((root**2).sum()) if center else np.zeros_like(root)
        k = targets.shape[1]
        weights = inverse * self.values[:, None] if self.by_kernel else inverse
        spectral = (weights[:, :, None] * self.rotated[:, None, :]).reshape(len(self.values), -1)
        out = np.empty((len(root), len(strengths)))
        for rows, part in self._rotated_rows():
            leverage = np.square(part) @ weights + own[rows, None]
            fitted = (part @ spectral).reshape(len(part), len(strengths), k)
            squared = np.square(targets[rows, None, :] - fitted).sum(axis=2)
            left = 1.0 - leverage
            fine = left > _SMALLEST
            out[rows] = np.where(fine, squared / np.where(fine, left, 1.0) ** 2, np.inf)
        out[root == 0] = 0.0
        return out

    def _rotated_rows(self) -> Iterator[tuple[slice, Array]]:
        """Rows in the coordinates of the eigenvectors, a block at a time."""
        if self.by_kernel:
            yield slice(0, len(self.vectors)), self.vectors
            return
        rotation = self.scale[:, None] * self.vectors
        if not sparse.issparse(self.data.X):
            for rows, block in self.data.blocks():
                yield rows, block @ rotation
            return
        shift = self.data.x_mean @ rotation
        for rows in row_blocks(self.data.X):
            x = self.data.X[rows]
            part = np.asarray(x @ rotation) - shift
            yield rows, part * self.data.root[rows, None]


class WidePath:
    """d > n with an L2 penalty besides: λD + αI is no multiple of anything, so each rate has an n × n matrix."""

    def __init__(self, data: Centered, squares: Array, alpha: float) -> None:
        self.data, self.squares, self.alpha = data, squares, alpha
        if data.X.shape[0] > LARGEST_GRAM:
            raise ValueError(
                f"a path over p needs a matrix of {data.X.shape[0]} × {data.X.shape[0]}, more than {LARGEST_GRAM}; "
                "fit DropoutRidge for a few rates instead, say by GridSearchCV"
            )

    def _solve(self, strength: float) -> tuple[Array, Array, Array]:
        inverse = 1.0 / (strength * self.squares + self.alpha)
        kernel = centered_kernel(self.data, inverse)
        kernel[np.diag_indices_from(kernel)] += 1.0
        factor = linalg.cho_factor(kernel, lower=True, check_finite=False)
        return inverse, linalg.cho_solve(factor, self.data.targets), linalg.cho_solve(factor, np.eye(len(kernel)))

    def coefficients(self, strengths: Array) -> list[Array]:
        """w for each λ, (d, k)."""
        solved = [self._solve(float(v)) for v in strengths]
        return [inverse[:, None] * self.data.t_dot(dual) for inverse, dual, _ in solved]

    def degrees_of_freedom(self, strengths: Array, center: bool) -> Array:
        """As `RatePath.degrees_of_freedom`."""
        # K (K + I)⁻¹ = I − (K + I)⁻¹
        return np.array([len(self.data.root) - np.trace(self._solve(float(v))[2]) for v in strengths]) + float(center)

    def left_out(self, strengths: Array, center: bool) -> Array:
        """As `RatePath.left_out`."""
        root = self.data.root
        own = root**2 / float((root**2).sum()) if center else np.zeros_like(root)
        out = np.empty((len(root), len(strengths)))
        for c, strength in enumerate(strengths):
            _, dual, solved = self._solve(float(strength))
            # Residuals are the dual variables, and 1 − h the diagonal of (K + I)⁻¹, less the intercept's share.
            left = np.diag(solved) - own
            fine = left > _SMALLEST
            out[:, c] = np.where(fine, np.square(dual).sum(axis=1) / np.where(fine, left, 1.0) ** 2, np.inf)
        out[root == 0] = 0.0
        return out


def rate_path(data: Centered, squares: Array, alpha: float) -> RatePath | WidePath:
    """What evaluates every drop rate for one α from as little work as the shape allows."""
    n, d = data.X.shape
    if n < d and alpha > 0:
        return WidePath(data, squares, alpha)
    return RatePath(data, squares, alpha)
