"""Function gathers in few units."""

from __future__ import annotations

from allmasks.evidence.claim import Claim, Criterion, Picture, Text, Values
from allmasks.evidence.contrast import CONTRAST, more
from allmasks.evidence.drawing import DROPPED, NONE, band, dataset_title, resampled
from allmasks.evidence.shared_nets import Lab


def measure(lab: Lab, dataset: str) -> Values:
    return {
        "gini": more(lab, dataset, "gini").tolist(),
        "carry_90": (-more(lab, dataset, "carry_90")).tolist(),
    }


def pictures(lab: Lab) -> list[Picture]:
    found = []
    for dataset in lab.settings.datasets:
        series = []
        for arm, name in zip(CONTRAST, (NONE, DROPPED), strict=True):
            places, shares = resampled(lab.probed(dataset, arm, "importance"))
            series.append(band(name, places, shares))
        title = dataset_title("Share of importance that the top units carry", "상위 유닛이 차지하는 중요도", dataset)
        x, y = Text("fraction of units, most important first", "유닛 비율 (중요한 순)"), Text("share", "중요도 비율")
        found.append(Picture(title, x, y, series))
    return found


CLAIM = Claim(
    number=8,
    key="concentration",
    title=Text("Function gathers in few units", "특정 뉴런에 기능 집중"),
    sentence=Text(
        "As a result clear function gathers in a few important neurons only.",
        "결과: “몇몇 중요한 뉴런”에만 뚜렷한 기능이 집중",
    ),
    section=Text("Why do roles gather?", "2. 왜 역할이 “몰리게” 되는가?"),
    criteria=(
        Criterion(
            "gini",
            Text(
                "Gini coefficient of the units' Shapley importance rises by 0.03 or more",
                "유닛 중요도(섀플리 값)의 지니 계수가 0.03 이상 오른다",
            ),
            0.03,
            comparative=True,
        ),
        Criterion(
            "carry_90",
            Text(
                "The share of units that carry 90 % of importance falls by 3 points or more",
                "중요도의 90 %를 담당하는 유닛의 비율이 3 %p 이상 줄어든다",
            ),
            0.03,
            comparative=True,
        ),
    ),
    measure=measure,
    note=Text(
        "Shapley importance: how much the loss falls when a unit joins, averaged over random orders. p = 0.5 against none.",
        "섀플리 중요도: 유닛이 합류할 때 줄어드는 손실을 무작위 순서에 대해 평균한 값. p = 0.5와 드롭아웃 없음의 비교.",
    ),
    pictures=pictures,
    probes=CONTRAST,
)
