"""Noise smooths: the output is less sensitive to its input."""

from __future__ import annotations

import numpy as np

from allmasks.evidence.claim import Claim, Criterion, Picture, Text, Values
from allmasks.evidence.contrast import CONTRAST, more, swept
from allmasks.evidence.drawing import RATE, band
from allmasks.evidence.shared_nets import Lab


def measure(lab: Lab, dataset: str) -> Values:
    return {
        "gradient": (-more(lab, dataset, "gradient")).tolist(),
        "noisy": more(lab, dataset, "noisy_accuracy").tolist(),
    }


def pictures(lab: Lab) -> list[Picture]:
    rates, arms = swept(lab)
    return [
        Picture(
            Text("Sensitivity of the class probabilities to the inputs", "입력에 대한 클래스 확률의 민감도"),
            RATE,
            Text("log root mean square Jacobian", "log 야코비안 RMS"),
            [
                band(Text(d, d), rates, np.array([lab.probed(d, arm, "gradient") for arm in arms]).T)
                for d in lab.settings.datasets
            ],
        )
    ]


CLAIM = Claim(
    number=14,
    key="smoothing",
    title=Text("Noise smooths: less sensitive to the input", "잡음 주입은 평활화: 덜 예민한 모델"),
    sentence=Text(
        "Regularization makes the model less free and less sensitive; injected noise smooths.",
        "모델을 덜 자유롭게 하고, 덜 예민하게 해서 … “잡음 주입→평활화/정규화”",
    ),
    section=Text("Noise injection; one sentence", "5. “노이즈 주입 정규화”와 연결, 한 문장 정의"),
    criteria=(
        Criterion(
            "gradient",
            Text(
                "The Jacobian of the class probabilities by the inputs shrinks by 10 % or more (log 0.1)",
                "클래스 확률의 입력 야코비안이 10 % 이상 작아진다 (로그 0.1)",
            ),
            0.1,
            comparative=True,
        ),
        Criterion(
            "noisy",
            Text(
                "Accuracy under Gaussian input noise of half a standard deviation rises by half a point or more",
                "표준편차 0.5의 가우스 잡음을 넣은 입력에서 정확도가 0.5 %p 이상 오른다",
            ),
            0.005,
            comparative=True,
        ),
    ),
    measure=measure,
    note=Text(
        "p = 0.5 against none, held-out data, standardized inputs.",
        "p = 0.5와 드롭아웃 없음의 비교, 테스트 데이터, 표준화된 입력.",
    ),
    pictures=pictures,
    probes=(*CONTRAST, "family:dropout"),
)
