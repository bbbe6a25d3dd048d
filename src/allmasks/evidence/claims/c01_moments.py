"""The mean is kept, and the variance is p/(1−p) h²."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from allmasks.evidence.claim import Claim, Criterion, Numbers, Picture, Series, Text, Values
from allmasks.evidence.shared_nets import Lab
from allmasks.masks import dropout_moments

_P = 0.25
_MASKS = 4000


def own(lab: Lab, dataset: str, seed: int) -> Numbers:
    """torch's own dropout on the hidden units of a trained net, against the formulas."""
    net = lab.net(dataset, "none", seed)
    x, _ = lab.tensors(dataset, seed, "test", 50)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        h = net[:2](x)
        total, squares = torch.zeros_like(h), torch.zeros_like(h)
        for _ in range(_MASKS):
            noisy = F.dropout(h, _P, training=True)
            total += noisy
            squares += (noisy - h) ** 2
    rows = np.array([dropout_moments(row, _P)[1] for row in h.numpy()])
    return {
        "mean": float((total / _MASKS - h).sum() / h.abs().sum()),
        "variance": float((squares / _MASKS).sum() / rows.sum() - 1),
        "example": [float(v) for v in dropout_moments([2, -1, 3], 0.5)[1]],
        "points": [(h.mean(0) ** 2).tolist(), (squares / _MASKS).mean(0).tolist(), rows.mean(0).tolist()],
    }


def measure(lab: Lab, dataset: str) -> Values:
    return {name: lab.own("moments", dataset, name).tolist() for name in ("mean", "variance")}


def pictures(lab: Lab) -> list[Picture]:
    dataset = lab.settings.datasets[0]
    _, measured, formula = lab.own("moments", dataset, "points")[0]
    top = float(max(formula.max(), measured.max()))
    return [
        Picture(
            Text(f"Variance of each hidden unit ({dataset})", f"은닉 유닛별 분산 ({dataset})"),
            Text("p/(1−p) · h², averaged over examples", "p/(1−p) · h²의 샘플 평균"),
            Text("variance over 4,000 masks", "마스크 4,000개에서 잰 분산"),
            [
                Series(Text("unit", "유닛"), formula.tolist(), measured.tolist(), points=True),
                Series(Text("equal", "일치"), [0.0, top], [0.0, top]),
            ],
        )
    ]


CLAIM = Claim(
    number=1,
    key="moments",
    title=Text("The mean is kept, the variance is p/(1−p) h²", "평균은 유지되고 분산은 p/(1−p)·h²"),
    sentence=Text(
        "The mean is kept (scale correction); variance of p/(1−p) times h² is added, and so noise is injected.",
        "평균은 유지됨 (크기 보정). 분산이 p/(1−p)배 만큼 추가되어 노이즈가 주입됨",
    ),
    section=Text("Definition of the operation", "1. 연산 정의 (Inverted Dropout)"),
    criteria=(
        Criterion(
            "mean",
            Text(
                "The mean over 4,000 masks of torch's dropout (p = 0.25) is off h by less than 1 % of |h|",
                "torch 드롭아웃(p = 0.25) 마스크 4,000개의 평균이 h에서 |h|의 1 % 미만으로 벗어난다",
            ),
            0.01,
            "agreement",
        ),
        Criterion(
            "variance",
            Text(
                "The variance over those masks is off p/(1−p) h² by less than 1 %",
                "같은 마스크들의 분산이 p/(1−p)·h²에서 1 % 미만으로 벗어난다",
            ),
            0.01,
            "agreement",
        ),
    ),
    measure=measure,
    note=Text(
        "The notes' example, h = (2, −1, 3) at p = 0.5, gives variances (4, 1, 9): the standard deviations are |h|.",
        "노트의 예시 h = (2, −1, 3), p = 0.5에서 분산은 (4, 1, 9)이고 표준편차는 |h|와 같다.",
    ),
    own=own,
    pictures=pictures,
    needs=("none",),
)
