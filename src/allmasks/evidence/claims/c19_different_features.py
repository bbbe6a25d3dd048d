"""Different units learn different features."""

from __future__ import annotations

import numpy as np

from allmasks.evidence.claim import Claim, Criterion, Picture, Text, Values
from allmasks.evidence.contrast import CONTRAST, more, swept
from allmasks.evidence.drawing import RATE, band
from allmasks.evidence.shared_nets import Lab


def measure(lab: Lab, dataset: str) -> Values:
    return {
        "cosine": (-more(lab, dataset, "cosine")).tolist(),
        "effective_rank": more(lab, dataset, "effective_rank").tolist(),
    }


def pictures(lab: Lab) -> list[Picture]:
    rates, arms = swept(lab)
    return [
        Picture(
            Text("Effective rank of the activations, as a share of the units", "활성값의 유효 랭크 (유닛 수 대비)"),
            RATE,
            Text("effective rank / units", "유효 랭크 / 유닛 수"),
            [
                band(Text(d, d), rates, np.array([lab.probed(d, arm, "effective_rank") for arm in arms]).T)
                for d in lab.settings.datasets
            ],
        )
    ]


CLAIM = Claim(
    number=19,
    key="different_features",
    title=Text("Different units learn different features", "유닛마다 서로 다른 feature를 학습"),
    sentence=Text(
        "Without dropout units tend to learn similar features; with it, different ones: each neuron has a feature of its own.",
        "Dropout 없음: 비슷한 기능(feature)을 배우는 경향. Dropout 있음: 서로 다른 feature 학습 … 각 뉴런이 고유한 feature 담당",
    ),
    section=Text("Without and with dropout; effects on the network", "Dropout 없음 vs 있음 비교, 네트워크에서의 효과"),
    criteria=(
        Criterion(
            "cosine",
            Text(
                "Mean |cosine| between units' incoming weights falls by 0.01 or more",
                "유닛들의 입력 가중치 사이 평균 |코사인|이 0.01 이상 준다",
            ),
            0.01,
            comparative=True,
        ),
        Criterion(
            "effective_rank",
            Text(
                "Effective rank of the activations, as a share of the units, rises by 2 points or more",
                "활성값의 유효 랭크(유닛 수 대비)가 2 %p 이상 오른다",
            ),
            0.02,
            comparative=True,
        ),
    ),
    measure=measure,
    note=Text("p = 0.5 against none; rank on held-out data.", "p = 0.5와 드롭아웃 없음의 비교, 랭크는 테스트 데이터."),
    pictures=pictures,
    probes=(*CONTRAST, "family:dropout"),
)
