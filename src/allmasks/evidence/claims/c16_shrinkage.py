"""Dropout and L2 both shrink the weights."""

from __future__ import annotations

import numpy as np

from allmasks.evidence.claim import Claim, Criterion, Picture, Text, Values
from allmasks.evidence.contrast import swept
from allmasks.evidence.drawing import RATE, band
from allmasks.evidence.shared_nets import Lab


def measure(lab: Lab, dataset: str) -> Values:
    def log_norm(arm: str) -> np.ndarray:
        return np.log(lab.probed(dataset, arm, "norm"))

    return {
        "dropout": (log_norm("none") - log_norm("drop0.5")).tolist(),
        "l2": (log_norm("none") - log_norm(lab.settings.middle("L2"))).tolist(),
    }


def pictures(lab: Lab) -> list[Picture]:
    rates, arms = swept(lab)
    return [
        Picture(
            Text("Norm of all weights", "전체 가중치의 노름"),
            RATE,
            Text("‖w‖", "‖w‖"),
            [
                band(Text(d, d), rates, np.array([lab.probed(d, arm, "norm") for arm in arms]).T)
                for d in lab.settings.datasets
            ],
        )
    ]


CLAIM = Claim(
    number=16,
    key="shrinkage",
    title=Text("Dropout and L2 both limit the size of weights", "드롭아웃도 L2도 가중치 크기를 제한한다"),
    sentence=Text(
        "Both indirectly limit the size of the weights. Dropout = a regularization that limits weight size.",
        "둘 다 가중치 크기를 간접적으로 제한. Dropout = 가중치 크기를 제한하는 정규화",
    ),
    section=Text("What they have in common", "공통점과 차이점"),
    criteria=(
        Criterion(
            "dropout",
            Text(
                "With dropout, p = 0.5, ‖w‖ is smaller by 5 % or more (log 0.05)",
                "드롭아웃(p = 0.5)에서 ‖w‖가 5 % 이상 작다 (로그 0.05)",
            ),
            0.05,
            comparative=True,
        ),
        Criterion(
            "l2",
            Text("With the middle L2 strength ‖w‖ is smaller by 5 % or more", "중간 강도의 L2에서 ‖w‖가 5 % 이상 작다"),
            0.05,
            comparative=True,
        ),
    ),
    measure=measure,
    note=Text(
        "For a linear model the shrinkage is exact (claim 2). In a ReLU net with cross-entropy the masks take margin away, and "
        "larger weights can win it back.",
        "선형 모델에서는 축소가 정확히 성립한다(주장 2). 교차 엔트로피를 쓰는 ReLU 신경망에서는 마스크가 마진을 깎고, 가중치를 키워 "
        "되찾을 수도 있다.",
    ),
    pictures=pictures,
    probes=("none", "family:dropout", "middle:L2"),
)
