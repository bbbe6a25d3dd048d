"""For other losses and for deep nets the quadratic form is only an approximation."""

from __future__ import annotations

import numpy as np

from allmasks.evidence.claim import Claim, Criterion, Numbers, Picture, Text, Values
from allmasks.evidence.drawing import RATE, band
from allmasks.evidence.linear import binary_problem, logistic_weights
from allmasks.evidence.shared_nets import Lab
from allmasks.methods import Delta, Fourier, MonteCarlo

_RATES = (0.1, 0.3, 0.5, 0.7, 0.9)
_P = 0.5


def own(lab: Lab, dataset: str, seed: int) -> Numbers:
    from allmasks.diagnose.scaled_units import ScaledUnits
    from allmasks.dropped_scores import expected_score_loss
    from allmasks.expect import Request, prepare

    X, y = binary_problem(lab.data(dataset), seed, features=30)
    w = logistic_weights(X, y)
    logistic, deep = [], []
    x_net, y_net = lab.tensors(dataset, seed, "test", 24)
    curvature: list[float] = []
    for p in _RATES:
        exact = expected_score_loss(w, X, y, p, method=Fourier())
        second = expected_score_loss(w, X, y, p, method=Delta())
        logistic.append(float(second.penalty) / float(exact.penalty) - 1)
        problem = prepare(lab.net(dataset, "none", seed, p=p), x_net, y_net, "cross_entropy")
        if not curvature:
            curvature = [float(ScaledUnits(problem, site).curvature().mean(0).sum()) for site in problem.look.sites]
        penalty = float(problem.expected(Request(MonteCarlo(n_masks=256), seed=seed), grad=False).penalty)
        quadratic = 0.5 * p / (1 - p) * sum(curvature)
        deep.append(quadratic / penalty - 1)
    return {"logistic": logistic, "deep": deep}


def measure(lab: Lab, dataset: str) -> Values:
    at = _RATES.index(_P)
    logistic = lab.own("approximation", dataset, "logistic")[:, at]
    deep = lab.own("approximation", dataset, "deep")[:, at]
    return {
        "logistic_inexact": np.abs(logistic).tolist(),
        "deep_inexact": np.abs(deep).tolist(),
        "logistic_useful": logistic.tolist(),
        "deep_useful": deep.tolist(),
    }


def pictures(lab: Lab) -> list[Picture]:
    return [
        Picture(
            Text("How far off the quadratic form is", "2차 근사의 오차"),
            RATE,
            Text("quadratic form / true penalty − 1", "2차 근사 / 실제 페널티 − 1"),
            [
                band(
                    Text(f"{words[0]}, {d}", f"{words[1]}, {d}"), _RATES, lab.own("approximation", d, kind), points=True
                )
                for kind, words in (("logistic", ("logistic", "로지스틱")), ("deep", ("deep net", "심층 신경망")))
                for d in lab.settings.datasets
            ],
        )
    ]


CLAIM = Claim(
    number=3,
    key="approximation",
    title=Text("Elsewhere the closed form is only approximate", "다른 손실과 심층망에서는 근사일 뿐"),
    sentence=Text(
        "For nonlinear nets or other losses no exact closed form holds in general (an approximation, an intuition).",
        "비선형 신경망/비제곱손실에서는 정확한 닫힌형식은 일반적으로 성립하지 않음 (근사·직관 수준)",
    ),
    section=Text(
        "Closed form for linear regression; where ridge is equivalent",
        "3. 선형회귀에서의 닫힌형식, 6. Ridge 등가의 적용 범위",
    ),
    criteria=(
        Criterion(
            "logistic_inexact",
            Text(
                "Logistic regression, p = 0.5: the quadratic penalty is off the exact one by at least 1 %",
                "로지스틱 회귀, p = 0.5: 2차 페널티가 정확한 값과 1 % 이상 다르다",
            ),
            0.01,
        ),
        Criterion(
            "deep_inexact",
            Text(
                "Deep net, p = 0.5: the quadratic penalty is off the true one by at least 1 %",
                "심층 신경망, p = 0.5: 2차 페널티가 실제 값과 1 % 이상 다르다",
            ),
            0.01,
        ),
        Criterion(
            "logistic_useful",
            Text(
                "Logistic regression, p = 0.5: it is still an approximation, off by less than 50 %",
                "로지스틱 회귀, p = 0.5: 그래도 오차 50 % 미만의 근사이다",
            ),
            0.5,
            "agreement",
        ),
        Criterion(
            "deep_useful",
            Text(
                "Deep net, p = 0.5: it is still an approximation, off by less than 50 %",
                "심층 신경망, p = 0.5: 그래도 오차 50 % 미만의 근사이다",
            ),
            0.5,
            "agreement",
        ),
    ),
    measure=measure,
    note=Text(
        "The exact logistic penalty is over all 2³⁰ masks (or as many features as there are). A closed form of another kind "
        "does exist for it: one line integral.",
        "로지스틱의 정확한 값은 2³⁰개(특성 수만큼) 마스크 전체에 대한 것이다. 2차식이 아닌 다른 꼴의 정확한 식, 곧 선적분 "
        "하나로 된 식은 존재한다.",
    ),
    own=own,
    pictures=pictures,
    needs=("none",),
    cost=1.5,
)
