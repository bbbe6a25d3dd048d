"""For a linear model and squared loss dropout is a weighted L2 penalty, and SGD with masks finds the ridge solution."""

from __future__ import annotations

import numpy as np

from allmasks.dropped_scores import expected_score_loss
from allmasks.evidence.claim import Claim, Criterion, Numbers, Picture, Text, Values
from allmasks.evidence.drawing import RATE, band
from allmasks.evidence.linear import linear_problem, ridge_weights
from allmasks.evidence.shared_nets import Lab
from allmasks.methods import Enumeration

_P = 0.5
_RATES = (0.1, 0.3, 0.5, 0.7, 0.9)


def own(lab: Lab, dataset: str, seed: int) -> Numbers:
    X, y = linear_problem(lab.data(dataset), seed, features=10)
    rng = np.random.default_rng([seed, 2])
    w = rng.normal(size=X.shape[1])
    off = []
    for p in _RATES:
        by_formula = np.mean((X @ w - y) ** 2) + p / (1 - p) * np.mean(X**2, axis=0) @ w**2
        by_masks = float(expected_score_loss(w, X[:60], y[:60], p, loss="squared_error", method=Enumeration()).value)
        by_formula = np.mean((X[:60] @ w - y[:60]) ** 2) + p / (1 - p) * np.mean(X[:60] ** 2, axis=0) @ w**2
        off.append(float(by_masks / by_formula - 1))
    p = 0.0 if lab.settings.null else _P
    plain, ridge = ridge_weights(X, y, 0.0), ridge_weights(X, y, _P)
    steps = 4000 if lab.settings.quick else 12000
    found = _sgd(X, y, p, steps, rng)
    scale = np.linalg.norm(plain - ridge)
    return {
        "identity": off[_RATES.index(_P)],
        "off": off,
        "distance": float(np.linalg.norm(found - ridge) / scale),
        "nearer": float((np.linalg.norm(found - plain) - np.linalg.norm(found - ridge)) / scale),
    }


def _sgd(X: np.ndarray, y: np.ndarray, p: float, steps: int, rng: np.random.Generator) -> np.ndarray:
    """Least squares by SGD on batches of 32, a fresh mask for each row; the mean of the second half of the steps."""
    w, mean, batch = np.zeros(X.shape[1]), np.zeros(X.shape[1]), 32
    rate = 0.2 / (X.shape[1] * np.mean(X**2) / (1 - p))
    for step in range(steps):
        rows = rng.integers(len(X), size=batch)
        x = X[rows] * (rng.random((batch, X.shape[1])) >= p) / (1 - p)
        w -= rate * 2 * x.T @ (x @ w - y[rows]) / batch
        if step >= steps // 2:
            mean += w / (steps - steps // 2)
    return mean


def measure(lab: Lab, dataset: str) -> Values:
    return {name: lab.own("ridge", dataset, name).tolist() for name in ("identity", "distance", "nearer")}


def pictures(lab: Lab) -> list[Picture]:
    return [
        Picture(
            Text("All 2¹⁰ masks against loss + weighted L2", "2¹⁰개 마스크 전체와 (손실 + 가중 L2)의 차이"),
            RATE,
            Text("relative difference", "상대 차이"),
            [band(Text(d, d), _RATES, lab.own("ridge", d, "off"), points=True) for d in lab.settings.linear_datasets],
        )
    ]


CLAIM = Claim(
    number=2,
    key="ridge",
    title=Text("Linear model, squared loss: dropout is ridge", "선형·제곱손실: 드롭아웃 = 릿지"),
    sentence=Text(
        "Dropout = (scaled) ridge regularization; exact for input dropout, squared loss and a linear model.",
        "Dropout = (스케일된) Ridge 정규화 (선형·제곱손실·입력 드롭아웃의 경우에 한해 정확)",
    ),
    section=Text("Closed form for linear regression", "3. 선형회귀에서의 닫힌형식: 가중 L2 패널티"),
    criteria=(
        Criterion(
            "identity",
            Text(
                "The mean over all 1,024 masks equals loss + weighted L2 to 10⁻⁹ of it (p = 0.5)",
                "마스크 1,024개 전체의 평균이 손실 + 가중 L2와 상대 오차 10⁻⁹ 안에서 같다 (p = 0.5)",
            ),
            1e-9,
            "agreement",
        ),
        Criterion(
            "distance",
            Text(
                "SGD with masks ends within a tenth of the way from the ridge solution to the plain one",
                "마스크를 쓴 SGD의 해가 릿지 해에서, 일반 해까지 거리의 1/10 안에 있다",
            ),
            0.1,
            "agreement",
        ),
        Criterion(
            "nearer",
            Text(
                "SGD with masks ends nearer to the ridge solution than to the plain one, by half their distance",
                "마스크를 쓴 SGD의 해가 일반 해보다 릿지 해에 가깝다 (두 해 사이 거리의 절반 이상)",
            ),
            0.5,
        ),
    ),
    measure=measure,
    note=Text(
        "The penalty is that of ridge with λⱼ = n·p/(1−p)·E[xⱼ²]: one λ only where all columns have the same second "
        "moment. The notes' example (w = (1, −1, 2), x = (1, 2, −1), p = 0.5) gives 9 + 9 = 18.",
        "페널티는 λⱼ = n·p/(1−p)·E[xⱼ²]인 릿지와 같다. 모든 열의 2차 모멘트가 같을 때만 λ 하나로 쓸 수 있다. "
        "노트의 예시 w = (1, −1, 2), x = (1, 2, −1), p = 0.5는 9 + 9 = 18이다.",
    ),
    own=own,
    pictures=pictures,
    linear=True,
)
