"""What the full run asks of its nets, in the form of the claims: readings from the results of paired seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from allmasks.evidence.claim import Claim, Criterion, Picture, Series, Values
from allmasks.evidence.claims import CLAIMS
from allmasks.evidence.drawing import NONE, band
from allmasks.language import Text

__all__ = ["CONTRASTS", "FULL_CLAIMS", "Contrast", "Results", "pictures", "readings"]

Results = Mapping[tuple[str, str, int], Mapping[str, float]]
"""(experiment, arm, seed) -> what came of it."""


def _only(*_: Any) -> Values:
    raise NotImplementedError("it is measured by the full run")


MAX_NORM = Claim(
    number=29,
    key="max_norm",
    title=Text("Max-norm and dropout together beat dropout alone", "max-norm을 함께 쓰면 드롭아웃만 쓸 때보다 낫다"),
    sentence=Text(
        "Dropout with max-norm regularization gives a further gain: 1.25 % to 1.05 % on MNIST (Srivastava et al. 2014).",
        "드롭아웃에 max-norm을 더하면 오류율이 더 준다: MNIST에서 1.25 % → 1.05 % (Srivastava 외 2014).",
    ),
    section=Text("Srivastava et al. 2014, table 9", "Srivastava 외 2014, 표 9"),
    criteria=(
        Criterion(
            "accuracy",
            Text("Test accuracy rises by 0.1 points or more", "테스트 정확도가 0.1 %p 이상 오른다"),
            0.001,
            comparative=True,
        ),
    ),
    measure=_only,
    note=Text("Rows of incoming weights are held to a norm of 3.", "유닛의 입력 가중치 노름을 3 이하로 유지한다."),
)

REGRESSION = Claim(
    number=30,
    key="regression",
    title=Text("Dropout improves regression on tables", "표 형식 회귀에서도 드롭아웃이 낫다"),
    sentence=Text(
        "Where a net has few inputs and a real target, dropout lowers the test error too.",
        "입력이 적은 회귀 문제에서도 드롭아웃이 테스트 오차를 줄인다.",
    ),
    section=Text("Gal & Ghahramani 2016, table 1 (small rates)", "Gal & Ghahramani 2016, 표 1 (작은 드롭율)"),
    criteria=(
        Criterion(
            "rmse",
            Text("Test RMSE falls by 0.01 target spreads or more", "테스트 RMSE가 목표 표준편차의 0.01 이상 줄어든다"),
            0.01,
            comparative=True,
        ),
    ),
    measure=_only,
    note=Text("p = 0.1 in both layers of 50 units.", "유닛 50개 층 두 개, p = 0.1."),
)

OVERFITTING = next(claim for claim in CLAIMS if claim.key == "overfitting")
FULL_CLAIMS = (OVERFITTING, MAX_NORM, REGRESSION)


class Contrast:
    """One criterion of one claim on one experiment: treated less untreated, seed by seed."""

    def __init__(self, claim: Claim, criterion: str, treated: str, untreated: str) -> None:
        self.claim, self.treated, self.untreated = claim, treated, untreated
        self.criterion = next(c for c in claim.criteria if c.key == criterion)

    def asks(self, experiment: str) -> bool:
        """Whether it is about an experiment of this kind."""
        return experiment.startswith("table ") == (self.claim is REGRESSION)

    def effect(self, treated: Mapping[str, float], untreated: Mapping[str, float]) -> float:
        """One seed's effect."""
        key = self.criterion.key
        if key == "gap":
            return _gap(untreated) - _gap(treated)
        if key == "accuracy":
            return treated["test_accuracy"] - untreated["test_accuracy"]
        name = "test_rmse" if key == "rmse" else "test_loss"
        return untreated[name] - treated[name]


def _gap(scores: Mapping[str, float]) -> float:
    return scores["train_accuracy"] - scores["test_accuracy"]


CONTRASTS = (
    *(Contrast(OVERFITTING, key, "dropout", "none") for key in ("gap", "test", "accuracy")),
    Contrast(MAX_NORM, "accuracy", "max-norm + dropout", "dropout"),
    Contrast(REGRESSION, "rmse", "dropout", "none"),
)


def readings(contrast: Contrast, experiment: str, results: Results) -> tuple[float, ...]:
    """One effect for each seed that both arms have."""
    treated, untreated = contrast.treated, contrast.untreated
    seeds = sorted(s for e, arm, s in results if e == experiment and arm == treated)
    return tuple(
        contrast.effect(results[experiment, treated, s], results[experiment, untreated, s])
        for s in seeds
        if (experiment, untreated, s) in results
    )


def pictures(results: Results) -> dict[str, list[Picture]]:
    """MNIST's test error and the gain by the number of training images."""
    sizes = sorted({int(e.split()[1]) for e, _, _ in results if e.startswith("mnist ") and "conv" not in e})
    names = {
        "none": NONE,
        "dropout": Text("dropout", "드롭아웃"),
        "max-norm + dropout": Text("max-norm + dropout", "max-norm + 드롭아웃"),
    }
    images, error = Text("training images", "학습 이미지 수"), Text("test error (%)", "테스트 오류율 (%)")
    lines: list[Series] = []
    gains: list[Series] = []
    for arm, name in names.items():
        points, gain = [], []
        for n in sizes:
            e = f"mnist {n}"
            seeds = sorted(s for x, a, s in results if x == e and a == arm)
            errors = [100 * (1 - results[e, arm, s]["test_accuracy"]) for s in seeds]
            both = [s for s in seeds if (e, "none", s) in results]
            if len(errors) > 1:
                points.append((n, errors))
            if arm != "none" and len(both) > 1:
                gain.append(
                    (
                        n,
                        [
                            100 * (results[e, arm, s]["test_accuracy"] - results[e, "none", s]["test_accuracy"])
                            for s in both
                        ],
                    )
                )
        for found, into in ((points, lines), (gain, gains)):
            if found:
                into.append(_joined(name, found))
    if not lines:
        return {}
    drawn = [Picture(Text("MNIST by size", "MNIST 데이터 크기별"), images, error, lines, log_x=True, log_y=True)]
    if gains:
        points_ = Text("points of accuracy over no dropout", "드롭아웃 없음 대비 정확도 (%p)")
        drawn.append(Picture(Text("Gain by size", "데이터 크기별 이득"), images, points_, gains, log_x=True))
    return {OVERFITTING.key: drawn}


def _joined(name: Text, points: list[tuple[int, list[float]]]) -> Series:
    """One band over places that have different numbers of seeds."""
    parts = [band(name, [n], np.array(values)[:, None]) for n, values in points]
    x, y = ([v for part in parts for v in getattr(part, side)] for side in ("x", "y"))
    low, high = ([v for part in parts for v in (getattr(part, side) or [])] for side in ("low", "high"))
    return Series(name, x, y, low, high)
