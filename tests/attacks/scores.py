"""Attack on `expected_score_loss` and `expected_score`: every loss, method, dtype, storage and magnitude."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import mpmath
import numpy as np
from scipy import sparse

import allmasks as am
from allmasks import methods
from attacks.core import MAX, Fault, Refused, holds
from attacks.scores_truth import (
    CALLABLES,
    LINKS,
    LONG,
    NAMED,
    ULP,
    as_long,
    exactly,
    kept_mean,
    listed,
    penalty_exactly,
)  # fmt: skip

RATES = (0.0, 1e-6, 1e-3, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 0.999999)
_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Case:
    """One call; `link` is None for `expected_score_loss`."""

    weights: np.ndarray
    X: np.ndarray
    y: np.ndarray
    p: Any
    intercept: Any
    loss: str
    method: Any
    n_masks: int | None
    sample_weight: np.ndarray | None
    return_grad: bool
    link: str | None
    storage: str
    plain: bool

    @property
    def rates(self) -> np.ndarray:
        return np.broadcast_to(np.asarray(self.p, np.float64), self.X.shape[1:])

    @property
    def given(self) -> Any:
        if self.storage in ("csr", "csc", "coo"):
            return getattr(sparse, f"{self.storage}_matrix")(self.X)
        if self.storage == "list":
            return self.X.tolist()
        if self.storage == "strided":
            return np.repeat(self.X, 2, axis=1)[:, ::2]
        return np.asfortranarray(self.X) if self.storage == "fortran" else self.X

    @property
    def function(self) -> Any:
        return NAMED[self.loss] if self.loss in NAMED else CALLABLES[self.loss][1]

    @property
    def keywords(self) -> dict[str, Any]:
        loss = self.loss if self.loss in NAMED else CALLABLES[self.loss][0]
        given = {"loss": loss, "intercept": self.intercept, "method": self.method, "n_masks": self.n_masks}
        given |= {"sample_weight": self.sample_weight, "return_grad": self.return_grad}
        return {name: value for name, value in given.items() if value is not None and value is not False}


def draw_rates(rng: np.random.Generator, d: int) -> Any:
    kind = rng.choice(["one", "one", "each", "mixed"])
    if kind == "one":
        return float(rng.choice(RATES)) if rng.random() < 0.7 else float(rng.uniform(0, 1))
    if kind == "each":
        return rng.uniform(0, 1, d)
    return rng.choice(RATES, d)


def draw_numbers(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Numbers of a kind of magnitude."""
    normal = rng.standard_normal(shape)
    if kind == "moderate":
        return normal * rng.choice([0.1, 1.0, 3.0])
    if kind == "steep":
        return normal * rng.choice([10.0, 100.0, 1000.0])
    if kind == "mixed":
        return np.sign(normal) * 10.0 ** rng.uniform(-8, 3, shape)
    if kind == "alike":
        return np.full(shape, float(rng.choice([0.3, 1.0, -2.0, 30.0])))
    if kind == "binary":
        return rng.integers(0, 2, shape).astype(np.float64)
    if kind == "counts":
        return rng.poisson(1.0, shape).astype(np.float64)
    return np.sign(normal) * 10.0 ** rng.uniform(-300, 300, shape)  # wild


