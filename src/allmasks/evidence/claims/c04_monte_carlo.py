"""K masks: the error falls as 1/√K, and training with K = 1 minimizes E_m[L]."""

from __future__ import annotations

import numpy as np

from allmasks.evidence.claim import Claim, Criterion, Numbers, Picture, Text, Values
from allmasks.evidence.drawing import EPOCH, band, dataset_title
from allmasks.evidence.shared_nets import Lab
from allmasks.methods import MonteCarlo
from allmasks.samplers import Independent

_K = (1, 2, 4, 8, 16)
_MASKS = 1024


def own(lab: Lab, dataset: str, seed: int) -> Numbers:
    from allmasks.expect import Request, prepare

    problem = prepare(
        lab.net(dataset, "drop0.5", seed, p=0.5), *lab.tensors(dataset, seed, "test", 24), "cross_entropy"
    )
    run = problem.expected(Request(MonteCarlo(n_masks=_MASKS, sampler=Independent()), seed=seed), grad=False)
    assert run.replicates is not None
    losses = run.replicates.double().numpy()
    # The scale of the loss is each net's own; its spread at K = 1 is taken as the unit.
    error = [float(losses.reshape(-1, k).mean(1).std(ddof=1)) for k in _K]
    return {"error": (np.array(error) / error[0]).tolist(), "slope": float(np.polyfit(np.log(_K), np.log(error), 1)[0])}


def measure(lab: Lab, dataset: str) -> Values:
    one, eight = lab.curves(dataset, "drop0.5")["expected"], lab.curves(dataset, "drop0.5, 8 masks")["expected"]
    return {
        "slope": (lab.own("monte_carlo", dataset, "slope") + 0.5).tolist(),
        "falls": (1 - one[:, -1] / one[:, 0]).tolist(),
        "same": ((one[:, -1] - eight[:, -1]) / one[:, 0]).tolist(),
    }


def pictures(lab: Lab) -> list[Picture]:
    dataset = lab.settings.datasets[0]
    curves = [(name, lab.curves(dataset, name)) for name in ("drop0.5", "drop0.5, 8 masks")]
    labels = (
        Text("K = 1 mask a step", "스텝마다 마스크 K = 1개"),
        Text("K = 8 masks a step", "스텝마다 마스크 K = 8개"),
    )
    return [
        Picture(
            Text("Error of the mean over K masks", "마스크 K개 평균의 오차"),
            Text("number of masks K", "마스크 수 K"),
            Text("standard deviation, K = 1 is 1", "표준편차 (K = 1을 1로)"),
            [
                *(band(Text(d, d), _K, lab.own("monte_carlo", d, "error"), points=True) for d in lab.settings.datasets),
                band(Text("1/√K", "1/√K"), _K, 1 / np.sqrt(_K)),
            ],
            log_x=True,
            log_y=True,
        ),
        Picture(
            dataset_title("E_m[L] during training", "학습 중의 E_m[L]", dataset),
            EPOCH,
            Text("E_m[L] on the training rows", "학습 데이터의 E_m[L]"),
            [band(label, c["epochs"], c["expected"]) for label, (_, c) in zip(labels, curves, strict=True)],
        ),
    ]


CLAIM = Claim(
    number=4,
    key="monte_carlo",
    title=Text(
        "A mean over K masks approximates E_m[L]; K = 1 trains it",
        "마스크 K개의 평균이 E_m[L]을 근사하고, K = 1로 학습된다",
    ),
    sentence=Text(
        "Draw a few masks at random and average: the mean comes closer and closer to the true expectation. Training repeats "
        "this approximation with K = 1, and in the long run approximates the mean over all masks well.",
        "랜덤하게 샘플 몇 개 뽑아서 평균 내면, 원래 기대값에 점점 가까워진다. 즉, K=1짜리 몬테카를로 근사를 반복적으로 "
        "수행하는 것 → 장기적으로는 “모든 마스크 평균”을 잘 근사",
    ),
    section=Text("Monte Carlo approximation", "몬테카를로 근사"),
    criteria=(
        Criterion(
            "slope",
            Text("log error against log K has slope −1/2, to 0.05", "로그 오차 대 로그 K의 기울기가 −1/2 (±0.05)"),
            0.05,
            "agreement",
        ),
        Criterion(
            "falls",
            Text("Training with K = 1 lowers E_m[L] by at least half", "K = 1 학습이 E_m[L]을 절반 이상 낮춘다"),
            0.5,
        ),
        Criterion(
            "same",
            Text(
                "K = 1 and K = 8 masks a step end at the same E_m[L], to 5 % of where they began",
                "스텝마다 K = 1과 K = 8의 최종 E_m[L]이 시작값의 5 % 안에서 같다",
            ),
            0.05,
            "agreement",
        ),
    ),
    measure=measure,
    note=Text(
        "The analogy of the notes: the mean income of a country, estimated from 1,000 people drawn at random.",
        "노트의 비유: 전국 평균 소득을 무작위 1,000명의 평균으로 추정하는 것과 같다.",
    ),
    own=own,
    pictures=pictures,
    needs=("drop0.5", "drop0.5, 8 masks"),
    cost=1.0,
)
