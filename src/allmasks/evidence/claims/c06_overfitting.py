"""Less overfitting."""

from __future__ import annotations

from collections.abc import Sequence

from allmasks.evidence.claim import Claim, Criterion, Picture, Text, Values
from allmasks.evidence.drawing import EPOCH, LOSS, NONE, band, dataset_title
from allmasks.evidence.shared_nets import Lab


def measure(lab: Lab, dataset: str) -> Values:
    best = lab.best(dataset, "dropout")

    def less(name: str) -> Sequence[float]:
        return (lab.last(dataset, "none", name) - lab.last(dataset, best, name)).tolist()

    gap = {
        arm: lab.last(dataset, arm, "train_accuracy") - lab.last(dataset, arm, "test_accuracy")
        for arm in ("none", best)
    }
    return {
        "gap": (gap["none"] - gap[best]).tolist(),
        "test": less("test"),
        "accuracy": [-v for v in less("test_accuracy")],
    }


def pictures(lab: Lab) -> list[Picture]:
    found = []
    for dataset in lab.settings.datasets:
        best = lab.best(dataset, "dropout")
        label = Text(f"dropout, p = {best.removeprefix('drop')}", f"드롭아웃, p = {best.removeprefix('drop')}")
        series = []
        for arm, name in (("none", NONE), (best, label)):
            curves = lab.curves(dataset, arm)
            for part, words in (("train", ("training", "학습")), ("test", ("test", "테스트"))):
                series.append(
                    band(Text(f"{name.en}: {words[0]}", f"{name.ko}: {words[1]}"), curves["epochs"], curves[part])
                )
        found.append(
            Picture(dataset_title("Learning curves, eval mode", "학습 곡선 (평가 모드)", dataset), EPOCH, LOSS, series)
        )
    return found


CLAIM = Claim(
    number=6,
    key="overfitting",
    title=Text("Less overfitting, better generalization", "과대적합 억제, 일반화 향상"),
    sentence=Text(
        "It keeps a model from fitting its training data too closely: overfitting is held down, generalization improves.",
        "과대적합 억제 ↑ … 과적합 방지, 일반화 성능 향상",
    ),
    section=Text("Effect of the drop rate; summary of regularization", "드롭율 p의 영향, Dropout이 정규화인 이유"),
    criteria=(
        Criterion(
            "gap",
            Text(
                "Training accuracy less test accuracy shrinks by half a point or more",
                "학습 정확도 − 테스트 정확도가 0.5 %p 이상 줄어든다",
            ),
            0.005,
            comparative=True,
        ),
        Criterion(
            "test",
            Text("Test loss falls by 0.01 nats or more", "테스트 손실이 0.01 nats 이상 줄어든다"),
            0.01,
            comparative=True,
        ),
        Criterion(
            "accuracy",
            Text("Test accuracy rises by half a point or more", "테스트 정확도가 0.5 %p 이상 오른다"),
            0.005,
            comparative=True,
        ),
    ),
    measure=measure,
    note=Text(
        "All arms train for the same number of epochs, without stopping early; p is the rate with the smallest validation "
        "loss. Loss and accuracy can disagree: a net that is more often right can still be more sure of itself when wrong.",
        "모든 조건은 조기 종료 없이 같은 에폭만큼 학습하며, p는 검증 손실이 가장 작은 값이다. 손실과 정확도의 결론은 다를 수 "
        "있다. 더 자주 맞히는 신경망이 틀릴 때 더 크게 확신할 수도 있기 때문이다.",
    ),
    pictures=pictures,
    needs=("none", "family:dropout"),
)