class Scores:
    name = "scores"

    def draw(self, rng: np.random.Generator) -> Case:
        d, n = int(rng.choice([1, 2, 3, 4, 6, 8, 11])), int(rng.choice([1, 1, 2, 3, 5]))
        link = str(rng.choice(list(LINKS))) if rng.random() < 0.2 else None
        loss = str(rng.choice(list(NAMED))) if rng.random() < 0.8 else str(rng.choice(list(CALLABLES)))
        k = (
            int(rng.integers(2, 4))
            if link is None and loss in ("squared_error", "logistic") and rng.random() < 0.2
            else 0
        )
        sizes = rng.choice(["moderate", "mixed", "steep", "alike", "wild"], p=[0.5, 0.17, 0.15, 0.1, 0.08])
        w = draw_numbers(rng, (d, k) if k else (d,), sizes)
        kind = rng.choice(["moderate", "binary", "counts", "mixed", "wild"], p=[0.45, 0.2, 0.15, 0.15, 0.05])
        X = draw_numbers(rng, (n, d), kind) * (rng.random((n, d)) < rng.choice([1.0, 0.6]))
        storage = str(rng.choice(["c", "c", "csr", "csr", "csc", "coo", "list", "fortran", "strided"]))
        if kind in ("binary", "counts") and storage == "c":
            X = X.astype(rng.choice(["float64", "int64", "float32", "bool" if kind == "binary" else "int8"]))
        elif rng.random() < 0.1 and kind != "wild":
            X = X.astype(np.float32)
        b = 0.0 if rng.random() < 0.5 else float(draw_numbers(rng, (), rng.choice(["moderate", "steep"])))
        intercept = draw_numbers(rng, (k,), "moderate") if k and rng.random() < 0.5 else b
        y = self._targets(rng, loss, (n, k) if k else (n,))
        p = draw_rates(rng, d)
        method, n_masks = self._method(rng, loss, link)
        weight = self._weights(rng, n)
        rates = np.broadcast_to(np.asarray(p, np.float64), (d,))
        with np.errstate(over="ignore", invalid="ignore"):
            reach = np.abs(X.astype(np.float64) @ np.abs(w)).max() / (1 - rates.max()) + np.max(np.abs(intercept))
        plain = method is None and reach < 30 and (loss in NAMED or link is not None) and kind != "wild"
        return Case(
            w, X, y, p, intercept, loss, method, n_masks, weight,
            bool(rng.random() < 0.4) and loss in NAMED and link is None, link, storage, bool(plain),
        )  # fmt: skip

    def _targets(self, rng: np.random.Generator, loss: str, shape: tuple[int, ...]) -> np.ndarray:
        if loss == "logistic":
            return rng.integers(0, 2, shape).astype(float) if rng.random() < 0.7 else rng.random(shape)
        if loss == "exponential":
            return rng.choice([-1.0, 1.0], shape)
        if loss == "poisson":
            return rng.poisson(3.0, shape).astype(float) * rng.choice([1.0, 1.0, 1e-9, 1e6])
        return draw_numbers(rng, shape, rng.choice(["moderate", "moderate", "steep", "mixed"]))

    def _method(self, rng: np.random.Generator, loss: str, link: str | None) -> tuple[Any, int | None]:
        if rng.random() < 0.55:
            return None, None
        choices = [methods.Enumeration(), methods.GaussianMoments()]
        if link is None:
            k = int(rng.choice([1, 2, 3, 10, 31, 64, 100, 255, 256]))
            sampler = rng.choice([am.samplers.Independent(), am.samplers.Antithetic(), am.samplers.LatinHypercube()])
            choices += [methods.Delta(), methods.MonteCarlo(n_masks=k, sampler=sampler)]
            if rng.random() < 0.1:
                return None, k
        if (link or loss) == "logistic" or (link is None and loss in CALLABLES):
            choices += [methods.Fourier(), methods.Fourier(tol=float(10.0 ** -rng.integers(3, 15)))]
        else:
            choices += [methods.ClosedForm(), methods.Fourier()]
        return choices[int(rng.integers(len(choices)))], None

    def _weights(self, rng: np.random.Generator, n: int) -> np.ndarray | None:
        if rng.random() < 0.6:
            return None
        weight = rng.random(n) * 10.0 ** rng.choice([0.0, 0.0, -200.0, 200.0])
        weight[rng.random(n) < 0.3] = 0.0
        return weight if weight.any() else np.ones(n)

    def check(self, case: Case) -> list[Fault]:
        if case.link is not None:
            return self._check_moments(case)
        result = am.expected_score_loss(case.weights, case.given, case.y, case.p, **case.keywords)
        return held(case, result)

    def _check_moments(self, case: Case) -> list[Fault]:
        result = am.expected_score(
            case.weights, case.given, case.p, link=case.link, intercept=case.intercept, method=case.method
        )
        quick, exact = LINKS[case.link]
        X = case.X.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            scores, weight, reach = listed(case.weights, X, case.rates, case.intercept)
            values = np.asarray(quick(scores))
            mean = values @ weight
            variance = (values - mean[:, None]) ** 2 @ weight
            slack = 64 * ULP * (np.abs(values) @ weight) * (1 + reach)
            spread = 64 * ULP * (variance + mean**2) * (1 + reach)

        def sure(which: int, digits: int) -> Any:
            # Beside the score S the function takes a target, which links have none of.
            function = lambda s, y: exact(s)  # noqa: E731
            rows = [exactly(function, case.weights, x, case.rates, case.intercept, 0.0, digits)[which] for x in X]
            return [as_long(v) for v in rows]

        label = f"expected_score {case.link}"
        faults = holds(
            f"{label} mean",
            result.mean,
            result.mean_error,
            result.guarantee,
            mean,
            slack,
            sure=lambda digits: sure(0, digits),
        )
        return faults + holds(
            f"{label} variance",
            result.variance,
            result.variance_error,
            result.guarantee,
            variance,
            spread,
            sure=lambda digits: sure(1, digits),
        )

    def call(self, case: Case) -> str:
        def said(value: Any) -> str:
            return repr(value.tolist() if isinstance(value, np.ndarray) else value)

        X = said(case.X) if case.storage not in ("csr", "csc", "coo") else f"{case.storage}_matrix({said(case.X)})"
        if case.X.dtype not in (np.float64, np.int64):
            X = f"np.array({X}, {str(case.X.dtype)!r})"
        if case.link is not None:
            rest = f"link={case.link!r}, intercept={said(case.intercept)}, method={case.method!r}"
            return f"am.expected_score({said(case.weights)}, {X}, {said(case.p)}, {rest})"
        rest = ", ".join(
            f"{name}={case.loss if name == 'loss' and case.loss in CALLABLES else said(value)}"
            for name, value in case.keywords.items()
            if not (name == "intercept" and np.all(np.asarray(value) == 0))
        )
        return f"am.expected_score_loss({said(case.weights)}, {X}, {said(case.y)}, {said(case.p)}, {rest})"

    def smaller(self, case: Case) -> Iterator[Case]:
        n, d = case.X.shape
        for i in range(n) if n > 1 else ():
            keep = np.arange(n) != i
            weight = None if case.sample_weight is None else case.sample_weight[keep]
            yield replace(case, X=case.X[keep], y=case.y[keep], sample_weight=weight)
        if case.sample_weight is not None:
            yield replace(case, sample_weight=None)
        for j in range(d) if d > 1 else ():
            keep = np.arange(d) != j
            p = case.p if np.ndim(case.p) == 0 else case.p[keep]
            yield replace(case, X=case.X[:, keep], weights=case.weights[keep], p=p)
        if case.return_grad:
            yield replace(case, return_grad=False)
        if case.storage != "c":
            yield replace(case, storage="c")
        if np.any(case.intercept):
            yield replace(case, intercept=case.intercept * 0.0)
        for digits in (0, 1, 3):
            rounded = np.array([float(f"{v:.{digits}e}") for v in case.weights.ravel()]).reshape(case.weights.shape)
            if (rounded != case.weights).any():
                yield replace(case, weights=rounded)
            if case.X.dtype == np.float64:
                rounded = np.array([float(f"{v:.{digits}e}") for v in case.X.ravel()]).reshape(case.X.shape)
                if (rounded != case.X).any():
                    yield replace(case, X=rounded)


