"""The dropout objective of a linear model by listing every mask: the truth that estimators are held against."""

import numpy as np

from truth import every_mask


def squared_objective(X, Y, weight, p, alpha, W, b):
    """Σ s E‖S − y‖² + α‖W‖² and its gradient with respect to W (d, k) and b (k,), all masks listed."""
    masks, probability = every_mask(p)
    value, slope, shift = alpha * np.square(W).sum(), 2 * alpha * W, np.zeros(Y.shape[1])
    for x, y, s in zip(X, Y, weight, strict=True):
        inputs = x * masks / (1 - p)
        apart = inputs @ W + b - y
        value = value + s * probability @ np.square(apart).sum(axis=1)
        slope = slope + 2 * s * (inputs * probability[:, None]).T @ apart
        shift = shift + 2 * s * probability @ apart
    return value, slope, shift
