"""Attack on the estimators: objective, gradient and minimum over every mask, ridge also by its normal equations."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from allmasks import linear_model
from attacks.core import Fault, holds
from attacks.estimators_truth import Objective, ridge_solution
from attacks.scores import draw_rates
from attacks.scores_truth import LONG, listed, sigmoid

_EPS = float(np.finfo(np.float64).eps)
LOSS = {
    "DropoutRidge": "squared_error",
    "DropoutRidgeCV": "squared_error",
    "DropoutLogisticRegression": "logistic",
    "DropoutLogisticRegressionCV": "logistic",
    "DropoutPoissonRegressor": "poisson",
}


@dataclass(frozen=True)
class Case:
    estimator: str
    X: np.ndarray
    y: np.ndarray
    sample_weight: np.ndarray | None
    options: dict[str, Any]
    storage: str
    batches: int
    plain: bool

    @property
    def given(self) -> Any:
        return getattr(sparse, f"{self.storage}_matrix")(self.X) if self.storage in ("csr", "csc") else self.X

    @property
    def weight(self) -> np.ndarray:
        return np.ones(len(self.X)) if self.sample_weight is None else self.sample_weight

    @property
    def single(self) -> bool:
        return self.X.dtype == np.float32


class Estimators:
    name = "estimators"

    def draw(self, rng: np.random.Generator) -> Case:
        name = str(rng.choice(list(LOSS), p=[0.4, 0.1, 0.24, 0.01, 0.25]))
        n, d = int(rng.integers(4, 30)), int(rng.integers(1, 6))
        X = rng.standard_normal((n, d)) if rng.random() < 0.6 else rng.poisson(1.0, (n, d)).astype(np.float64)
        X *= rng.random((n, d)) < rng.choice([1.0, 0.5])
        shape = rng.choice(
            ["plain", "scales", "shifted", "constant", "copied", "wild"], p=[0.5, 0.15, 0.1, 0.1, 0.05, 0.1]
        )
        if shape == "scales":
            X *= 10.0 ** rng.uniform(-2, 2, d)
        elif shape == "shifted":
            X += 10.0 ** rng.uniform(0, 7 if "Ridge" in name else 1.5, d)
        elif shape == "constant":
            X[:, rng.integers(d)] = float(rng.choice([1.0, 0.3, 0.0, -7.0, 1e3]))
        elif shape == "copied" and d > 1:
            X[:, 0] = X[:, 1]
        elif shape == "wild" and "Ridge" in name:
            X *= 10.0 ** rng.choice([-150.0, -20.0, 20.0, 150.0, 100.0])
        score = X @ rng.standard_normal(d) / (1e-300 + np.abs(X).max()) + 0.3 * rng.standard_normal(n)
        y, size = self._targets(rng, name, score), 1.0
        if "Logistic" not in name and rng.random() < 0.3:
            size = 10.0 ** rng.choice([-9.0, -6.0, -3.0, 3.0, 6.0] + [-100.0, 100.0] * ("Ridge" in name))
        weight = None
        if rng.random() < 0.4:
            weight = rng.choice([rng.random(n), rng.integers(0, 3, n).astype(float)]) * 10.0 ** rng.choice(
                [0.0, -6.0, 6.0]
            )
            weight[: min(3, n)] += weight.max() + 1e-9
        # The first rows show every class, with weight.
        p = draw_rates(rng, d)
        p = float(min(p, 0.99)) if np.ndim(p) == 0 else np.minimum(p, 0.99)
        options: dict[str, Any] = {"p": p, "alpha": float(rng.choice([0.0, 1e-6, 0.1, 1.0, 10.0]))}
        if name not in ("DropoutRidge", "DropoutRidgeCV"):
            options["alpha"] = float(rng.choice([1e-3, 0.1, 1.0, 10.0]))
        if rng.random() < 0.3:
            options["fit_intercept"] = False
        if "Logistic" in name and rng.random() < 0.25:
            options["class_weight"] = "balanced"
        if name == "DropoutRidgeCV":
            del options["p"], options["alpha"]
            options |= {"ps": [0.1, 0.5, 0.9], "alphas": [0.0, 1.0] if rng.random() < 0.5 else [0.5]}
        if name == "DropoutLogisticRegressionCV":
            del options["p"], options["alpha"]
            options |= {"ps": [0.1, 0.5], "alphas": [0.1, 1.0], "cv": 2}
        storage = str(rng.choice(["dense", "dense", "csr", "csc"]))
        if rng.random() < 0.15 and shape not in ("wild", "shifted") and 1e-10 < size < 1e10:
            X = X.astype(np.float32)
        batches = int(rng.integers(2, 4)) if name == "DropoutRidge" and rng.random() < 0.25 else 0
        plain = shape in ("plain", "scales", "constant") and (weight is None or not name.endswith("CV"))
        return Case(name, X, y * size, weight, options, storage, batches, plain)

    def _targets(self, rng: np.random.Generator, name: str, score: np.ndarray) -> np.ndarray:
        n = len(score)
        if name == "DropoutPoissonRegressor":
            return np.maximum(rng.poisson(np.exp(np.clip(score, -3, 3))), np.arange(n) == 0).astype(np.float64)
        if "Logistic" in name:
            y = (score + rng.logistic(size=n) * 0.5 > 0).astype(int)
            if rng.random() < 0.3:
                y += rng.integers(0, 2, n)
            y[:4] = [0, 1, 0, 1]
            return y
        return score if rng.random() < 0.8 or name == "DropoutRidgeCV" else np.stack([score, rng.standard_normal(n)], 1)

    def check(self, case: Case) -> list[Fault]:
        model = getattr(linear_model, case.estimator)(**case.options)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            if case.batches:
                for rows in np.array_split(np.arange(len(case.X)), case.batches):
                    weight = None if case.sample_weight is None else case.sample_weight[rows]
                    if weight is not None and not weight.any():
                        weight = weight + 1e-300
                    X = case.given[rows] if case.storage != "csc" else case.given.tocsr()[rows]
                    model.partial_fit(X, case.y[rows], weight)
            else:
                model.fit(case.given, case.y, case.sample_weight)
        unfinished = any(issubclass(one.category, ConvergenceWarning) for one in told)
        for one in told:
            if not issubclass(one.category, ConvergenceWarning):
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
        with np.errstate(all="ignore"):
            return self._held(case, model, unfinished)

    def _held(self, case: Case, model: Any, unfinished: bool) -> list[Fault]:
        name, faults = case.estimator, []
        d = case.X.shape[1]
        if not all(np.isfinite(v).all() for v in (model.coef_, model.intercept_, np.float64(model.objective_))):
            return [
                Fault(f"{name}: not finite", f"coef {model.coef_}, intercept {model.intercept_}, {model.objective_}")
            ]
        p = case.options.get("p", getattr(model, "p_", None))
        alpha = case.options.get("alpha", getattr(model, "alpha_", None))
        p = np.broadcast_to(np.asarray(p, np.float64), (d,))
        problems = _problems(case, model, p, alpha)
        coefs = np.atleast_2d(model.coef_)
        intercepts = np.broadcast_to(model.intercept_, len(coefs))  # 0.0 for all where none is fitted
        total, size = LONG(0), LONG(0)
        for problem, w, b in zip(problems, coefs, intercepts, strict=True):
            total += problem.value(w, b)
            size += problem.null()[0] + abs(problem.value(w, b))
        # A float32 model's coefficients are rounded after its objective was computed.
        slack = 1e-4 * abs(size) if case.single else 1e-17 * abs(size)
        faults += holds(f"{name} objective", model.objective_, model.objective_error_, "exact", total, slack)
        for problem, w, b in zip(problems, coefs, intercepts, strict=True):
            faults += self._minimum(case, problem, w, float(b), unfinished)
        if "Ridge" in name:
            faults += self._ridge(case, model, p, alpha)
        faults += self._predictions(case, model, p)
        if name == "DropoutRidgeCV":
            faults += self._choice(case, model)
        return faults

    def _minimum(self, case: Case, problem: Objective, w: Any, b: float, unfinished: bool) -> list[Fault]:
        null, at = problem.null()
        value, name = problem.value(w, b), case.estimator
        if unfinished:
            return [Fault(f"{name}: stops early on a plain problem", "ConvergenceWarning")] if case.plain else []
        natural = float(problem.value(np.zeros(len(w)), at)) if name != "DropoutPoissonRegressor" else 0.0
        if name == "DropoutPoissonRegressor":
            natural = float((problem.weight * problem.y).sum())
        if "Ridge" in name:  # what a fit can explain, not the mean that the intercept takes
            natural = float((problem.weight * problem.y**2).sum())
        if not value <= null + 1e-9 * abs(natural) * (1 + 1e3 * case.single):
            return [Fault(f"{name}: worse than no features", f"{float(value)!r}, and {float(null)!r} without")]
        short = problem.shortfall(w, b)
        allowed = 1e-5 * float(null - value) + 1e-11 * abs(natural)
        allowed += 1e-4 * abs(natural) if case.single else 0.0
        if short > allowed and (case.plain or "Ridge" in name):
            text = f"{short:.3g} above its minimum; no features {float(null - value):.3g} above"
            return [Fault(f"{name}: not the minimum", text)]
        return []

    def _ridge(self, case: Case, model: Any, p: Any, alpha: float) -> list[Fault]:
        name, faults = case.estimator, []
        weight = np.asarray(case.weight, LONG)
        X = np.asarray(case.X, LONG)
        squares = (weight[:, None] * X**2).sum(axis=0) * np.asarray(p, LONG) / (1 - np.asarray(p, LONG))
        error = 1e-12 * squares + 1e-290  # an empty batch was given weights of 1e-300
        faults += holds(f"{name} equivalent_penalty_", model.equivalent_penalty_, error, "exact", squares)
        Y = case.y.reshape(len(case.X), -1)
        solved = ridge_solution(case.X, Y, case.weight, p, alpha, case.options.get("fit_intercept", True))
        if solved is None:
            return faults
        coef, b = solved
        # Each coefficient beside what its column, and the largest of the scaled ones, can do.
        scale = np.sqrt((weight[:, None] * X**2).sum(axis=0))
        largest = np.abs(coef * scale[:, None]).max(axis=0) + 1e-6 * np.sqrt((weight[:, None] * Y**2).sum(axis=0))
        near = (1e-3 if case.single else 1e-7) * (np.abs(coef) + largest / np.maximum(scale[:, None], LONG(1e-300)))
        shift = (np.abs(X).max() / np.maximum(np.abs(X - X.mean(axis=0)).max(axis=0).min(), LONG(1e-300))) ** 2
        if case.options.get("fit_intercept", True):
            near = near * (1 + 1e-9 * shift)
        faults += holds(f"{name} coef_", np.atleast_2d(model.coef_).T, near, "exact", coef)
        where = np.abs(X).max(axis=0)
        size = np.abs(Y).max() + (np.abs(coef) * where[:, None]).sum(axis=0)
        loose = 10 * (where[:, None] * near).sum(axis=0) + 1e-9 * size
        return faults + holds(f"{name} intercept_", np.broadcast_to(model.intercept_, len(b)), loose, "exact", b)

    def _predictions(self, case: Case, model: Any, p: Any) -> list[Fault]:
        name = case.estimator
        if "Logistic" in name and len(model.classes_) > 2:
            return []
        rows = case.X[:4]
        coefs = np.atleast_2d(model.coef_)
        intercepts = np.broadcast_to(model.intercept_, len(coefs))  # 0.0 for all where none is fitted
        mean, std = [], []
        for w, b in zip(coefs, intercepts, strict=True):
            scores, chance, reach = listed(w, rows, p, float(b))
            v = {"logistic": sigmoid, "poisson": np.exp, "squared_error": lambda s: s}[LOSS[name]](scores)
            mean.append(v @ chance)
            if "Ridge" in name:  # no difference of means: it would cancel
                std.append(np.sqrt((p / (1 - np.asarray(p, LONG)) * (np.asarray(w, LONG) * rows) ** 2).sum(axis=1)))
            else:
                std.append(np.sqrt((v - (v @ chance)[:, None]) ** 2 @ chance))
        if "Ridge" in name:
            got = np.asarray(model.predict(rows)).reshape(len(rows), -1).T
        elif name == "DropoutPoissonRegressor":
            got = model.predict(rows, average="masks")[None]
        else:
            got = model.predict_proba(rows, average="masks")[:, 1][None]
        spread = np.asarray(model.predict_std(rows)).reshape(len(rows), -1).T
        loose = 1e-3 if case.single else 1e-9
        size = np.abs(np.array(mean)) + np.array(std) + (reach if "Ridge" in name else 1e-6 * (1 + reach)) + 1e-300
        faults = holds(f"{name} prediction", got, loose * size, "exact", np.array(mean))
        # A difference of means where nearly nothing varies: its root is good to the root of the round-off.
        small = 0.0 if "Ridge" in name else 1e-7 * np.maximum(size, 1 if "Logistic" in name else 0)
        return faults + holds(
            f"{name} predict_std", spread, loose * np.array(std) + small + 1e-150, "exact", np.array(std)
        )

    def _choice(self, case: Case, model: Any) -> list[Fault]:
        """The scores of leave-one-out with D held fixed, by leaving each row out."""
        X, y, weight = case.X.astype(np.float64), case.y, case.weight
        fit, results = case.options.get("fit_intercept", True), model.cv_results_
        if not case.plain or case.single or (weight > 0).sum() < len(y):
            return []
        squares = (weight[:, None] * X**2).sum(axis=0)
        wanted = []
        for p, alpha in zip(results["p"], results["alpha"], strict=True):
            penalty, errors = np.diag(p / (1 - p) * squares + alpha), []
            for i in range(len(y)):
                keep = np.arange(len(y)) != i
                x, t, s = X[keep], y[keep], weight[keep]
                mx, my = (np.average(x, axis=0, weights=s), np.average(t, weights=s)) if fit else (0.0 * X[0], 0.0)
                A = ((x - mx) * s[:, None]).T @ (x - mx) + penalty
                if np.linalg.cond(A) > 1e10:
                    return []
                w = np.linalg.solve(A, ((x - mx) * s[:, None]).T @ (t - my))
                errors.append((y[i] - my - (X[i] - mx) @ w) ** 2)
            wanted.append(-np.average(errors, weights=weight))
        near = 1e-6 * np.abs(wanted) + 1e-12 * np.average(y**2, weights=weight)
        faults = holds("DropoutRidgeCV leave-one-out", results["mean_test_score"], near, "exact", np.array(wanted))
        if model.best_score_ < results["mean_test_score"].max():
            faults.append(Fault("DropoutRidgeCV: not the best", f"{model.best_score_} of {results['mean_test_score']}"))
        return faults

    def call(self, case: Case) -> str:
        options = ", ".join(f"{k}={v.tolist() if isinstance(v, np.ndarray) else v!r}" for k, v in case.options.items())
        X = f"np.array({case.X.tolist()}, {str(case.X.dtype)!r})"
        X = f"{case.storage}_matrix({X})" if case.storage != "dense" else X
        weight = "" if case.sample_weight is None else f", sample_weight={case.sample_weight.tolist()}"
        fit = f"partial_fit × {case.batches}" if case.batches else "fit"
        return f"{case.estimator}({options}).{fit}({X}, {case.y.tolist()}{weight})"

    def smaller(self, case: Case) -> Iterator[Case]:
        n, d = case.X.shape
        if case.batches:
            yield replace(case, batches=0)
        if case.storage != "dense":
            yield replace(case, storage="dense")
        if case.sample_weight is not None:
            yield replace(case, sample_weight=None)
        for i in range(n - 1, 2, -1) if n > 4 else ():
            keep = np.arange(n) != i
            weight = None if case.sample_weight is None else case.sample_weight[keep]
            yield replace(case, X=case.X[keep], y=case.y[keep], sample_weight=weight)
        for j in range(d) if d > 1 else ():
            keep = np.arange(d) != j
            p = case.options.get("p")
            options = case.options | ({"p": p[keep]} if np.ndim(p) else {})
            yield replace(case, X=case.X[:, keep], options=options)
        if case.X.dtype == np.float64:
            rounded = np.array([float(f"{v:.1e}") for v in case.X.ravel()]).reshape(case.X.shape)
            if (rounded != case.X).any():
                yield replace(case, X=rounded)


def _problems(case: Case, model: Any, p: Any, alpha: float) -> list[Objective]:
    """One objective for each output, or for each class against the rest."""
    loss, weight = LOSS[case.estimator], np.asarray(case.weight, LONG)
    ridge = alpha if loss == "squared_error" else alpha / 2
    fit = case.options.get("fit_intercept", True)
    X = case.X.astype(np.float64)
    if loss != "logistic":
        columns = case.y.reshape(len(X), -1).T
    else:
        classes = model.classes_
        if case.options.get("class_weight") == "balanced":
            mass = {k: weight[case.y == k].sum() for k in classes}
            mass = {k: v for k, v in mass.items() if v > 0}
            weight = weight * np.array([sum(mass.values()) / (len(mass) * mass[k]) if k in mass else 0 for k in case.y])
        targets = classes[1:] if len(classes) == 2 else classes
        columns = [(case.y == k).astype(np.float64) for k in targets]
    return [Objective(loss, X, np.asarray(y, np.float64), weight, p, ridge, fit) for y in columns]