@dataclass
class Truth:
    """Sums over outputs, in extended precision: rows' losses, at the mean mask, and gradients with their scales."""

    value: Any
    at_mean: Any
    slack: Any
    grads: list[dict[str, Any]]
    scales: list[dict[str, Any]]


def truth_of(case: Case) -> Truth:
    f, X, n = case.function, case.X.astype(np.float64), len(case.X)
    w = case.weights.reshape(len(case.weights), -1)
    y = case.y.reshape(n, -1)
    b = np.broadcast_to(np.asarray(case.intercept, np.float64), (w.shape[1],))
    share = np.ones(n) if case.sample_weight is None else case.sample_weight
    share = np.asarray(share, LONG) / np.asarray(share, LONG).sum()
    value, at_mean, slack = (np.zeros(n, LONG) for _ in range(3))
    grads, scales = [], []
    with np.errstate(all="ignore"):
        for c in range(w.shape[1]):
            scores, weight, reach = listed(w[:, c], X, case.rates, b[c])
            target = y[:, c : c + 1].astype(LONG)
            losses = f.value(scores, target)
            value += (losses * weight).sum(axis=1)
            mu = np.asarray(X, LONG) @ np.asarray(w[:, c], LONG) + LONG(b[c])
            at_mean += f.value(mu[:, None], target)[:, 0]
            sizes = f.size(scores, target)
            # The scores themselves are rounded: a steep loss feels it.
            slack += 64 * ULP * (1 + reach) * ((sizes * weight).sum(axis=1) + f.size(mu[:, None], target)[:, 0])
            if case.return_grad:
                for of, into in ((f.slope, grads), (f.slope_size, scales)):
                    slopes = of(scores, target)
                    kept, mean = kept_mean(slopes, weight, case.rates), (slopes * weight).sum(axis=1)
                    x, own = (X, w[:, c]) if into is grads else (np.abs(X), np.abs(w[:, c]))
                    factor = share[:, None] * (1 + reach)[:, None] / (1 - np.asarray(case.rates, LONG))
                    into.append(
                        {
                            "flat weights": (x * factor).sum(axis=0),
                            "flat intercept": (share * (1 + reach)).sum(),
                            "flat X": own * factor,
                            "weights": (share[:, None] * x * kept).sum(axis=0),
                            "intercept": (share * mean).sum(),
                            "X": share[:, None] * own * kept,
                            "reach": reach.max(),
                        }
                    )
    return Truth(value, at_mean, slack, grads, scales)


