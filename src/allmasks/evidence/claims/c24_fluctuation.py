"""The loss fluctuates step by step while E_m[L] falls."""

from __future__ import annotations

import numpy as np

from allmasks.evidence.claim import Claim, Criterion, Picture, Series, Text, Values
from allmasks.evidence.drawing import EPOCH, LOSS, band, dataset_title
from allmasks.evidence.shared_nets import Lab


def measure(lab: Lab, dataset: str) -> Values:
    with_, without = (lab.curves(dataset, arm) for arm in ("drop0.5", "none"))
    return {
        "fluctuates": (np.log(with_["last_steps_std"] + 1e-9) - np.log(without["last_steps_std"] + 1e-9)).tolist(),
        "rises": (with_["rises"] - 0.25).tolist(),
        "falls": (1 - with_["expected"][:, -1] / with_["expected"][:, 0]).tolist(),
    }


def pictures(lab: Lab) -> list[Picture]:
    found = []
    for dataset in lab.settings.datasets[:2]:
        curves = lab.curves(dataset, "drop0.5")
        steps = curves["steps"][0]
        epochs = np.linspace(0, curves["epochs"][-1], len(steps))
        found.append(
            Picture(
                dataset_title("Loss of each step (one seed), and E_m[L]", "스텝별 손실(시드 하나)과 E_m[L]", dataset),
                EPOCH,
                LOSS,
                [
                    Series(Text("step loss", "스텝 손실"), epochs.tolist(), steps.tolist()),
                    band(Text("E_m[L], training rows", "E_m[L], 학습 데이터"), curves["epochs"], curves["expected"]),
                ],
            )
        )
    return found


CLAIM = Claim(
    number=24,
    key="fluctuation",
    title=Text("The loss shakes at every step while E_m[L] falls", "스텝마다 손실은 흔들리지만 E_m[L]은 줄어든다"),
    sentence=Text(
        "The loss shakes at each step, but on average it converges towards minimizing E_m[L].",
        "각 스텝마다 손실이 흔들리지만, 평균적으로는 E_m[L]을 최소화하는 방향으로 수렴",
    ),
    section=Text("Regularization by noise injection", "5. “노이즈 주입 정규화”와 연결"),
    criteria=(
        Criterion(
            "fluctuates",
            Text(
                "Late in training the step loss varies more than without dropout, by a factor of 1.5 (log 0.4) or more",
                "학습 후반의 스텝 손실 변동이 드롭아웃 없을 때의 1.5배(로그 0.4) 이상이다",
            ),
            0.4,
            comparative=True,
        ),
        Criterion(
            "rises",
            Text(
                "At least 35 % of all steps have a higher loss than the one before (counted from 25 %)",
                "전체 스텝의 35 % 이상에서 손실이 직전보다 높다 (25 %를 기준으로 계산)",
            ),
            0.1,
        ),
        Criterion("falls", Text("E_m[L] falls by half or more", "E_m[L]이 절반 이상 줄어든다"), 0.5),
    ),
    measure=measure,
    note=Text("p = 0.5; batches of 32, one mask a row and step.", "p = 0.5, 배치 32, 스텝마다 행별 마스크 하나."),
    pictures=pictures,
    needs=("none", "drop0.5"),
)
