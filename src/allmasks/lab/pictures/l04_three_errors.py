"""Where the closed form ends: the penalty over p, exactly, between bounds, by sampling."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from allmasks.dropped_scores import expected_score_loss
from allmasks.errors import MethodNotApplicable
from allmasks.lab.controls import STATIC_RATES, rate_control, say
from allmasks.lab.protocol import Answer, Chapter, Control, Question, words
from allmasks.language import Text
from allmasks.methods import ClosedForm, Delta, Fourier, Method, MonteCarlo, SoftmaxBounds
from allmasks.report.figures import layout, line
from allmasks.results import ExpectedLoss

Array = NDArray[np.float64]
MODELS = {
    "squared": Text("linear model, squared error: a formula", "선형 모델, 제곱오차: 공식"),
    "logistic": Text("logistic regression: exact", "로지스틱 회귀: 정확"),
    "softmax": Text("softmax of 3 classes: bounds", "클래스 3개의 소프트맥스: 상·하한"),
    "hidden": Text("two hidden layers: sampling", "은닉층 둘: 표집"),
}
METHODS: dict[str, Method] = {"squared": ClosedForm(), "logistic": Fourier(), "softmax": SoftmaxBounds(tol=100.0)}
TOLERANCES = (0.02, 0.3)
"""Widths that are asked of the bounds first; where they cannot be had, as wide as they are."""
LOSS = {"squared": "squared_error", "logistic": "logistic", "softmax": "cross_entropy", "hidden": "logistic"}
MASKS = (8, 16, 32, 64, 128, 256, 512)
CURVE = 128
"""Masks a point of the curve that is drawn behind the sampled one."""


class Fitted(NamedTuple):
    """Weights, intercept, rows and targets of a linear model that was fitted without dropout."""

    weights: Array
    intercept: Any
    X: Array
    y: Array


@cache
def fitted(model: str) -> Fitted:
    """Standardized rows of scikit-learn's breast cancer data (softmax: wine) and weights fitted to them."""
    from sklearn.datasets import load_breast_cancer, load_wine
    from sklearn.linear_model import LogisticRegression

    X, y = load_wine(return_X_y=True) if model == "softmax" else load_breast_cancer(return_X_y=True)
    X = ((X - X.mean(axis=0)) / X.std(axis=0))[:: 3 if model == "softmax" else 10]
    y = y[:: 3 if model == "softmax" else 10]
    if model == "squared":
        target = 2.0 * y - 1
        w = np.linalg.solve(X.T @ X + 5 * np.eye(X.shape[1]), X.T @ (target - target.mean()))
        return Fitted(w, float(target.mean()), X, target)
    found = LogisticRegression(C=0.05).fit(X, y)
    if model == "softmax":
        return Fitted(found.coef_, found.intercept_, X, y)
    return Fitted(found.coef_[0], float(found.intercept_[0]), X, y.astype(float))