def held(case: Case, result: Any) -> list[Fault]:
    """An `ExpectedLoss` of a score against the truth."""
    truth = truth_of(case)
    share = np.ones(len(case.X)) if case.sample_weight is None else case.sample_weight
    share = np.asarray(share, LONG) / np.asarray(share, LONG).sum()
    label = case.loss if case.loss in NAMED else "callable"
    # A cosine series is another thing than a listed mask: kinds are told apart.
    label += f" {type(result.method).__name__}"
    faults = _consistent(case, result, label)

    def sure(digits: int, of: Callable[..., Any] = lambda *row: exactly(*row)[0]) -> Any:
        w, y = case.weights.reshape(len(case.weights), -1), case.y.reshape(len(case.X), -1)
        b = np.broadcast_to(np.asarray(case.intercept, np.float64), (w.shape[1],))
        rows = []
        for i, x in enumerate(case.X.astype(np.float64)):
            exact = case.function.exactly
            with mpmath.workdps(digits):
                rows.append(sum(of(exact, w[:, c], x, case.rates, b[c], y[i, c], digits) for c in range(w.shape[1])))
        return np.array([as_long(row) for row in rows], LONG)

    if not np.isfinite(truth.value).all() or np.isnan(truth.slack).any():
        truth.value, truth.slack = sure(120), np.zeros(len(case.X))
    rows = (result.per_example, result.per_example_error)
    faults += holds(f"{label} per_example", *rows, result.guarantee, truth.value, truth.slack, sure=sure)
    with np.errstate(invalid="ignore"):
        # A row of weight 0 says nothing, whatever its loss.
        mean = np.where(share > 0, share * truth.value, 0).sum()
        slack = np.where(share > 0, share * truth.slack, 0).sum()
        apart = np.where(share > 0, share * (truth.value - truth.at_mean), 0).sum()
    faults += holds(
        f"{label} value", result.value, result.error, result.guarantee, mean, slack,
        sure=lambda digits: np.where(share > 0, share * sure(digits), 0).sum(),
    )  # fmt: skip
    if np.isfinite(np.float64(apart)):
        faults += holds(
            f"{label} penalty", result.penalty, result.penalty_error, result.guarantee, apart, slack,
            sure=lambda digits: np.where(share > 0, share * sure(digits, penalty_exactly), 0).sum(),
        )  # fmt: skip
    if isinstance(result.method, methods.MonteCarlo):
        faults += _sampled(case, result, label, mean)
    if case.return_grad and result.guarantee in ("exact", "bounded"):
        faults += _gradients(case, result, label, truth)
    return faults


