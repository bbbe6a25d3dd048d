"""The gradient's noise from minibatches and from masks, side by side."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from allmasks.evidence.claim import Claim, Criterion, Numbers, Picture, Text, Values
from allmasks.evidence.drawing import band
from allmasks.evidence.shared_nets import Lab

_SIZES = (4, 8, 16, 32)
_DRAWS = 48


def own(lab: Lab, dataset: str, seed: int) -> Numbers:
    """Total variance of the gradient over draws of rows and over draws of masks (K a row)."""
    net = lab.net(dataset, "drop0.5", seed, when="early", p=0.5)
    x, y = lab.tensors(dataset, seed, "train", 160)
    generator = torch.Generator().manual_seed(seed)
    width = lab.settings.width(dataset)

    def gradient(rows: torch.Tensor, copies: int, masked: bool) -> torch.Tensor:
        net.zero_grad()
        inputs, target = x[rows].repeat(copies, 1), y[rows].repeat(copies)
        h = inputs
        for index in (0, 3):
            h = net[index](h).relu()
            if masked:
                h = h * (torch.rand(len(h), width, generator=generator) >= 0.5).double() * 2.0
        F.cross_entropy(net[6](h), target).backward()
        return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]).clone()

    def variance(draws: list[torch.Tensor]) -> float:
        return float(torch.stack(draws).var(dim=0).sum())

    batch = [
        variance([gradient(torch.randint(len(x), (b,), generator=generator), 1, False) for _ in range(_DRAWS)])
        for b in _SIZES
    ]
    rows = torch.randperm(len(x), generator=generator)[:32]
    masks = [variance([gradient(rows, k, True) for _ in range(_DRAWS)]) for k in (1, 2, 4)]
    return {
        "batch": [v / batch[-1] for v in batch],
        "masks": [v / batch[-1] for v in masks],
        "batch_slope": float(np.polyfit(np.log(_SIZES), np.log(batch), 1)[0]) + 1,
        "mask_slope": float(np.polyfit(np.log((1, 2, 4)), np.log(masks), 1)[0]) + 1,
        "ratio": math.log10(masks[0] / batch[-1]),
    }


def measure(lab: Lab, dataset: str) -> Values:
    return {n: lab.own("gradient_noise", dataset, n).tolist() for n in ("batch_slope", "mask_slope", "ratio")}


def pictures(lab: Lab) -> list[Picture]:
    series = []
    for d in lab.settings.datasets:
        series.append(
            band(Text(f"rows, {d}", f"미니배치, {d}"), _SIZES, lab.own("gradient_noise", d, "batch"), points=True)
        )
        masks = lab.own("gradient_noise", d, "masks")
        label = Text(f"masks (32 rows × K), {d}", f"마스크 (행 32개 × K), {d}")
        series.append(band(label, (32, 64, 128), masks, points=True))
    return [
        Picture(
            Text("Variance of the gradient", "기울기의 분산"),
            Text("passes a step: rows × masks", "스텝당 순전파 수: 행 × 마스크"),
            Text("variance, 32 rows without masks is 1", "분산 (마스크 없이 행 32개를 1로)"),
            series,
            log_x=True,
            log_y=True,
        )
    ]


CLAIM = Claim(
    number=15,
    key="gradient_noise",
    title=Text(
        "Sampling masks is the same philosophy as sampling minibatches", "마스크 샘플링은 미니배치 샘플링과 같은 철학"
    ),
    sentence=Text(
        "SGD approximates the expected loss over data by minibatch samples: the same philosophy.",
        "SGD 자체가 사실 “데이터 배치에 대한 기대 손실”을 미니배치 샘플로 근사하는 것과 동일한 철학입니다.",
    ),
    section=Text("What dropout training does", "4. 드롭아웃 학습에서 실제 동작"),
    criteria=(
        Criterion(
            "batch_slope",
            Text(
                "Gradient variance over rows falls as 1/B: slope −1, to 0.15",
                "행에 의한 기울기 분산은 1/B로 준다: 기울기 −1 (±0.15)",
            ),
            0.15,
            "agreement",
        ),
        Criterion(
            "mask_slope",
            Text(
                "Gradient variance over masks falls as 1/K: slope −1, to 0.15",
                "마스크에 의한 기울기 분산은 1/K로 준다: 기울기 −1 (±0.15)",
            ),
            0.15,
            "agreement",
        ),
        Criterion(
            "ratio",
            Text(
                "One mask a row is as noisy as a batch of 32 rows, within a factor of ten",
                "행마다 마스크 하나일 때의 잡음이 행 32개 배치의 잡음과 10배 안에서 같다",
            ),
            1.0,
            "agreement",
        ),
    ),
    measure=measure,
    note=Text(
        "Measured a tenth into training, where there is still a gradient to speak of; p = 0.5.",
        "기울기가 아직 충분히 남아 있는 학습 1/10 시점에서 측정, p = 0.5.",
    ),
    own=own,
    pictures=pictures,
    needs=("drop0.5",),
    cost=0.6,
)
