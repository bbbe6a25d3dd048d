"""Higher p: stronger regularization, slower convergence, less capacity."""

from __future__ import annotations

import numpy as np

from allmasks.evidence.claim import Claim, Criterion, Picture, Text, Values
from allmasks.evidence.contrast import across_rates, swept
from allmasks.evidence.drawing import EPOCH, LOSS, RATE, band, dataset_title
from allmasks.evidence.shared_nets import Lab

_LEVEL = 0.25


def _epochs_to(lab: Lab, dataset: str, arm: str) -> np.ndarray:
    """(seeds,) log of the epoch at which the eval-mode training loss is first a quarter of what it was."""
    curves = lab.curves(dataset, arm)
    epochs = np.concatenate([curves["epochs"], [2 * curves["epochs"][-1]]])
    below = curves["train"] < _LEVEL * curves["train"][:, :1]
    first = np.where(below.any(axis=1), below.argmax(axis=1), below.shape[1])
    return np.log(np.maximum(epochs[first], 1))


def measure(lab: Lab, dataset: str) -> Values:
    _, arms = swept(lab)
    gap = np.array([lab.last(dataset, a, "train_accuracy") - lab.last(dataset, a, "test_accuracy") for a in arms])
    return {
        "gap": (-across_rates(lab, gap)).tolist(),
        "slower": across_rates(lab, np.array([_epochs_to(lab, dataset, arm) for arm in arms])).tolist(),
        "capacity": across_rates(lab, np.array([lab.last(dataset, arm, "train") for arm in arms])).tolist(),
    }


def pictures(lab: Lab) -> list[Picture]:
    rates, arms = swept(lab)
    dataset = lab.settings.datasets[0]
    gap = [
        band(
            Text(d, d),
            rates,
            np.array([lab.last(d, a, "train_accuracy") - lab.last(d, a, "test_accuracy") for a in arms]).T,
        )
        for d in lab.settings.datasets
    ]
    return [
        Picture(
            Text("Training accuracy less test accuracy", "학습 정확도 − 테스트 정확도"), RATE, Text("gap", "차이"), gap
        ),
        Picture(
            dataset_title("Training loss in eval mode", "학습 손실 (평가 모드)", dataset),
            EPOCH,
            LOSS,
            [
                band(
                    Text(f"p = {p:g}", f"p = {p:g}"),
                    lab.curves(dataset, a)["epochs"][1:],
                    lab.curves(dataset, a)["train"][:, 1:],
                )
                for p, a in zip(rates, arms, strict=True)
            ],
            log_x=True,
            log_y=True,
        ),
    ]


CLAIM = Claim(
    number=11,
    key="higher_p",
    title=Text("Higher p: stronger, slower, less capacity", "p가 크면: 강한 정규화, 느린 수렴, 표현력 감소"),
    sentence=Text(
        "p up, variance up: strong regularization. Overfitting is held down more; speed of convergence and expressive power "
        "fall, depending on the case.",
        "p ↑ → Var ↑ → 강한 정규화. 과대적합 억제 ↑, 수렴 속도·표현력은 상황에 따라 ↓",
    ),
    section=Text("Effect of the drop rate p", "6. 구현·해석 팁: 드롭율 p의 영향"),
    criteria=(
        Criterion(
            "gap",
            Text(
                "The larger p, the smaller the gap between training and test accuracy: rank correlation −0.5 or stronger",
                "p가 클수록 학습·테스트 정확도 차이가 작다: 순위 상관 −0.5 또는 더 강함",
            ),
            0.5,
            comparative=True,
        ),
        Criterion(
            "slower",
            Text(
                "The larger p, the more epochs until the training loss is a quarter: rank correlation 0.5 or more",
                "p가 클수록 학습 손실이 1/4이 될 때까지의 에폭이 많다: 순위 상관 0.5 이상",
            ),
            0.5,
            comparative=True,
        ),
        Criterion(
            "capacity",
            Text(
                "The larger p, the higher the final training loss in eval mode: rank correlation 0.5 or more",
                "p가 클수록 최종 학습 손실(평가 모드)이 크다: 순위 상관 0.5 이상",
            ),
            0.5,
            comparative=True,
        ),
    ),
    measure=measure,
    note=Text("Over p = 0 and every rate of the run, seed by seed.", "p = 0과 실험한 모든 p에 대해 시드마다 계산."),
    pictures=pictures,
    needs=("none", "family:dropout"),
)
