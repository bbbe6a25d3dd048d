"""Features become sparser."""

from __future__ import annotations

import numpy as np

from allmasks.evidence.claim import Claim, Criterion, Picture, Text, Values
from allmasks.evidence.contrast import CONTRAST, more, swept
from allmasks.evidence.drawing import RATE, band
from allmasks.evidence.shared_nets import Lab


def measure(lab: Lab, dataset: str) -> Values:
    return {"zeros": more(lab, dataset, "zeros").tolist(), "dead": more(lab, dataset, "dead").tolist()}


def pictures(lab: Lab) -> list[Picture]:
    rates, arms = swept(lab)
    return [
        Picture(
            Text("Share of activations that are zero (held-out data)", "0인 활성값의 비율 (테스트 데이터)"),
            RATE,
            Text("share of zeros", "0의 비율"),
            [
                band(Text(d, d), rates, np.array([lab.probed(d, arm, "zeros") for arm in arms]).T)
                for d in lab.settings.datasets
            ],
        )
    ]


CLAIM = Claim(
    number=13,
    key="sparse_features",
    title=Text("Features become sparser: only meaningful ones survive", "특징이 희소해진다: 의미 있는 feature만 생존"),
    sentence=Text("Only independent and meaningful features survive.", "독립적이고 의미 있는 feature만 생존"),
    section=Text("Summary: how function gathers", "4. 요약: 기능 집중 메커니즘"),
    criteria=(
        Criterion(
            "zeros",
            Text("The share of zero activations rises by 2 points or more", "0인 활성값의 비율이 2 %p 이상 오른다"),
            0.02,
            comparative=True,
        ),
        Criterion(
            "dead",
            Text(
                "The share of units that are always off rises by 1 point or more: they did not survive",
                "항상 꺼져 있는 유닛의 비율이 1 %p 이상 오른다 (살아남지 못한 유닛)",
            ),
            0.01,
            comparative=True,
        ),
    ),
    measure=measure,
    note=Text("ReLU units; p = 0.5 against none.", "ReLU 유닛, p = 0.5와 드롭아웃 없음의 비교."),
    pictures=pictures,
    probes=(*CONTRAST, "family:dropout"),
)
