"""The figures of the page on linear models: paths over p beside paths over α, and what becomes of rare features.

    pip install 'allmasks[figures]' && python docs/figures/linear_paths.py

writes linear_paths.svg, logistic_paths.svg, poisson_paths.svg and rare_features.svg beside this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import LogisticRegression, Ridge

from allmasks.linear_model import DropoutLogisticRegression, DropoutPoissonRegressor, DropoutRidge

HERE = Path(__file__).parent
COLORS = ["#0b6fa4", "#c8551b", "#3a8f5c", "#8a5aa8", "#b08a00", "#5b6770", "#c2417c", "#2aa3a3", "#7a4b2a", "#444444"]


def finished(figure: go.Figure, name: str, height: int) -> None:
    """White ground, one font, written as SVG."""
    figure.update_layout(template="plotly_white", width=900, height=height, margin={"l": 60, "r": 20, "t": 40, "b": 50})
    figure.write_image(HERE / name)


Curves = tuple[np.ndarray, np.ndarray]


def beside(
    file: str,
    names: Sequence[str],
    dropout: Curves,
    penalty: Curves,
    *,
    titles: tuple[str, str] = ("dropout, over p (α = 0.1)", "L2, over α"),
    label: str = "coefficient × standard deviation",
) -> None:
    """One line for each coefficient, over (rates, coefficients) on the left and (alphas, coefficients) on the right."""
    figure = make_subplots(1, 2, shared_yaxes=True, subplot_titles=titles)
    for j, name in enumerate(names):
        style = {"name": name, "legendgroup": name, "line": {"color": COLORS[j], "width": 1.6}}
        for column, (x, coefs) in enumerate((dropout, penalty), 1):
            figure.add_scatter(x=x, y=coefs[:, j], showlegend=column == 1, row=1, col=column, **style)
    figure.update_xaxes(title_text="p", row=1, col=1)
    figure.update_xaxes(title_text="α", type="log", row=1, col=2)
    figure.update_yaxes(title_text=label, row=1, col=1)
    finished(figure, file, 420)


def paths() -> None:
    """Diabetes, columns centered, not scaled: the penalty of dropout knows the scale of each, that of ridge not."""
    X, y = load_diabetes(return_X_y=True, scaled=False)
    X = X - X.mean(axis=0)
    names = load_diabetes().feature_names
    rates = np.linspace(0.0, 0.99, 60)
    alphas = np.logspace(-2, 5, 60)
    scale = X.std(axis=0)
    over_p = np.array([DropoutRidge(p).fit(X, y).coef_ for p in rates]) * scale
    over_alpha = np.array([Ridge(alpha).fit(X, y).coef_ for alpha in alphas]) * scale
    beside(
        "linear_paths.svg", names, (rates, over_p), (alphas, over_alpha), titles=("dropout, over p", "ridge, over α")
    )


def logistic_paths() -> None:
    """The first ten breast-cancer measurements, standardized: logistic loss, over p at a little L2, and over α."""
    X, y = load_breast_cancer(return_X_y=True)
    names = load_breast_cancer().feature_names[:10]
    X = (X[:, :10] - X[:, :10].mean(axis=0)) / X[:, :10].std(axis=0)
    rates = np.linspace(0.0, 0.95, 39)
    alphas = np.logspace(-1, 4, 40)
    over_p = np.array([DropoutLogisticRegression(p, alpha=0.1).fit(X, y).coef_[0] for p in rates])
    over_alpha = np.array([LogisticRegression(C=1 / a, tol=1e-8, max_iter=5000).fit(X, y).coef_[0] for a in alphas])
    beside("logistic_paths.svg", names, (rates, over_p), (alphas, over_alpha), label="coefficient")


def poisson_paths() -> None:
    """Counts of six features that differ in scale, Poisson loss: over p at a little L2, and over α."""
    rng = np.random.default_rng(0)
    scale = np.array([0.1, 0.2, 0.4, 0.6, 0.8, 1.0])
    X = rng.normal(size=(500, 6)) * scale
    y = rng.poisson(np.exp(0.3 + X @ (0.4 / scale * np.array([1, -1, 1, -1, 1, -1]))))
    rates = np.linspace(0.0, 0.95, 39)
    alphas = np.logspace(-1, 4, 40)
    over_p = np.array([DropoutPoissonRegressor(p, alpha=0.1).fit(X, y).coef_ for p in rates]) * scale
    over_alpha = np.array([DropoutPoissonRegressor(0.0, alpha=a).fit(X, y).coef_ for a in alphas]) * scale
    beside("poisson_paths.svg", [f"scale {s:g}" for s in scale], (rates, over_p), (alphas, over_alpha))


def rare_features() -> None:
    """Forty binary features of equal true weight, from one that fires in 2 % of rows to one that fires in half."""
    frequency = np.geomspace(0.02, 0.5, 40)
    figure = make_subplots(1, 2, shared_yaxes=True, subplot_titles=("squared loss", "logistic loss"))
    for column, (n, fits) in enumerate(((400, squared_fits), (1000, logistic_fits)), 1):
        rng = np.random.default_rng(0)
        kept_by: dict[str, list[np.ndarray]] = {"dropout": [], "L2": []}
        for _ in range(40):
            X = (rng.random((n, 40)) < frequency).astype(float)
            for kept, coef in zip(kept_by.values(), fits(X, rng), strict=True):
                kept.append(coef)
        for (name, coefs), color in zip(kept_by.items(), COLORS, strict=False):
            figure.add_scatter(
                x=frequency,
                y=np.mean(coefs, axis=0),
                error_y={"array": np.std(coefs, axis=0, ddof=1) / np.sqrt(len(coefs)), "thickness": 1, "width": 2},
                mode="markers",
                marker={"color": color, "size": 6},
                name=name,
                showlegend=column == 1,
                row=1,
                col=column,
            )
        title = "share of rows in which the feature fires"
        ticks = [0.02, 0.05, 0.1, 0.2, 0.5]
        figure.update_xaxes(title_text=title, type="log", tickvals=ticks, ticktext=ticks, row=1, col=column)
    figure.add_hline(y=1.0, line={"color": "#888", "dash": "dash"})
    figure.update_yaxes(range=[0, 1.2])
    figure.update_yaxes(title_text="coefficient (true: 1)", row=1, col=1)
    finished(figure, "rare_features.svg", 380)


def squared_fits(X: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    y = X.sum(axis=1) + rng.normal(size=len(X))
    dropout = DropoutRidge(0.3).fit(X, y)
    # The one α that shrinks as much in all: the mean of what dropout puts on the features.
    return dropout.coef_, Ridge(float(dropout.equivalent_penalty_.mean())).fit(X, y).coef_


def logistic_fits(X: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    score = X.sum(axis=1)
    y = rng.random(len(X)) < 1 / (1 + np.exp(score.mean() - score))
    dropout = DropoutLogisticRegression(0.3, alpha=0.1).fit(X, y)
    alpha = 0.1 + float(dropout.equivalent_penalty_.mean())
    return dropout.coef_[0], LogisticRegression(C=1 / alpha, tol=1e-8, max_iter=5000).fit(X, y).coef_[0]


if __name__ == "__main__":
    paths()
    logistic_paths()
    poisson_paths()
    rare_features()
