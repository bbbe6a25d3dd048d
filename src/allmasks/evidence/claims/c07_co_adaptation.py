"""Less co-adaptation."""

from __future__ import annotations

import numpy as np

from allmasks.evidence.claim import Claim, Criterion, Picture, Text, Values
from allmasks.evidence.contrast import CONTRAST, more, swept
from allmasks.evidence.drawing import RATE, band
from allmasks.evidence.shared_nets import Lab


def measure(lab: Lab, dataset: str) -> Values:
    return {
        "interaction": (-more(lab, dataset, "co_adaptation")).tolist(),
        "correlation": (-more(lab, dataset, "correlation")).tolist(),
    }


def pictures(lab: Lab) -> list[Picture]:
    rates, arms = swept(lab)
    return [
        Picture(
            Text("Interaction of pairs of ablations", "두 유닛 제거의 상호작용"),
            RATE,
            Text("mean |interaction| / mean |ablation|", "평균 |상호작용| / 평균 |제거 효과|"),
            [
                band(Text(d, d), rates, np.array([lab.probed(d, arm, "co_adaptation") for arm in arms]).T)
                for d in lab.settings.datasets
            ],
        )
    ]


CLAIM = Claim(
    number=7,
    key="co_adaptation",
    title=Text("Co-adaptation is broken", "Co-adaptation(공모) 방지"),
    sentence=Text(
        "Without dropout units lean on one another (co-adaptation); with it each plays a part of its own.",
        "Dropout 없음: Co-adaptation(공모) → 과적합. Dropout 있음: 각자 독립적인 역할 분담",
    ),
    section=Text("Preventing overfitting; co-adaptation", "1. Overfitting 방지 (정성적 설명), Co-adaptation이란?"),
    criteria=(
        Criterion(
            "interaction",
            Text(
                "Mean |interaction| of two ablations, as a share of the mean ablation, falls by 0.01 or more",
                "두 유닛 제거의 평균 |상호작용| (평균 제거 효과 대비)이 0.01 이상 줄어든다",
            ),
            0.01,
            comparative=True,
        ),
        Criterion(
            "correlation",
            Text(
                "Mean |correlation| of hidden units falls by 0.02 or more",
                "은닉 유닛 사이의 평균 |상관계수|가 0.02 이상 줄어든다",
            ),
            0.02,
            comparative=True,
        ),
    ),
    measure=measure,
    note=Text(
        "Interaction: the loss of removing two units less that of removing each alone. p = 0.5 against none, held-out data.",
        "상호작용: 두 유닛을 함께 제거한 손실에서 각각 제거한 손실을 뺀 값. p = 0.5와 드롭아웃 없음의 비교, 테스트 데이터.",
    ),
    pictures=pictures,
    probes=(*CONTRAST, "family:dropout"),
)
