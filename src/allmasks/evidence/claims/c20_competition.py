"""The mechanism of competition: units that matter early are strengthened, the others fade."""

from __future__ import annotations

from typing import Any

import numpy as np

from allmasks.diagnose.concentration import gini
from allmasks.evidence.claim import Claim, Criterion, Numbers, Picture, Text, Values
from allmasks.evidence.contrast import CONTRAST
from allmasks.evidence.drawing import DROPPED, NONE, band, dataset_title
from allmasks.evidence.examine import SITES, contributions, correlation
from allmasks.evidence.shared_nets import Lab


def own(lab: Lab, dataset: str, seed: int) -> Numbers:
    """A unit's part in the next layer, E[h²] ‖w_out‖², early and at the end of training."""
    x, _ = lab.tensors(dataset, seed, "test")
    found: dict[str, Any] = {}
    for arm in CONTRAST:
        early, final = (lab.net(dataset, arm, seed, when=when) for when in ("early", "final"))
        keep, grow, groups = [], [], []
        for site in SITES:
            before, after = contributions(early, x, site)[1], contributions(final, x, site)[1]
            keep.append(correlation(before, after))
            grow.append(gini(after) - gini(before))
            # Quarters of the units by their early part, each with its share at the end.
            quarters = np.array_split(np.argsort(before), 4)
            groups.append([float(after[q].sum() / max(after.sum(), 1e-300)) for q in quarters])
        found[f"keep {arm}"], found[f"grow {arm}"] = float(np.mean(keep)), float(np.mean(grow))
        found[f"groups {arm}"] = np.mean(groups, axis=0).tolist()
    return found


def measure(lab: Lab, dataset: str) -> Values:
    def more(name: str) -> list[float]:
        with_, without = (lab.own("competition", dataset, f"{name} {arm}") for arm in ("drop0.5", "none"))
        return (with_ - without).tolist()

    return {"keep": more("keep"), "grow": more("grow")}


def pictures(lab: Lab) -> list[Picture]:
    return [
        Picture(
            dataset_title("Share at the end, by how important units were early", "초기 중요도 순서별 최종 몫", dataset),
            Text("quarter of units, least important early first", "유닛 4등분 (초기 중요도 낮은 순)"),
            Text("share at the end", "최종 몫"),
            [
                band(name, [1, 2, 3, 4], lab.own("competition", dataset, f"groups {arm}"), points=True)
                for arm, name in zip(CONTRAST, (NONE, DROPPED), strict=True)
            ],
        )
        for dataset in lab.settings.datasets[:2]
    ]


CLAIM = Claim(
    number=20,
    key="competition",
    title=Text(
        "Competition: the strong get stronger, the rest fade", "뉴런 간 경쟁: 중요한 뉴런은 강화, 나머지는 감소"
    ),
    sentence=Text(
        "Neurons with an important feature survive again and again and are strengthened; of the less important ones the "
        "contribution gradually falls.",
        "중요한 feature를 잡은 뉴런: 반복적으로 살아남아 강화됨. 중요하지 않은 뉴런: 점차 기여도 감소",
    ),
    section=Text("The mechanism of competition between neurons", "뉴런 간 경쟁 메커니즘"),
    criteria=(
        Criterion(
            "keep",
            Text(
                "Units keep their early rank more than without dropout: rank correlation higher by 0.05 or more",
                "초기 순위가 드롭아웃 없을 때보다 더 유지된다: 순위 상관이 0.05 이상 높다",
            ),
            0.05,
            comparative=True,
        ),
        Criterion(
            "grow",
            Text(
                "Inequality of the units' parts grows more during training: Gini coefficient by 0.02 or more",
                "학습 중 유닛 몫의 불평등이 더 커진다: 지니 계수 0.02 이상",
            ),
            0.02,
            comparative=True,
        ),
    ),
    measure=measure,
    note=Text(
        "“Early” is a tenth of training. Every mask has the same chance for every unit: nothing in dropout prefers a unit. The "
        "notes' “survives repeatedly” can only come about through the weights, which is what is measured.",
        "“초기”는 학습의 1/10 시점. 마스크는 모든 유닛에 같은 확률이므로 드롭아웃이 특정 유닛을 살려 두지는 않는다. “반복적으로 "
        "살아남는다”는 가중치를 통해서만 일어날 수 있고, 그것을 잰다.",
    ),
    own=own,
    pictures=pictures,
    needs=CONTRAST,
)