@cache
def hidden_net() -> tuple[Any, Any, Any, Any]:
    """Two hidden layers of 8 ReLU units, the rates zero, with 40 points and a loss that names the targets."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        x = torch.randn(40, 2, dtype=torch.float64)
        y = (x[:, :1] * x[:, 1:] > 0).double()
        net = nn.Sequential(
            nn.Linear(2, 8), nn.ReLU(), nn.Dropout(0.0), nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.0), nn.Linear(8, 1)
        ).double()
        optimizer = torch.optim.Adam(net.parameters(), lr=0.02, weight_decay=0.02)
        for _ in range(150):
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(net(x), y).backward()
            optimizer.step()
    return net.requires_grad_(False).eval(), x, y, LOSS["hidden"]


def expected(model: str, p: float, n_masks: int) -> ExpectedLoss:
    """E_m[L] of a model at this rate, by the method that can do most for it."""
    if model != "hidden":
        w, b, X, y = fitted(model)
        return expected_score_loss(w, X, y, p, loss=LOSS[model], intercept=b, method=method_for(model, p))
    import copy

    from allmasks.expect import expected_loss

    net, x, y, loss = hidden_net()
    net = copy.deepcopy(net)
    net[2].p = net[5].p = p
    return expected_loss(net, x, y, loss, n_masks=n_masks, method=MonteCarlo())


@cache
def method_for(model: str, p: float) -> Method:
    """The method of a linear model; of the softmax the narrowest bounds that can be had."""
    if model == "softmax":
        w, b, X, y = fitted(model)
        for tol in TOLERANCES:
            with suppress(MethodNotApplicable):
                expected_score_loss(w, X, y, p, loss=LOSS[model], intercept=b, method=SoftmaxBounds(tol=tol))
                return SoftmaxBounds(tol=tol)
    return METHODS[model]


@cache
def curve(model: str) -> list[tuple[float, float, float]]:
    """(p, penalty, error) where static pages have answers."""
    found = [(p, expected(model, p, CURVE)) for p in STATIC_RATES if p > 0]
    return [(0.0, 0.0, 0.0), *((p, float(f.penalty), float(f.penalty_error)) for p, f in found)]


@cache
def quadratic(model: str) -> list[float]:
    """The penalty by the quadratic formula at those rates: what the closed form says where it does not hold."""
    w, b, X, y = fitted(model)
    return [
        float(expected_score_loss(w, X, y, p, loss=LOSS[model], intercept=b, method=Delta()).penalty)
        for p in STATIC_RATES
    ]


def work(p: float, model: str, n_masks: int) -> Answer:
    found = expected(model, p, n_masks)
    value, error, at_mean = float(found.value), float(found.error), float(found.weight_scaling_loss)
    penalty, penalty_error = float(found.penalty), float(found.penalty_error)
    rates, middles, halves = (np.array(v) for v in zip(*curve(model), strict=True))
    edge = np.concatenate([middles + halves, (middles - halves)[::-1]])
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": np.concatenate([rates, rates[::-1]]),
            "y": edge,
            "fill": "toself",
            "fillcolor": "@band",
            "line": {"width": 0, "color": "@accent"},
            "name": Text("± its error", "± 오차"),
            "hoverinfo": "skip",
        },
        line(rates.tolist(), middles.tolist(), "@accent", name=Text("penalty E_m[L] − L", "페널티 E_m[L] − L")),
    ]
    if model in ("squared", "logistic"):
        name = Text("quadratic formula", "2차 공식")
        data.append(line(list(STATIC_RATES), quadratic(model), "@second", dash="dash", name=name))
    data.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": Text("here", "현재 위치"),
            "x": [p],
            "y": [penalty],
            "marker": {"color": "@ink", "symbol": "diamond", "size": 11},
            "error_y": {"type": "data", "array": [penalty_error], "color": "@ink", "thickness": 2, "width": 7},
        }
    )
    figure = {
        "data": data,
        "layout": layout(
            height=420,
            legend=True,
            xaxis={"title": {"text": Text("drop rate p", "드롭율 p")}, "range": [0, 0.97]},
            yaxis={"title": {"text": Text("penalty, as large as the loss grows", "페널티 (손실이 늘어난 양)")}},
        ),
    }
    numbers = [
        words("expected", "E_m[L]", "E_m[L]", value, error, found.guarantee),
        words("at_mean", "loss at the mean mask", "평균 마스크에서의 손실", at_mean),
        words("penalty", "penalty", "페널티", penalty, penalty_error, found.guarantee),
    ]
    if model in ("squared", "logistic"):
        w, b, X, y = fitted(model)
        formula = expected_score_loss(w, X, y, p, loss=LOSS[model], intercept=b, method=Delta())
        numbers.append(
            words("quadratic", "penalty by the quadratic formula", "2차 공식의 페널티", formula.penalty, float("nan"))
        )
    return Answer(figure, tuple(numbers), _sentence(p, model, n_masks, value, error, penalty))


def _sentence(p: float, model: str, n_masks: int, value: float, error: float, penalty: float) -> Text:
    kind = {
        "squared": Text("by the closed form, with round-off only", "닫힌형식으로, 반올림 오차만 있습니다"),
        "logistic": Text(
            "exactly, though there are 2^30 masks and no formula: by Fourier's integral",
            "정확합니다. 마스크가 2^30개이고 공식도 없지만 푸리에 적분으로 계산합니다",
        ),
        "softmax": Text("between two proven bounds", "증명된 상한과 하한 사이입니다"),
        "hidden": Text(f"estimated from {n_masks} sampled masks", f"표집한 마스크 {n_masks}개로 추정한 값입니다"),
    }[model]
    return Text(
        f"{MODELS[model].en[0].upper()}{MODELS[model].en[1:]}. At p = {say(p)}, E_m[L] = {say(value)} ± {error:.2g}, {kind.en}. "
        f"The penalty that dropout adds is {say(penalty)}.",
        f"{MODELS[model].ko}. p = {say(p)}에서 E_m[L] = {say(value)} ± {error:.2g}이며, {kind.ko}. "
        f"드롭아웃이 더하는 페널티는 {say(penalty)}입니다.",
    )


def code(p: float, model: str, n_masks: int) -> str:
    if model == "hidden":
        return f"""\
import copy
import allmasks as am
from allmasks.lab.pictures.l04_three_errors import hidden_net

