"""Dropout against L2: stronger, dearer, data-dependent, combinable."""

from __future__ import annotations

import numpy as np

from allmasks.evidence.claim import Claim, Criterion, Picture, Text, Values
from allmasks.evidence.drawing import band, dataset_title
from allmasks.evidence.shared_nets import Lab


def _epochs_to_best(lab: Lab, dataset: str, arm: str) -> np.ndarray:
    """(seeds,) log of the epoch of the smallest validation loss."""
    curves = lab.curves(dataset, arm)
    return np.log(np.maximum(curves["epochs"][curves["validation"].argmin(axis=1)], 1))


def measure(lab: Lab, dataset: str) -> Values:
    dropout, l2, both = (lab.best(dataset, family) for family in ("dropout", "L2", "both"))
    single = min((dropout, l2), key=lambda arm: float(lab.last(dataset, arm, "validation").mean()))
    return {
        "stronger": (lab.last(dataset, l2, "test") - lab.last(dataset, dropout, "test")).tolist(),
        "stronger_accuracy": (
            lab.last(dataset, dropout, "test_accuracy") - lab.last(dataset, l2, "test_accuracy")
        ).tolist(),
        "dearer": (_epochs_to_best(lab, dataset, dropout) - _epochs_to_best(lab, dataset, l2)).tolist(),
        "data_dependent": lab.probed(dataset, "drop0.5", "lambda_spread").tolist(),
        "combinable": (lab.last(dataset, single, "test") - lab.last(dataset, both, "test")).tolist(),
    }


def pictures(lab: Lab) -> list[Picture]:
    dataset = lab.settings.datasets[0]
    lam = lab.probed(dataset, "drop0.5", "lambda")
    relative = lam / np.maximum(lam.mean(axis=1, keepdims=True), 1e-300)
    units = np.linspace(0, 1, relative.shape[1])
    found = [
        Picture(
            dataset_title("Effective L2 strength on each unit's weights", "유닛별 유효 L2 강도", dataset),
            Text("units, strongest first (fraction)", "유닛 (강한 순, 비율)"),
            Text("λⱼ / mean λ", "λⱼ / 평균 λ"),
            [
                band(Text("dropout, p = 0.5", "드롭아웃, p = 0.5"), units, relative),
                band(Text("L2: one λ for all", "L2: 모두 같은 λ"), [0, 1], [[1, 1]]),
            ],
        )
    ]
    words = (
        ("none", ("none", "없음")),
        ("L2", ("L2", "L2")),
        ("L1", ("L1", "L1")),
        ("dropout", ("dropout", "드롭아웃")),
        ("both", ("dropout + L2", "드롭아웃 + L2")),
    )
    for d in lab.settings.datasets:
        arms = ["none" if family == "none" else lab.best(d, family) for family, _ in words]
        losses = np.column_stack([lab.last(d, arm, "test") for arm in arms])
        found.append(
            Picture(
                dataset_title("Test loss, each at its best strength", "각자 최적 강도에서의 테스트 손실", d),
                Text("regularizer", "정규화 방법"),
                Text("test loss (nats)", "테스트 손실 (nats)"),
                [band(Text("mean over seeds", "시드 평균"), np.arange(len(words)), losses)],
                categories=[Text(*name) for _, name in words],
            )
        )
    return found


CLAIM = Claim(
    number=12,
    key="against_l2",
    title=Text(
        "Against L2: stronger, dearer, data-dependent, combinable",
        "L2와 비교: 더 강하고, 비싸고, 데이터 의존적이고, 함께 쓸 수 있다",
    ),
    sentence=Text(
        "In general dropout regularizes more strongly; its cost is comparatively high; L2 treats all weights alike, dropout "
        "depends on the data; both can be used together.",
        "일반적으로 Dropout이 더 강력한 정규화 효과. 계산 비용: 상대적으로 높음. L2는 모든 가중치에 균등, Dropout은 데이터 "
        "의존적. 두 기법을 함께 사용하는 것도 가능",
    ),
    section=Text("L2 against dropout", "5. L2 정규화 vs Dropout 비교"),
    criteria=(
        Criterion(
            "stronger",
            Text(
                "Test loss of the best dropout is below that of the best L2 by 0.01 nats or more",
                "최적 드롭아웃의 테스트 손실이 최적 L2보다 0.01 nats 이상 낮다",
            ),
            0.01,
            comparative=True,
        ),
        Criterion(
            "stronger_accuracy",
            Text(
                "Test accuracy of the best dropout is above that of the best L2 by half a point or more",
                "최적 드롭아웃의 테스트 정확도가 최적 L2보다 0.5 %p 이상 높다",
            ),
            0.005,
            comparative=True,
        ),
        Criterion(
            "dearer",
            Text(
                "Dropout needs 10 % more epochs (log 0.1) than L2 to its smallest validation loss",
                "검증 손실의 최솟값에 이르기까지 드롭아웃이 L2보다 10 % 이상 많은 에폭이 든다 (로그 0.1)",
            ),
            0.1,
            comparative=True,
        ),
        Criterion(
            "data_dependent",
            Text(
                "Dropout's effective λⱼ differs between units: coefficient of variation 0.2 or more (L2's is 0)",
                "드롭아웃의 유효 λⱼ가 유닛마다 다르다: 변동계수 0.2 이상 (L2는 0)",
            ),
            0.2,
            comparative=True,
        ),
        Criterion(
            "combinable",
            Text(
                "Dropout + L2 is better than the better of the two by 0.005 nats or more",
                "드롭아웃 + L2가 둘 중 나은 것보다 0.005 nats 이상 좋다",
            ),
            0.005,
            comparative=True,
        ),
    ),
    measure=measure,
    note=Text(
        "Strengths are chosen by validation loss at the end of training, verdicts are on test data. Wall-clock time is "
        "recorded in the JSON file but decides nothing: it is not the same twice.",
        "강도는 학습 종료 시점의 검증 손실로 고르고 판정은 테스트 데이터로 한다. 실제 시간은 JSON에 기록하지만 잴 때마다 달라지므로 "
        "판정에 쓰지 않는다.",
    ),
    pictures=pictures,
    needs=("none", "family:dropout", "family:L2", "family:L1", "family:both"),
    probes=("drop0.5",),
)
