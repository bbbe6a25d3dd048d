"""The penalty is proportional to activation variance."""

from __future__ import annotations

import numpy as np

from allmasks.evidence.claim import Claim, Criterion, Picture, Text, Values
from allmasks.evidence.drawing import RATE, band
from allmasks.evidence.shared_nets import Lab


def measure(lab: Lab, dataset: str) -> Values:
    return {
        "rank": lab.probed(dataset, "drop0.5", "penalty_rank").tolist(),
        "proportional": (lab.probed(dataset, "drop0.5", "penalty_r2") - 0.5).tolist(),
    }


def pictures(lab: Lab) -> list[Picture]:
    rates = lab.settings.rates
    return [
        Picture(
            Text("How much of the unit penalties h² explains", "유닛 페널티를 h²이 설명하는 정도"),
            RATE,
            Text("R² of penalty = c · p/(1−p) E[h²]", "페널티 = c · p/(1−p)·E[h²]의 R²"),
            [
                band(Text(d, d), rates, np.array([lab.probed(d, f"drop{p:g}", "penalty_r2") for p in rates]).T)
                for d in lab.settings.datasets
            ],
        )
    ]


CLAIM = Claim(
    number=22,
    key="variance_penalty",
    title=Text(
        "The penalty is proportional to activation variance, p/(1−p) h²", "페널티는 출력 분산 p/(1−p)·h²에 비례한다"
    ),
    sentence=Text(
        "The penalty is proportional to the variance of the neuron's output: p/(1−p) h², the square of its activation.",
        "패널티는 뉴런 출력의 분산에 비례. 추가되는 정규화 항은 p/(1−p)·h² 형태로, 뉴런 활성값의 제곱에 비례합니다.",
    ),
    section=Text("Mathematical reason; variance penalty", "3. 수학적 이유: 패널티 항의 특성, Variance Penalty"),
    criteria=(
        Criterion(
            "rank",
            Text(
                "Across a layer's units, penalty and p/(1−p) E[h²] have a rank correlation of 0.5 or more",
                "한 층의 유닛들에서 페널티와 p/(1−p)·E[h²]의 순위 상관이 0.5 이상",
            ),
            0.5,
        ),
        Criterion(
            "proportional",
            Text(
                "One constant for all units explains the penalties: R² of penalty = c p/(1−p) E[h²] is 0.9 or more "
                "(counted from 0.5)",
                "모든 유닛에 하나의 상수로 설명된다: 페널티 = c·p/(1−p)·E[h²]의 R²이 0.9 이상 (0.5를 기준으로 계산)",
            ),
            0.4,
        ),
    ),
    measure=measure,
    note=Text(
        "The penalty of a unit is the loss that its mask alone adds on the training rows. Beside h² it holds the curvature of "
        "the loss and the outgoing weights, which differ between units.",
        "유닛의 페널티는 학습 데이터에서 그 유닛의 마스크만으로 늘어나는 손실이다. 여기에는 h² 말고도 손실의 곡률과 출력 가중치가 "
        "들어 있고, 이들은 유닛마다 다르다.",
    ),
    pictures=pictures,
    probes=("family:dropout",),
)
