"""It survives lost units."""

from __future__ import annotations

from allmasks.evidence.claim import Claim, Criterion, Picture, Text, Values
from allmasks.evidence.contrast import CONTRAST, more
from allmasks.evidence.drawing import DROPPED, NONE, UNITS_REMOVED, band, dataset_title
from allmasks.evidence.examine import FRACTIONS
from allmasks.evidence.shared_nets import Lab


def measure(lab: Lab, dataset: str) -> Values:
    return {"random": more(lab, dataset, "robust").tolist(), "worst": more(lab, dataset, "robust_worst").tolist()}


def pictures(lab: Lab) -> list[Picture]:
    found = []
    for dataset in lab.settings.datasets:
        series = []
        for arm, name in zip(CONTRAST, (NONE, DROPPED), strict=True):
            for curve, words in (
                ("accuracy_curve", ("random", "무작위")),
                ("worst_curve", ("worst first", "중요한 것부터")),
            ):
                label = Text(f"{name.en}, {words[0]}", f"{name.ko}, {words[1]}")
                series.append(band(label, FRACTIONS, lab.probed(dataset, arm, curve)))
        title = dataset_title("Accuracy kept as units are removed", "유닛 제거에 따른 정확도 유지율", dataset)
        found.append(
            Picture(title, UNITS_REMOVED, Text("share of the full net's accuracy", "원래 정확도 대비"), series)
        )
    return found


CLAIM = Claim(
    number=10,
    key="robustness",
    title=Text("It survives lost units", "일부 뉴런이 꺼져도 작동"),
    sentence=Text("Robustness: it works even when some neurons are off.", "Robustness: 일부 뉴런이 꺼져도 작동"),
    section=Text("Effects on the network", "5. 실제 의미: 네트워크에서의 효과"),
    criteria=(
        Criterion(
            "random",
            Text(
                "Accuracy kept, averaged over 0 to 90 % of a layer removed at random, rises by 2 points or more",
                "한 층의 0–90 %를 무작위로 제거할 때의 평균 정확도 유지율이 2 %p 이상 오른다",
            ),
            0.02,
            comparative=True,
        ),
        Criterion(
            "worst",
            Text(
                "The same when the most important units go first",
                "가장 중요한 유닛부터 제거해도 마찬가지이다 (2 %p 이상)",
            ),
            0.02,
            comparative=True,
        ),
    ),
    measure=measure,
    note=Text(
        "p = 0.5 against none; held-out data; removed units are set to 0 and the rest are not rescaled.",
        "p = 0.5와 드롭아웃 없음의 비교, 테스트 데이터. 제거한 유닛은 0으로 두고 나머지는 다시 스케일하지 않는다.",
    ),
    pictures=pictures,
    probes=CONTRAST,
)
