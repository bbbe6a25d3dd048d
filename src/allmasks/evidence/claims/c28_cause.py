"""Co-adaptation is what overfitting comes from."""

from __future__ import annotations

import numpy as np

from allmasks.evidence.claim import Claim, Criterion, Picture, Series, Text, Values
from allmasks.evidence.contrast import swept
from allmasks.evidence.examine import correlation
from allmasks.evidence.shared_nets import Lab


def _over_arms(lab: Lab, dataset: str) -> tuple[np.ndarray, np.ndarray]:
    """(arms, seeds) co-adaptation, and training less test accuracy."""
    _, arms = swept(lab)
    together = np.array([lab.probed(dataset, arm, "co_adaptation") for arm in arms])
    gap = np.array([lab.last(dataset, a, "train_accuracy") - lab.last(dataset, a, "test_accuracy") for a in arms])
    return together, gap


def measure(lab: Lab, dataset: str) -> Values:
    together, gap = _over_arms(lab, dataset)
    return {"together": [correlation(a, b) for a, b in zip(together.T, gap.T, strict=True)]}


def pictures(lab: Lab) -> list[Picture]:
    series = []
    for d in lab.settings.datasets:
        together, gap = _over_arms(lab, d)
        series.append(Series(Text(d, d), together.ravel().tolist(), gap.ravel().tolist(), points=True))
    return [
        Picture(
            Text("Co-adaptation against overfitting, one point a net", "Co-adaptation과 과적합, 점 하나가 신경망 하나"),
            Text("mean |interaction| / mean |ablation|", "평균 |상호작용| / 평균 |제거 효과|"),
            Text("training accuracy less test accuracy", "학습 정확도 − 테스트 정확도"),
            series,
        )
    ]


CLAIM = Claim(
    number=28,
    key="cause",
    title=Text("Co-adaptation is the cause of overfitting", "Co-adaptation은 과적합의 원인"),
    sentence=Text(
        "Neurons depending on each other make complex interactions special to the training data, the cause of overfitting.",
        "훈련 데이터에만 특화된 복잡한 상호작용을 만들어 과적합의 원인이 됨.",
    ),
    section=Text("What is co-adaptation?", "Co-adaptation이란?"),
    criteria=(
        Criterion(
            "together",
            Text(
                "Over all drop rates, nets with more co-adaptation overfit more: rank correlation 0.3 or more",
                "모든 드롭율에 걸쳐 co-adaptation이 큰 신경망이 더 과적합한다: 순위 상관 0.3 이상",
            ),
            0.3,
            comparative=True,
        ),
    ),
    measure=measure,
    note=Text(
        "A correlation over the rates of one seed; p moves both, so it cannot show a cause, only fail to show one.",
        "한 시드의 여러 드롭율에 대한 상관이다. p가 둘 다 움직이므로 원인임을 증명할 수는 없고, 반증만 할 수 있다.",
    ),
    pictures=pictures,
    probes=("none", "family:dropout"),
)
