"""Monte Carlo: the mean over K masks instead of all of them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from allmasks.explain import montecarlo
from allmasks.explain.montecarlo import MonteCarloStudy, Point
from allmasks.lab.controls import rate_control, say
from allmasks.lab.protocol import Answer, Chapter, Control, Question, words
from allmasks.language import Text
from allmasks.report.figures import layout, line
from allmasks.samplers import Antithetic, Independent, LatinHypercube, Sampler

SAMPLERS: dict[str, Sampler] = {
    "independent": Independent(),
    "antithetic": Antithetic(),
    "latin": LatinHypercube(),
}
NAMES = {
    "independent": Text("independent", "독립"),
    "antithetic": Text("antithetic pairs", "대조 쌍 (antithetic)"),
    "latin": Text("Latin hypercube", "라틴 하이퍼큐브"),
}
UNITS, REPLICATES = 30, 24
ROWS = 16
SIZES = tuple(2**i for i in range(13))


@cache
def study(p: float, draws: str) -> MonteCarloStudy:
    """The worked example of `allmasks explain montecarlo`, of 30 units, by this sampler."""
    return montecarlo(UNITS, p, replicates=REPLICATES, sampler=SAMPLERS[draws])


def work(p: float, k: int, draws: str) -> Answer:
    if p == 0:
        return _no_noise()
    found, plain = study(p, draws), study(p, "independent")
    point = next(row for row in found.points if row.n_masks == k)
    figure = _figure(found, plain, point, p, draws)
    gain = (point.predicted_error / point.observed_error) ** 2
    numbers = (
        words("expected", "E_m[L], exactly", "E_m[L], 정확한 값", found.exact, found.exact_error, "exact"),
        words(
            "mean",
            "mean over K masks, one run",
            "마스크 K개의 평균 (한 번)",
            point.first_mean,
            point.observed_error,
            "statistical",
        ),
        words("observed", "typical error of K masks", "마스크 K개의 전형적인 오차", point.observed_error),
        words("predicted", "sd/√K", "sd/√K", point.predicted_error),
        words("slope", "slope of the line, by the law −1/2", "선의 기울기 (법칙대로면 −1/2)", found.slope),
        words("gain", "worth so many times as many independent masks", "독립 마스크 몇 배에 해당하는지", gain),
    )
    sentence = Text(
        f"{UNITS} units have 2^{UNITS} masks, and E_m[L] = {say(found.exact)} over all of them. The mean over K = {k} "
        f"mask{'s' if k > 1 else ''} ({NAMES[draws].en}) is typically off by {say(point.observed_error)}; sd/√K says "
        f"{say(point.predicted_error)} for independent ones. Below, the units kept by the first {ROWS} masks.",
        f"유닛 {UNITS}개의 마스크는 2^{UNITS}개이고, 그 전체에 대한 E_m[L]은 {say(found.exact)}입니다. 마스크 K = {k}개"
        f"({NAMES[draws].ko})의 평균은 보통 {say(point.observed_error)}만큼 빗나갑니다. 독립 추출이면 sd/√K = "
        f"{say(point.predicted_error)}입니다. 아래는 처음 마스크 {ROWS}개에서 살아남은 유닛입니다.",
    )
    return Answer(figure, numbers, sentence)


def _figure(found: MonteCarloStudy, plain: MonteCarloStudy, point: Point, p: float, draws: str) -> dict[str, Any]:
    """Errors over K by this sampler and by the law, above the first masks that it draws."""
    ks = [row.n_masks for row in found.points]
    masks = SAMPLERS[draws].draw(0, 1, np.arange(ROWS), np.array([0]), np.full(UNITS, 1 - p))[:, 0]
    rows, columns = np.nonzero(masks)
    law = Text("sd/√K, independent draws", "sd/√K, 독립 추출")
    return {
        "data": [
            line(ks, [row.predicted_error for row in plain.points], "@muted", dash="dash", name=law),
            {
                **line(ks, [row.observed_error for row in found.points], "@accent", name=NAMES[draws]),
                "mode": "lines+markers",
            },
            {
                "type": "scatter",
                "mode": "markers",
                "x": [point.n_masks],
                "y": [point.observed_error],
                "name": Text(f"K = {point.n_masks}", f"K = {point.n_masks}"),
                "marker": {"color": "@second", "symbol": "diamond", "size": 13},
            },
            {
                "type": "scatter",
                "mode": "markers",
                "x": columns + 1,
                "y": rows,
                "xaxis": "x2",
                "yaxis": "y2",
                "showlegend": False,
                "hoverinfo": "skip",
                "marker": {"color": "@accent", "symbol": "square", "size": 7},
            },
        ],
        "layout": layout(
            height=640,
            legend=True,
            xaxis={"type": "log", "dtick": 1, "title": {"text": Text("masks K", "마스크 수 K")}, "anchor": "y"},
            yaxis={
                "type": "log",
                "dtick": 1,
                "title": {"text": Text("typical error (RMS)", "전형적인 오차 (RMS)")},
                "domain": [0.45, 1],
            },
            xaxis2={"title": {"text": Text("unit", "유닛")}, "anchor": "y2", "showgrid": False, "zeroline": False},
            yaxis2={
                "title": {"text": Text("mask 1 … 16", "마스크 1 … 16")},
                "domain": [0, 0.3],
                "range": [ROWS - 0.5, -0.5],
                "showticklabels": False,
                "showgrid": False,
                "zeroline": False,
                "anchor": "x2",
            },
        ),
    }


def _no_noise() -> Answer:
    empty = layout(height=320, xaxis={"visible": False}, yaxis={"visible": False})
    said = Text(
        "At p = 0 there is one mask only, which keeps every unit: nothing is random, and one mask gives the exact mean.",
        "p = 0이면 모든 유닛을 유지하는 마스크 하나뿐입니다. 무작위인 것이 없으므로 마스크 하나로 정확한 평균을 얻습니다.",
    )
    return Answer({"data": [], "layout": empty}, (), said)


def code(p: float, k: int, draws: str) -> str:
    return f"""\
