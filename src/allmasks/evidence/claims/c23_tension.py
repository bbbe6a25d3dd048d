"""The tension between "few units carry it" and "it survives lost units"."""

from __future__ import annotations

import numpy as np

from allmasks.evidence.claim import Claim, Criterion, Picture, Series, Text, Values
from allmasks.evidence.contrast import CONTRAST, more, swept
from allmasks.evidence.shared_nets import Lab


def measure(lab: Lab, dataset: str) -> Values:
    return {"gini": more(lab, dataset, "gini").tolist(), "robust": more(lab, dataset, "robust_worst").tolist()}


def pictures(lab: Lab) -> list[Picture]:
    _, arms = swept(lab)
    return [
        Picture(
            Text("Concentration against robustness, one point a net", "집중과 강건성, 점 하나가 신경망 하나"),
            Text("Gini coefficient of importance", "중요도의 지니 계수"),
            Text("accuracy kept, most important units removed first", "정확도 유지율 (중요한 유닛부터 제거)"),
            [
                Series(
                    Text(d, d),
                    np.concatenate([lab.probed(d, arm, "gini") for arm in arms]).tolist(),
                    np.concatenate([lab.probed(d, arm, "robust_worst") for arm in arms]).tolist(),
                    points=True,
                )
                for d in lab.settings.datasets
            ],
        )
    ]


CLAIM = Claim(
    number=23,
    key="tension",
    title=Text(
        "“Few units carry it” and “it survives lost units”, both at once",
        "“소수 뉴런에 집중”과 “뉴런이 꺼져도 작동”이 함께 성립",
    ),
    sentence=Text(
        "Function gathers in a few neurons, and it works even when some neurons are off: the notes say both.",
        "“몇몇 중요한 뉴런”에만 뚜렷한 기능이 집중 … 일부 뉴런이 꺼져도 작동",
    ),
    section=Text("Why roles gather; effects on the network", "2. 왜 역할이 “몰리게” 되는가?, 5. 실제 의미"),
    criteria=(
        Criterion(
            "gini",
            Text(
                "With dropout the Gini coefficient of importance rises by 0.03 or more",
                "드롭아웃에서 중요도의 지니 계수가 0.03 이상 오른다",
            ),
            0.03,
            comparative=True,
        ),
        Criterion(
            "robust",
            Text(
                "And accuracy kept when the most important units go first rises by 2 points or more",
                "그러면서도 중요한 유닛부터 제거할 때의 정확도 유지율이 2 %p 이상 오른다",
            ),
            0.02,
            comparative=True,
        ),
    ),
    measure=measure,
    note=Text(
        "Holds only where both are seen on every data set. If function did gather in few units, losing just those should hurt "
        "more; the picture shows whether it does.",
        "모든 데이터에서 두 가지가 모두 관찰될 때만 성립한다. 기능이 소수 유닛에 몰렸다면 바로 그 유닛들을 잃을 때 더 나빠져야 한다. "
        "그림이 실제를 보여 준다.",
    ),
    pictures=pictures,
    probes=(*CONTRAST, "family:dropout"),
)
