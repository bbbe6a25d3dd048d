"""The expectation over all masks of a hundred units cannot be computed."""

from __future__ import annotations

import numpy as np

from allmasks.evidence.claim import Claim, Criterion, Numbers, Text, Values
from allmasks.evidence.linear import binary_problem, logistic_weights
from allmasks.evidence.shared_nets import Lab
from allmasks.methods import Fourier, MonteCarlo

_UNITS = 100


def own(lab: Lab, dataset: str, seed: int) -> Numbers:
    """A logistic model on 100 random ReLU features, dropped out: exactly, and by 2,048 masks; and a deep net's plan."""
    from allmasks.dropped_scores import expected_score_loss
    from allmasks.expect import Request, prepare

    X, y = binary_problem(lab.data(dataset), seed, features=10_000, n=100)
    rng = np.random.default_rng([seed, 25])
    H = np.maximum(X @ rng.normal(size=(X.shape[1], _UNITS)) / np.sqrt(X.shape[1]), 0.0)
    w = logistic_weights(H, y)
    exact = expected_score_loss(w, H, y, 0.5, method=Fourier())
    sampled = expected_score_loss(w, H, y, 0.5, method=MonteCarlo(n_masks=2048), seed=seed)
    z = (float(sampled.value) - float(exact.value)) / float(sampled.error)
    problem = prepare(
        lab.net(dataset, "drop0.5", seed, p=0.5), *lab.tensors(dataset, seed, "test", 20), "cross_entropy"
    )
    exactly = [o for o in problem.plan(Request()).options if o.applies and o.guarantee == "exact"]
    return {
        "error": float(exact.error),
        "z": z,
        "shallow": -1.0 if float(exact.error) < 1e-9 and abs(z) < 4.5 else 1.0,
        "deep": -1.0 if exactly else 1.0,
    }


def measure(lab: Lab, dataset: str) -> Values:
    return {name: lab.own("impossible", dataset, name).tolist() for name in ("shallow", "deep")}


CLAIM = Claim(
    number=25,
    key="impossible",
    title=Text("With 100 units the exact expectation is impossible", "유닛 100개면 정확한 기대값은 계산할 수 없다"),
    sentence=Text(
        "With 100 hidden units there are 2¹⁰⁰ cases: in effect impossible. So the exact expectation cannot be computed.",
        "은닉 유닛이 100개라면 경우의 수는 2¹⁰⁰ → 사실상 불가능. 따라서 정확한 기대값 계산은 불가능합니다.",
    ),
    section=Text("The problem: computing the expectation directly", "2. 문제: 기대값 직접 계산 불가능"),
    criteria=(
        Criterion(
            "shallow",
            Text(
                "100 units before one logistic output: no method gives E_m[L] to 10⁻⁹ (it does: −1; it does not: +1)",
                "로지스틱 출력 하나 앞의 유닛 100개: E_m[L]을 10⁻⁹까지 주는 방법이 없다 (있으면 −1, 없으면 +1)",
            ),
            0.5,
        ),
        Criterion(
            "deep",
            Text(
                "Two dropped-out layers and a softmax: no exact method applies (one does: −1; none: +1)",
                "드롭아웃 층 둘과 소프트맥스: 적용할 수 있는 정확한 방법이 없다 (있으면 −1, 없으면 +1)",
            ),
            0.5,
        ),
    ),
    measure=measure,
    note=Text(
        "For one score, E log(1 + e^S) over all 2¹⁰⁰ masks is a line integral of the score's characteristic function, which is "
        "a product of 100 factors. The value is checked against 2,048 sampled masks (|z| < 4.5).",
        "점수 하나에 대해서는 2¹⁰⁰개 마스크 전체의 E log(1 + e^S)가 특성함수(인수 100개의 곱)의 선적분 하나로 계산된다. 값은 "
        "마스크 2,048개의 표본 평균과 대조했다 (|z| < 4.5).",
    ),
    own=own,
    needs=("drop0.5",),
    cost=0.6,
)