import allmasks as am
from allmasks.explain import montecarlo

study = montecarlo({UNITS}, {p}, replicates={REPLICATES}, sampler=am.samplers.{SAMPLERS[draws]!r})
point = next(row for row in study.points if row.n_masks == {k})
print("E_m[L]", study.exact, "mean of K", point.first_mean, "typical error", point.observed_error, "slope", study.slope)
"""


CHAPTER = Chapter(
    number=5,
    key="monte-carlo",
    title=Text("Monte Carlo: K masks for all of them", "몬테카를로 근사: 마스크 K개로 전체를 대신하기"),
    asks=Text("How good is the mean over a few random masks?", "무작위 마스크 몇 개의 평균은 얼마나 정확합니까?"),
    says=Text(
        "E_m[L] ≈ 1/K Σₖ L(f(x; m⁽ᵏ⁾, θ), y): draw at random and take the mean. Training is the case K = 1 at each step.",
        "E_m[L] ≈ 1/K Σₖ L(f(x; m⁽ᵏ⁾, θ), y), 곧 무작위로 뽑아 평균을 대신 씁니다. 드롭아웃 학습은 매 스텝 K = 1인 경우입니다.",
    ),
    section=Text("Monte Carlo approximation, 1–5", "Monte Carlo 근사, 1–5"),
    controls=(
        rate_control(),
        Control("k", Text("masks K", "마스크 수 K"), SIZES, 16),
        Control(
            "draws",
            Text("how masks are drawn", "마스크를 뽑는 방법"),
            tuple(SAMPLERS),
            "independent",
            kind="choice",
            names=NAMES,
        ),
    ),
    work=work,
    to_try=Text(
        "Start at K = 1, as training does, and go up: four times the masks halve the error. Then change how masks are "
        "drawn, and look for the pattern in the rows of squares: at p = 0.5 one of an antithetic pair keeps what the other drops.",
        "학습처럼 K = 1에서 시작해 늘려 보십시오. 마스크가 네 배가 되면 오차는 절반이 됩니다. 그런 다음 뽑는 방법을 바꾸고 "
        "사각형 행들의 무늬를 찾아보십시오. p = 0.5의 대조 쌍에서는 한쪽이 유지한 유닛을 다른 쪽이 끕니다.",
    ),
    question=Question(
        Text(
            "By which factor do you have to multiply K to divide the error by 4 (independent draws)?",
            "독립 추출에서 오차를 4분의 1로 줄이려면 K를 몇 배로 늘려야 합니까?",
        ),
        lambda: 16.0,
        0.5,
        Text("Compare sd/√K at K and at 4K, 16K.", "K, 4K, 16K에서 sd/√K를 비교해 보십시오."),
    ),
    code=code,
    terms=Text(
        "A network has far too many masks to try each. So K of them are drawn at random, and the mean of their K "
        "losses stands for E_m[L], the mean over all: as a survey asks a few people instead of everyone. The "
        "typical error is how far such a mean is usually off; sd (standard deviation) is how much the loss "
        "differs from mask to mask. Both axes go up by factors, so a line that falls evenly is a power of K. Each "
        "row of squares below is one mask, each square a unit it keeps.",
        "신경망의 마스크는 하나하나 다 시험하기에 너무 많습니다. 그래서 무작위로 K개를 뽑아 손실 K개의 평균으로 전체 평균 E_m[L]을 대신합니다. 모든 사람 대신 몇 "
        "사람에게 묻는 여론 조사와 같습니다. 전형적인 오차는 그런 평균이 보통 얼마나 빗나가는지이고, sd(표준편차)는 손실이 마스크마다 얼마나 다른지입니다. 두 축 모두 로그 "
        "눈금이므로 고르게 내려가는 직선은 K의 거듭제곱을 뜻합니다. 아래 사각형의 한 행이 마스크 하나, 사각형 하나가 살아남은 유닛 하나입니다.",
    ),
)
