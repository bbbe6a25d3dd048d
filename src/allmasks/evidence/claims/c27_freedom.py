"""Regularization takes away degrees of freedom."""

from __future__ import annotations

import numpy as np

from allmasks.diagnose.rate import linear_rate_curve
from allmasks.evidence.claim import Claim, Criterion, Numbers, Picture, Text, Values
from allmasks.evidence.drawing import RATE, band
from allmasks.evidence.linear import linear_problem
from allmasks.evidence.shared_nets import Lab

_RATES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def own(lab: Lab, dataset: str, seed: int) -> Numbers:
    X, y = linear_problem(lab.data(dataset), seed, features=30, n=80)
    rates = np.zeros(len(_RATES)) if lab.settings.null else np.array(_RATES)
    curves = [linear_rate_curve(X, y, p=[p]) for p in rates]
    return {
        "freedom": [float(c.degrees_of_freedom[0] - 1) / X.shape[1] for c in curves],
        "error": [float(c.error[0]) for c in curves],
    }


def measure(lab: Lab, dataset: str) -> Values:
    freedom, error = (lab.own("freedom", dataset, name) for name in ("freedom", "error"))
    at = _RATES.index(0.5)
    return {
        "freedom": (freedom[:, 0] - freedom[:, at]).tolist(),
        "better": (1 - error.min(axis=1) / error[:, 0]).tolist(),
    }


def pictures(lab: Lab) -> list[Picture]:
    return [
        Picture(
            title,
            RATE,
            axis,
            [band(Text(d, d), _RATES, lab.own("freedom", d, name)) for d in lab.settings.linear_datasets],
        )
        for name, title, axis in (
            (
                "freedom",
                Text("Degrees of freedom of dropout ridge", "드롭아웃 릿지의 자유도"),
                Text("share of the features", "특성 수 대비"),
            ),
            (
                "error",
                Text("Leave-one-out error, closed form", "LOO 오차 (닫힌형식)"),
                Text("mean squared error", "평균제곱오차"),
            ),
        )
    ]


CLAIM = Claim(
    number=27,
    key="freedom",
    title=Text("Regularization = limited complexity + less overfitting", "정규화 = 모델 복잡도 제한 + 과적합 방지"),
    sentence=Text(
        "Regularization is a device that takes degrees of freedom away: limited model complexity, less overfitting.",
        "자유도를 줄이거나, 파라미터나 출력이 흔들리지 않게 만드는 장치. Regularization = 모델 복잡도 제한 + 과적합 방지",
    ),
    section=Text("What regularization means; key points", "정규화의 일반적 의미, 핵심 정리"),
    criteria=(
        Criterion(
            "freedom",
            Text(
                "Linear model: p = 0.5 takes 10 % or more of the degrees of freedom",
                "선형 모델: p = 0.5가 자유도를 10 % 이상 줄인다",
            ),
            0.1,
            comparative=True,
        ),
        Criterion(
            "better",
            Text(
                "At the best p the leave-one-out error is 2 % or more below that without dropout",
                "최적의 p에서 LOO 오차가 드롭아웃 없을 때보다 2 % 이상 작다",
            ),
            0.02,
            comparative=True,
        ),
    ),
    measure=measure,
    note=Text(
        "80 rows, up to 30 features; exact, without a net. The smallest of eleven errors is never above the first: the minimum "
        "effect guards against reading noise into that.",
        "80행, 특성 30개 이하. 신경망 없이 정확히 계산. 11개 오차의 최솟값은 첫 값보다 클 수 없으므로, 최소 효과 크기로 우연을 "
        "걸러 낸다.",
    ),
    own=own,
    pictures=pictures,
    linear=True,
    cost=0.05,
)
