"""It cannot depend on one particular unit."""

from __future__ import annotations

import numpy as np

from allmasks.evidence.claim import Claim, Criterion, Picture, Text, Values
from allmasks.evidence.contrast import CONTRAST, more, swept
from allmasks.evidence.drawing import RATE, band
from allmasks.evidence.shared_nets import Lab


def measure(lab: Lab, dataset: str) -> Values:
    return {"worst": (-more(lab, dataset, "worst_unit")).tolist()}


def pictures(lab: Lab) -> list[Picture]:
    rates, arms = swept(lab)
    return [
        Picture(
            Text("Damage done by losing the one unit that matters most", "가장 중요한 유닛 하나를 잃을 때의 손해"),
            RATE,
            Text("its ablation / total importance", "그 유닛의 제거 효과 / 전체 중요도"),
            [
                band(Text(d, d), rates, np.array([lab.probed(d, arm, "worst_unit") for arm in arms]).T)
                for d in lab.settings.datasets
            ],
        )
    ]


CLAIM = Claim(
    number=26,
    key="single_unit",
    title=Text("It cannot depend on one particular unit", "특정 뉴런/경로에 의존하지 못하게 한다"),
    sentence=Text(
        "Without dropout the team depends on particular players, since all always play; with it, it cannot depend on one neuron.",
        "Dropout 없음: 모든 선수가 항상 뛰므로 특정 선수에만 의존. Dropout: 특정 뉴런/경로에 의존 못하게 함",
    ),
    section=Text("The coach; analysis of effects", "5. 실제 의미: 비유, 효과 분석"),
    criteria=(
        Criterion(
            "worst",
            Text(
                "The loss from removing the most important unit, as a share of all importance, falls by 0.005 or more",
                "가장 중요한 유닛 하나를 제거할 때의 손실(전체 중요도 대비)이 0.005 이상 준다",
            ),
            0.005,
            comparative=True,
        ),
    ),
    measure=measure,
    note=Text("p = 0.5 against none, held-out data.", "p = 0.5와 드롭아웃 없음의 비교, 테스트 데이터."),
    pictures=pictures,
    probes=(*CONTRAST, "family:dropout"),
)
