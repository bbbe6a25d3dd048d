"""Training with masks resembles training an ensemble of thinned nets."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from allmasks.evidence.claim import Claim, Criterion, Numbers, Picture, Text, Values
from allmasks.evidence.drawing import band
from allmasks.evidence.nets import member_masks
from allmasks.evidence.shared_nets import Lab


def own(lab: Lab, dataset: str, seed: int) -> Numbers:
    x, y = lab.tensors(dataset, seed, "test")
    members = torch.stack([_member(lab, dataset, arm, seed, x) for arm in lab.settings.thinned])
    ensemble = members.mean(0)
    with torch.no_grad():
        nets = {arm: lab.net(dataset, arm, seed)(x).softmax(1) for arm in ("none", "drop0.5")}

    def loss(probability: torch.Tensor) -> float:
        return float(F.nll_loss(probability.clamp(min=1e-12).log(), y))

    found: dict[str, Any] = {"ensemble": loss(ensemble)}
    for arm, probability in nets.items():
        found[f"distance {arm}"] = float((probability - ensemble).abs().sum(1).mean() / 2)
        found[f"loss {arm}"] = loss(probability)
    found["member"] = sum(loss(member) for member in members) / len(members)
    return found


def _member(lab: Lab, dataset: str, arm: str, seed: int, x: torch.Tensor) -> torch.Tensor:
    """Class probabilities of one thinned net: its weights, and the mask that it was trained under."""
    settings = lab.settings
    fixed = member_masks(settings.arms[arm], settings.seeds, settings.width(dataset))
    assert fixed is not None
    i = settings.seeds.index(seed)
    net = lab.net(dataset, arm, seed, p=0.0)
    with torch.no_grad():
        h = net[0](x).relu() * fixed[0][i].double()
        h = net[3](h).relu() * fixed[1][i].double()
        return net[6](h).softmax(1)


def measure(lab: Lab, dataset: str) -> Values:
    own = {
        n: lab.own("ensemble", dataset, n)
        for n in ("ensemble", "distance none", "distance drop0.5", "loss none", "loss drop0.5")
    }
    return {
        "distance": (own["distance none"] - own["distance drop0.5"]).tolist(),
        "loss": (abs(own["loss none"] - own["ensemble"]) - abs(own["loss drop0.5"] - own["ensemble"])).tolist(),
    }


def pictures(lab: Lab) -> list[Picture]:
    rows = (
        ("loss none", Text("no dropout", "드롭아웃 없음")),
        ("loss drop0.5", Text("dropout, p = 0.5", "드롭아웃, p = 0.5")),
        ("member", Text("one thinned net", "솎은 망 하나")),
        ("ensemble", Text("ensemble of 6 thinned nets", "솎은 망 6개의 앙상블")),
    )
    places = list(range(len(lab.settings.datasets)))
    return [
        Picture(
            Text("Test loss", "테스트 손실"),
            Text("data", "데이터"),
            Text("test loss (nats)", "테스트 손실 (nats)"),
            [
                band(
                    name,
                    places,
                    torch.tensor([lab.own("ensemble", d, key).tolist() for d in lab.settings.datasets]).T.numpy(),
                    points=True,
                )
                for key, name in rows
            ],
            categories=[Text(d, d) for d in lab.settings.datasets],
        )
    ]


CLAIM = Claim(
    number=21,
    key="ensemble",
    title=Text("Training with masks is like training an ensemble", "마스크 학습은 서브네트워크 앙상블 학습과 같다"),
    sentence=Text(
        "Training is equivalent to having trained a stochastic ensemble of these subnetworks.",
        "학습은 이 서브네트워크들의 확률적 앙상블을 학습한 것과 동등",
    ),
    section=Text("The ensemble reading", "5. 앙상블 해석"),
    criteria=(
        Criterion(
            "distance",
            Text(
                "The dropout net's class probabilities are nearer to those of an ensemble of 6 separately trained thinned nets "
                "than a plain net's, by 0.005 (total variation) or more",
                "드롭아웃 신경망의 클래스 확률이 따로 학습한 솎은 망(thinned net) 6개의 앙상블에, 일반 신경망보다 0.005(총변동 거리) 이상 가깝다",
            ),
            0.005,
            comparative=True,
        ),
        Criterion(
            "loss",
            Text(
                "Its test loss is nearer to the ensemble's than a plain net's, by 0.01 nats or more",
                "테스트 손실이 일반 신경망보다 0.01 nats 이상 앙상블에 가깝다",
            ),
            0.01,
            comparative=True,
        ),
    ),
    measure=measure,
    note=Text(
        "A thinned net keeps each hidden unit with probability 1/2, once and for all, and is trained alone. Dropout's "
        "subnetworks share their weights, these do not.",
        "솎은 망은 은닉 유닛을 1/2 확률로 한 번 골라 고정한 뒤 따로 학습한 것이다. 드롭아웃의 서브네트워크는 가중치를 공유하지만 이들은 "
        "그렇지 않다.",
    ),
    own=own,
    pictures=pictures,
    needs=("none", "drop0.5", *(f"thinned {m}" for m in range(6))),
    cost=0.2,
)
