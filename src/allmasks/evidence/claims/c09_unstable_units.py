"""Units whose output is unstable are suppressed."""

from __future__ import annotations

import numpy as np

from allmasks.evidence.claim import Claim, Criterion, Numbers, Picture, Text, Values
from allmasks.evidence.contrast import CONTRAST, more, swept
from allmasks.evidence.drawing import RATE, band
from allmasks.evidence.examine import SITES, contributions, correlation
from allmasks.evidence.shared_nets import Lab


def own(lab: Lab, dataset: str, seed: int) -> Numbers:
    """Rank correlation of a unit's noise early in training with how its part in the next layer then grew."""
    x, _ = lab.tensors(dataset, seed, "test")
    found = {}
    for arm in CONTRAST:
        early, final = (lab.net(dataset, arm, seed, when=when) for when in ("early", "final"))
        rows = []
        for site in SITES:
            (noise, before), (_, after) = contributions(early, x, site), contributions(final, x, site)
            grew = np.log(np.maximum(after, 1e-12) / np.maximum(before, 1e-12))
            rows.append(correlation(noise, grew))
        found[arm] = float(np.mean(rows))
    return found


def measure(lab: Lab, dataset: str) -> Values:
    return {
        "noise": (-more(lab, dataset, "output_noise")).tolist(),
        "fade": (lab.own("unstable_units", dataset, "none") - lab.own("unstable_units", dataset, "drop0.5")).tolist(),
    }


def pictures(lab: Lab) -> list[Picture]:
    rates, arms = swept(lab)
    return [
        Picture(
            Text(
                "Noise that masks of p = 0.5 would stir up in the next layer",
                "p = 0.5 마스크가 다음 층에 일으키는 잡음",
            ),
            RATE,
            Text("log (noise / signal variance)", "log (잡음 분산 / 신호 분산)"),
            [
                band(Text(d, d), rates, np.array([lab.probed(d, arm, "output_noise") for arm in arms]).T)
                for d in lab.settings.datasets
            ],
        )
    ]


CLAIM = Claim(
    number=9,
    key="unstable_units",
    title=Text("Unstable units are suppressed", "출력이 불안정한 뉴런은 억제된다"),
    sentence=Text(
        "Units whose output swings widely: penalty up, suppressed. Units of stable output: penalty down, strengthened.",
        "출력이 크게 출렁이는 뉴런 → 패널티 ↑ → 억제됨. 안정적인 출력을 내는 뉴런 → 패널티 ↓ → 강화됨",
    ),
    section=Text("Mathematical reason: where it converges", "3. 수학적 이유: 수렴 방향"),
    criteria=(
        Criterion(
            "noise",
            Text(
                "The variance that masks stir up in the next layer, relative to its signal, falls by 10 % or more (log 0.1)",
                "마스크가 다음 층에 일으키는 분산(신호 대비)이 10 % 이상 준다 (로그 0.1)",
            ),
            0.1,
            comparative=True,
        ),
        Criterion(
            "fade",
            Text(
                "Within a net, units that are noisy early lose ground: rank correlation lower by 0.1 or more than without "
                "dropout",
                "한 신경망 안에서 초기에 잡음이 큰 유닛이 뒤처진다: 순위 상관이 드롭아웃 없을 때보다 0.1 이상 낮다",
            ),
            0.1,
            comparative=True,
        ),
    ),
    measure=measure,
    note=Text(
        "Noise of a unit is p/(1−p) E[h²]; its part in the next layer is E[h²] ‖w_out‖². “Early” is a tenth of training.",
        "유닛의 잡음은 p/(1−p)·E[h²], 다음 층에서의 몫은 E[h²]·‖w_out‖². “초기”는 학습의 1/10 시점.",
    ),
    own=own,
    pictures=pictures,
    needs=CONTRAST,
    probes=(*CONTRAST, "family:dropout"),
)
