"""Weight scaling stands for the ensemble's mean: exactly for linear models, nearly for deep ones."""

from __future__ import annotations

import numpy as np
import torch

from allmasks.evidence.claim import Claim, Criterion, Numbers, Picture, Text, Values
from allmasks.evidence.drawing import RATE, band
from allmasks.evidence.linear import binary_problem, logistic_weights
from allmasks.evidence.shared_nets import Lab
from allmasks.masks import MaskLaw

_P = 0.5
_FEATURES = 10
_MASKS = 256


def own(lab: Lab, dataset: str, seed: int) -> Numbers:
    X, y = binary_problem(lab.data(dataset), seed, features=_FEATURES)
    w = logistic_weights(X, y)
    law = MaskLaw(_P, (X.shape[1],))
    masks = law.enumerate()
    probability, noise = np.exp(law.log_prob(masks)), law.noise(masks)
    scores = (X[:50] * w) @ noise.T
    at_mean = X[:50] @ w
    on, off = -np.logaddexp(0, -scores) @ probability, -np.logaddexp(0, scores) @ probability
    geometric = 1 / (1 + np.exp(off - on))
    scaled = 1 / (1 + np.exp(-at_mean))
    arithmetic = (1 / (1 + np.exp(-scores))) @ probability
    found = {
        "linear": float(np.abs(scores @ probability - at_mean).max() / np.abs(at_mean).max()),
        "geometric": float(np.abs(geometric - scaled).max()),
        "arithmetic": float(np.abs(arithmetic - scaled).mean()),
    }
    distances, accuracies = [], []
    for rate in lab.settings.rates:
        net = lab.net(dataset, f"drop{rate:g}", seed, p=rate)
        x, target = lab.tensors(dataset, seed, "test")
        mean, single = _mean_probability(net, x, seed)
        distances.append(float((mean - single).abs().sum(1).mean() / 2))
        accuracies.append(
            float((mean.argmax(1) == target).double().mean() - (single.argmax(1) == target).double().mean())
        )
    return found | {"deep": distances, "accuracy": accuracies}


def _mean_probability(net: torch.nn.Sequential, x: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        single = net.eval()(x).softmax(1)
        torch.manual_seed(seed)
        net.train()
        mean = torch.zeros_like(single)
        for _ in range(_MASKS):
            mean += net(x).softmax(1) / _MASKS
        net.eval()
    return mean, single


def measure(lab: Lab, dataset: str) -> Values:
    at = lab.settings.rates.index(_P)
    return {
        "linear": lab.own("weight_scaling", dataset, "linear").tolist(),
        "geometric": lab.own("weight_scaling", dataset, "geometric").tolist(),
        "deep": lab.own("weight_scaling", dataset, "deep")[:, at].tolist(),
        "accuracy": lab.own("weight_scaling", dataset, "accuracy")[:, at].tolist(),
    }


def pictures(lab: Lab) -> list[Picture]:
    return [
        Picture(
            Text(
                "Deep net: distance of weight scaling from the ensemble's mean",
                "심층망: 가중치 스케일링과 앙상블 평균의 거리",
            ),
            RATE,
            Text("total variation of class probabilities", "클래스 확률의 총변동 거리"),
            [
                band(Text(d, d), lab.settings.rates, lab.own("weight_scaling", d, "deep"), points=True)
                for d in lab.settings.datasets
            ],
        )
    ]


CLAIM = Claim(
    number=5,
    key="weight_scaling",
    title=Text("One scaled net stands for the ensemble's mean", "스케일된 네트워크 하나가 앙상블 평균을 대신한다"),
    sentence=Text(
        "For inference dropout is switched off and the net is used whose average size has been set right already.",
        "추론 시에는 드롭아웃을 끄고 평균적 크기로 이미 맞춰진 네트워크 사용",
    ),
    section=Text("The ensemble reading", "5. 앙상블 해석"),
    criteria=(
        Criterion(
            "linear",
            Text(
                "Linear score: equal to the mean over all masks, to 10⁻⁹",
                "선형 점수: 모든 마스크의 평균과 10⁻⁹까지 같다",
            ),
            1e-9,
            "agreement",
        ),
        Criterion(
            "geometric",
            Text(
                "One logistic unit: equal to the normalized geometric mean over all masks, to 10⁻⁹ (Baldi & Sadowski 2013)",
                "로지스틱 유닛 하나: 모든 마스크의 정규화 기하평균과 10⁻⁹까지 같다 (Baldi & Sadowski 2013)",
            ),
            1e-9,
            "agreement",
        ),
        Criterion(
            "deep",
            Text(
                "Deep net, p = 0.5: class probabilities within 0.05 (total variation) of the mean over masks",
                "심층망, p = 0.5: 클래스 확률이 마스크 평균에서 총변동 거리 0.05 안에 있다",
            ),
            0.05,
            "agreement",
        ),
        Criterion(
            "accuracy",
            Text(
                "Deep net, p = 0.5: accuracy within one point of the ensemble's",
                "심층망, p = 0.5: 정확도가 앙상블과 1 %p 안에서 같다",
            ),
            0.01,
            "agreement",
        ),
    ),
    measure=measure,
    note=Text(
        "The ensemble is 256 masks. For one logistic unit the arithmetic mean is another number than the geometric one.",
        "앙상블은 마스크 256개. 로지스틱 유닛 하나에서 산술평균은 기하평균과 다른 값이다.",
    ),
    own=own,
    pictures=pictures,
    needs=("drop0.1", "drop0.25", "drop0.5", "drop0.75"),
    cost=1.0,
)