def _consistent(case: Case, result: Any, label: str) -> list[Fault]:
    faults = []
    listed = isinstance(result.method, methods.MonteCarlo | methods.Enumeration) or case.loss != "logistic"
    if not listed and result.n_masks != 0:
        faults.append(Fault(f"{label}: masks where none is drawn", f"n_masks {result.n_masks}"))
    value, base, penalty = float(result.value), float(result.weight_scaling_loss), float(result.penalty)
    room = 1e-9 * (abs(value) + abs(base)) + 1e-300
    if np.isfinite([value, base, penalty]).all() and abs(value - base - penalty) > room + _finite(result.error):
        faults.append(Fault(f"{label}: penalty is not value − weight_scaling_loss", f"{value} − {base} ≠ {penalty}"))
    if case.method is not None and type(case.method) is not type(result.method):
        faults.append(Fault(f"{label}: another method than asked", f"{case.method!r}, used {result.method!r}"))
    return faults


def _finite(error: Any) -> float:
    return float(error) if np.isfinite(float(error)) else 0.0


def _sampled(case: Case, result: Any, label: str, mean: Any) -> list[Fault]:
    """K honoured; an error of 0 only for what is right. Whether intervals cover is the statistical room's matter."""
    faults, asked = [], case.n_masks if case.n_masks is not None else case.method.n_masks
    if result.n_masks != asked:
        faults.append(Fault("K is not honoured", f"asked for {asked} masks, drew {result.n_masks}"))
    value, error, truth = float(result.value), float(result.error), float(mean)
    reach = np.abs(case.X.astype(np.float64)) @ np.abs(case.weights).reshape(len(case.weights), -1)
    tiny = 1e-11 * (abs(value) + abs(truth)) + 1e-13 * (1 + float(reach.max()) + float(np.max(np.abs(case.intercept))))
    if asked == 1 and not np.isnan(error) and abs(value - truth) > error + tiny:  # unless no mask matters
        faults.append(Fault("an error from one mask", f"{value} ± {error}, truth {truth}"))
    reliable = getattr(result, "reliable", True)
    if not bool(np.all(reliable)) or np.isnan(error):
        return faults
    if error <= 0 and abs(value - truth) > tiny:
        faults.append(Fault(f"{label}: error 0 and wrong", f"{value} ± 0 after {asked} masks, truth {truth}"))
    return faults


def _gradients(case: Case, result: Any, label: str, truth: Truth) -> list[Fault]:
    """Gradients state no error: they must hold to 1e-9 of the sum of their terms' sizes (Fourier: to its own tol)."""
    tol, absolute = 1e-9, 0.0
    if isinstance(result.method, methods.Fourier):
        # Its integral is exact to `tol` beside 1 + |score|, not beside a slope that may be as small as it likes.
        absolute = max(1e-12, 1e3 * result.method.tol)
    several = case.weights.ndim == 2
    faults, grad = [], result.grad
    for name in ("weights", "intercept", "X"):
        parts = [t[name] for t in truth.grads]
        sizes = [s[name] * (tol + 1e-13 * s["reach"]) + absolute * s[f"flat {name}"] for s in truth.scales]
        if name == "X":
            want, size = sum(parts), sum(sizes)
        elif several and (name == "weights" or np.ndim(case.intercept)):
            want, size = np.stack(parts, -1), np.stack(sizes, -1)
        else:
            want, size = sum(parts), sum(sizes)
        got = grad[name].toarray() if sparse.issparse(grad[name]) else np.asarray(grad[name])
        if got.shape != np.shape(want):
            faults.append(Fault(f"{label} grad {name} shape", f"{got.shape}, expected {np.shape(want)}"))
            continue
        if name == "X" and sparse.issparse(grad[name]):
            want, size = np.where(case.X != 0, want, 0), np.where(case.X != 0, size, 0)
        with np.errstate(invalid="ignore", over="ignore"):
            # Beside the largest of its gradient a partial derivative may be as small as it likes.
            size = size + 1e-15 * np.max(np.abs(want), initial=0)
            fits = (np.abs(want) > MAX) | ~np.isfinite(size) | (size > 1e290)
            wrong = ~(np.abs(got.astype(LONG) - want) <= size + 1e-290) & ~fits
        if wrong.any():
            i = int(np.flatnonzero(wrong.ravel())[0])
            numbers = (np.ravel(v)[i] for v in (got, want, size))
            faults.append(Fault(f"{label} grad {name}", "{} for {}, allowed {}".format(*map(float, numbers))))
    return faults


__all__ = ["Case", "Refused", "Scores", "held"]