net, x, y, loss = hidden_net()  # two hidden layers of 8 units, trained on 40 points
net = copy.deepcopy(net)
net[2].p = net[5].p = {p}
found = am.expected_loss(net, x, y, loss, n_masks={n_masks}, method=am.methods.MonteCarlo())
print("E_m[L]", float(found.value), "+-", float(found.error), found.guarantee, "penalty", float(found.penalty))
"""
    return f"""\
import allmasks as am
from allmasks.lab.pictures.l04_three_errors import fitted

w, b, X, y = fitted("{model}")  # scikit-learn's data, standardized, and weights fitted without dropout
method = am.methods.{method_for(model, p)!r}
found = am.expected_score_loss(w, X, y, {p}, loss="{LOSS[model]}", intercept=b, method=method)
print("E_m[L]", found.value, "+-", found.error, found.guarantee, "penalty", found.penalty)
"""


CHAPTER = Chapter(
    number=4,
    key="three-errors",
    title=Text("Where the closed form ends", "닫힌형식이 끝나는 곳"),
    asks=Text(
        "How is the mean over all masks known where there is no formula for it?",
        "공식이 없는 곳에서는 모든 마스크에 대한 평균을 어떻게 알 수 있습니까?",
    ),
    says=Text(
        "For other losses and for deep nets no closed form holds exactly in general. The quadratic formula is then only "
        "an approximation; what is known instead has an error, and it matters which kind.",
        "비선형 신경망이나 비제곱손실에서는 정확한 닫힌형식이 일반적으로 성립하지 않습니다. 그때 2차 공식은 근사일 뿐이며, "
        "대신 알 수 있는 값에는 오차가 따릅니다. 그 오차가 어떤 종류인지가 중요합니다.",
    ),
    section=Text(
        "3. Linear regression, the warning; 6. Where ridge holds", "3. 선형회귀의 주의, 6. Ridge 등가의 적용 범위"
    ),
    controls=(
        rate_control(),
        Control("model", Text("model and loss", "모델과 손실"), tuple(MODELS), "logistic", kind="choice", names=MODELS),
        Control("n_masks", Text("masks K (sampling only)", "마스크 수 K (표집할 때만)"), MASKS, 64, grid=(8, 64, 512)),
    ),
    work=work,
    to_try=Text(
        "At p = 0.9 go through the four models and look at the bar on the diamond: the linear model and logistic regression "
        "show none, softmax a wide one, sampling one that shrinks as K grows. For logistic regression see where the dashed line leaves the truth.",
        "p = 0.9에서 모델 네 가지를 차례로 골라 마름모의 오차 막대를 보십시오. 선형 모델과 로지스틱 회귀에서는 "
        "보이지 않고, 소프트맥스에서는 넓으며, 표집에서는 K를 늘리면 줄어듭니다. 로지스틱 회귀에서는 파선이 어디서 참값을 벗어나는지 보십시오.",
    ),
    question=Question(
        Text(
            "Logistic regression at p = 0.9: what is the penalty, to two decimals?",
            "p = 0.9인 로지스틱 회귀의 페널티는 얼마입니까? (소수 둘째 자리까지)",
        ),
        lambda: float(expected("logistic", 0.9, 8).penalty),
        0.006,
        Text(
            "Choose logistic regression, set p = 0.9, read the penalty.",
            "로지스틱 회귀를 고르고 p = 0.9로 놓은 뒤 페널티를 읽으십시오.",
        ),
    ),
    code=code,
    terms=Text(
        "Chapter 3 had a formula for E_m[L], the mean loss over all masks; most models have none. What "
        "dropout adds to the loss, E_m[L] minus the loss of the whole network, is the penalty. Its "
        "value may be exact, lie between two proven bounds, or be estimated from K random masks "
        "(sampling); the number after ± says how far off it may be, and the last column of the table of "
        "which kind that is. The quadratic formula is chapter 3's, used where it need not hold.",
        "3장에는 모든 마스크에 대한 평균 손실 E_m[L]을 구하는 공식이 있었지만 대부분의 모델에는 없습니다. 드롭아웃이 손실에 더하는 몫, 곧 E_m[L]에서 전체 신경망의 "
        "손실을 뺀 것이 페널티입니다. 페널티는 정확히 알 수도 있고, 증명된 상한과 하한 사이로만 알 수도 있고, 무작위 마스크 K개로 추정(표집)할 수도 있습니다. ± 뒤의 "
        "수는 얼마나 빗나갈 수 있는지를, 표의 마지막 열은 그 오차의 종류를 나타냅니다. 2차 공식은 3장의 공식을 성립이 보장되지 않는 곳에 쓴 것입니다.",
    ),
)
