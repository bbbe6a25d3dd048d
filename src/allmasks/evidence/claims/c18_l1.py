"""L1 makes weights sparse, dropout does not."""

from __future__ import annotations

import torch

from allmasks.evidence.claim import Claim, Criterion, Picture, Text, Values
from allmasks.evidence.contrast import more
from allmasks.evidence.drawing import band
from allmasks.evidence.shared_nets import Lab


def _zeros(lab: Lab, dataset: str, arm: str) -> float:
    """Share of weights of all seeds' nets that are exactly zero."""
    nets = [lab.net(dataset, arm, seed) for seed in lab.seeds]
    weights = torch.cat(
        [w.detach().flatten() for net in nets for name, w in net.named_parameters() if "weight" in name]
    )
    return float((weights == 0).double().mean())


def measure(lab: Lab, dataset: str) -> Values:
    l1 = lab.settings.middle("L1")
    return {
        "l1": more(lab, dataset, "zero_weights", l1).tolist(),
        "against_dropout": more(lab, dataset, "zero_weights", l1, "drop0.5").tolist(),
    }


def pictures(lab: Lab) -> list[Picture]:
    family = lab.settings.family("L1")
    strengths = [float(arm.removeprefix("l1=")) for arm in family]
    return [
        Picture(
            Text("Share of weights that are exactly zero", "정확히 0인 가중치의 비율"),
            Text("strength of L1", "L1의 강도"),
            Text("share of zeros", "0의 비율"),
            [band(Text(d, d), strengths, [[_zeros(lab, d, arm) for arm in family]]) for d in lab.settings.datasets],
            log_x=True,
        )
    ]


CLAIM = Claim(
    number=18,
    key="l1",
    title=Text("L1 makes weights sparse, dropout does not", "L1은 가중치를 희소하게, 드롭아웃은 아니다"),
    sentence=Text(
        "L1: λ‖w‖₁ makes weights sparse. Dropout prevents co-adaptation by random noise.",
        "L1 정규화: λ‖w‖₁, 가중치의 희소성(sparsity) 유도. Dropout: 확률적 노이즈로 co-adaptation 방지",
    ),
    section=Text("Well-known regularizers", "대표적인 정규화 기법들"),
    criteria=(
        Criterion(
            "l1",
            Text(
                "With L1 the share of weights that are exactly zero is larger by 10 points or more than without",
                "L1에서 정확히 0인 가중치의 비율이 없을 때보다 10 %p 이상 크다",
            ),
            0.1,
            comparative=True,
        ),
        Criterion(
            "against_dropout",
            Text(
                "And larger by 10 points or more than with dropout, p = 0.5", "드롭아웃(p = 0.5)보다도 10 %p 이상 크다"
            ),
            0.1,
            comparative=True,
        ),
    ),
    measure=measure,
    note=Text(
        "L1 by its proximal step after each Adam step, at the middle of the strengths tried.",
        "L1은 Adam 스텝마다 근접 연산으로 적용하며, 시도한 강도 가운데 중간값을 쓴다.",
    ),
    pictures=pictures,
    needs=("family:L1",),
    probes=("none", "drop0.5", "middle:L1"),
)
