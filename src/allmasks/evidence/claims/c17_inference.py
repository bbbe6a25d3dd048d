"""L2 changes inference, dropout only training; deterministic against stochastic."""

from __future__ import annotations

import torch

from allmasks.evidence.claim import Claim, Criterion, Numbers, Text, Values
from allmasks.evidence.shared_nets import Lab


def own(lab: Lab, dataset: str, seed: int) -> Numbers:
    x, _ = lab.tensors(dataset, seed, "test")
    l2 = lab.settings.middle("L2")
    nets = {arm: lab.net(dataset, arm, seed) for arm in ("none", "drop0.5", l2)}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probability = {arm: net(x).softmax(1) for arm, net in nets.items()}
        again = nets["drop0.5"](x).softmax(1)
        nets["drop0.5"].train()
        first, second = (nets["drop0.5"](x).softmax(1) for _ in range(2))

    def distance(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a - b).abs().sum(1).mean() / 2)

    return {
        "off": distance(probability["drop0.5"], again),
        "on": distance(first, second),
        "l2_inference": distance(probability["none"], probability[l2]),
        "dropout_inference": distance(probability["none"], probability["drop0.5"]),
    }


def measure(lab: Lab, dataset: str) -> Values:
    own = {n: lab.own("inference", dataset, n) for n in ("off", "on", "l2_inference", "dropout_inference")}
    return {
        "off": own["off"].tolist(),
        "on": own["on"].tolist(),
        "only_l2": (own["l2_inference"] - own["dropout_inference"]).tolist(),
    }


CLAIM = Claim(
    number=17,
    key="inference",
    title=Text(
        "L2 acts at inference too, dropout in training only; deterministic, stochastic",
        "L2는 추론에도, 드롭아웃은 학습에만; 결정적·확률적",
    ),
    sentence=Text(
        "L2 is deterministic, dropout stochastic. L2 affects inference as well, dropout training only.",
        "L2는 결정적(deterministic), Dropout은 확률적(stochastic). L2는 추론 시에도 영향, Dropout은 학습 시에만",
    ),
    section=Text("Differences", "공통점과 차이점"),
    criteria=(
        Criterion(
            "off",
            Text(
                "A net trained with dropout gives the very same output twice in eval mode",
                "드롭아웃으로 학습한 신경망도 평가 모드에서는 두 번 모두 똑같은 출력을 낸다",
            ),
            1e-12,
            "agreement",
        ),
        Criterion(
            "on",
            Text(
                "In train mode two passes differ: class probabilities by 0.01 (total variation) or more",
                "학습 모드에서는 두 번의 출력이 다르다: 클래스 확률의 총변동 거리 0.01 이상",
            ),
            0.01,
        ),
        Criterion(
            "only_l2",
            Text(
                "Dropout, acting in training only, changes class probabilities at inference less than L2 does, by 0.01 or more",
                "드롭아웃은 학습에만 작용하므로 L2보다 추론 결과를 덜 바꾼다 (0.01 이상)",
            ),
            0.01,
            comparative=True,
        ),
    ),
    measure=measure,
    note=Text(
        "Neither is any part of the forward pass at inference: both act through the weights that training left. Whether one "
        "leaves a larger trace in them is what the last criterion measures.",
        "추론 시의 순전파에는 둘 다 들어 있지 않으며, 둘 다 학습이 남긴 가중치를 통해 작용한다. 어느 쪽이 더 큰 흔적을 남기는지를 마지막 "
        "기준이 잰다.",
    ),
    own=own,
    needs=("none", "drop0.5", "middle:L2"),
    cost=0.1,
)
