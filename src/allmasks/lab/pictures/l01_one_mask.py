"""One mask: what dropout does to a vector, once and on the mean."""

from __future__ import annotations

from typing import Any

import numpy as np

from allmasks.explain import moments
from allmasks.lab.controls import rate_control, say
from allmasks.lab.protocol import Answer, Chapter, Control, Question, words
from allmasks.language import Text
from allmasks.masks import MaskLaw
from allmasks.report.figures import layout
from allmasks.samplers import Independent

VECTORS = {
    "notes": (2.0, -1.0, 3.0),
    "equal": (1.0, 1.0, 1.0, 1.0, 1.0),
    "one": (2.0,),
    "steps": (-2.0, -1.0, 0.0, 1.0, 2.0),
}
DRAWS = (*range(1, 21), 30, 50, 100, 200, 500, 1000, 2000, 5000)
SITE, SEED = 1, 0


def draws(h: tuple[float, ...], p: float, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The first n masks (n, d) and dropped-out vectors: by number, so that a longer row begins with the shorter one."""
    law = MaskLaw(p, (len(h),))
    masks = Independent().draw(SEED, SITE, np.arange(n), np.array([0]), law.keep_prob)[:, 0]
    return masks, np.asarray(law.noise(masks) * np.asarray(h))


def work(p: float, n: int, h: str) -> Answer:
    vector = VECTORS[h]
    law = moments(vector, p)
    masks, seen = draws(vector, p, n)
    last, mean = seen[-1], seen.mean(axis=0)
    error = law.std / np.sqrt(n)
    figure = _figure(vector, p, n, last, mean, error)
    kept = int(masks[-1].sum())
    worst = int(np.argmax(abs(mean - vector)))
    numbers = [
        words("scale", "scale of a kept unit, 1/(1−p)", "살아남은 유닛의 스케일, 1/(1−p)", 1 / (1 - p)),
        words("kept", "units kept in this draw", "이번 추출에서 살아남은 유닛", kept),
        *(
            words(
                f"mean{j + 1}",
                f"E[h̃] of unit {j + 1}",
                f"유닛 {j + 1}의 기대값 E[h̃]",
                v,
                abs(law.enumerated_mean[j] - v),
                "exact",
            )
            for j, v in enumerate(law.mean)
        ),
        *(
            words(
                f"variance{j + 1}",
                f"Var(h̃) of unit {j + 1} = p/(1−p) h²",
                f"유닛 {j + 1}의 분산 Var(h̃) = p/(1−p) h²",
                v,
                abs(law.enumerated_variance[j] - v),
                "exact",
            )
            for j, v in enumerate(law.variance)
        ),
        words(
            "sample",
            f"mean of the draws so far, unit {worst + 1}",
            f"지금까지 추출한 것의 평균, 유닛 {worst + 1}",
            mean[worst],
            error[worst],
            "statistical",
        ),
    ]
    sentence = Text(
        f"With p = {say(p)} each unit is dropped with probability {say(p)} and otherwise multiplied by {say(1 / (1 - p))}. "
        f"Draw {n} keeps {kept} of {len(vector)} units. The mean of {n} draw{'s' if n > 1 else ''} is ({_list(mean)}); "
        f"over all {law.n_masks} masks it is exactly h = ({_list(law.mean)}), with variance ({_list(law.variance)}).",
        f"p = {say(p)}이면 각 유닛은 확률 {say(p)}로 0이 되고, 살아남으면 {say(1 / (1 - p))}배가 됩니다. "
        f"{n}번째 추출에서는 유닛 {len(vector)}개 가운데 {kept}개가 살아남았습니다. 추출 {n}개의 평균은 ({_list(mean)})이고, "
        f"마스크 {law.n_masks}개 전체의 평균은 정확히 h = ({_list(law.mean)}), 분산은 ({_list(law.variance)})입니다.",
    )
    return Answer(figure, tuple(numbers), sentence)


def _figure(
    vector: tuple[float, ...], p: float, n: int, last: np.ndarray, mean: np.ndarray, error: np.ndarray
) -> dict[str, Any]:
    """h, the last draw and the mean so far, unit by unit."""
    units = [Text(f"unit {j + 1}", f"유닛 {j + 1}") for j in range(len(vector))]
    place = list(range(len(vector)))
    return {
        "data": [
            {"type": "bar", "name": Text("h", "h"), "x": place, "y": list(vector), "marker": {"color": "@muted"}},
            {
                "type": "bar",
                "name": Text(f"draw {n}", f"{n}번째 추출"),
                "x": place,
                "y": last,
                "marker": {"color": "@accent"},
                "text": [Text("kept", "유지") if v else Text("0", "0") for v in last],
                "textposition": "outside",
            },
            {
                "type": "scatter",
                "mode": "markers",
                "name": Text(f"mean of {n}, ± sd/√{n}", f"{n}개의 평균, ± 표준편차/√{n}"),
                "x": [x + 0.4 for x in place],
                "y": mean,
                "marker": {"color": "@second", "symbol": "diamond", "size": 10},
                "error_y": {"type": "data", "array": error, "color": "@second", "thickness": 2, "width": 5},
            },
        ],
        "layout": layout(
            height=380,
            legend=True,
            barmode="group",
            xaxis={
                "showgrid": False,
                "zeroline": False,
                "tickvals": place,
                "ticktext": units,
                "range": [-0.6, len(vector) - 0.2],
            },
            yaxis={"title": {"text": Text("value", "값")}, "range": _reach(vector, p, mean, error)},
        ),
    }


def _list(values: np.ndarray) -> str:
    return ", ".join(say(v) for v in values)


def _reach(vector: tuple[float, ...], p: float, mean: np.ndarray, error: np.ndarray) -> list[float]:
    """The axis at this p: a kept unit and the label above it fit, and the whole bar of an error."""
    low, high = min(*vector, 0.0, 0.0), max(*vector, 0.0, 0.0)
    room = 0.15 * (high - low) / (1 - p)
    bottom, top = (mean - error).min(), (mean + error).max()
    return [float(min(low / (1 - p) - room, bottom - room / 4)), float(max(high / (1 - p) + room, top + room / 4))]


def code(p: float, n: int, h: str) -> str:
    return f"""\
import numpy as np
from allmasks.explain import moments
from allmasks.masks import MaskLaw
from allmasks.samplers import Independent

h, p, n = np.array({list(VECTORS[h])}), {p}, {n}
law = moments(h, p)
print("mean", law.mean, "variance", law.variance)
masks = Independent().draw({SEED}, {SITE}, np.arange(n), np.array([0]), 1 - np.full(len(h), p))[:, 0]
print("mean of", n, "draws", (MaskLaw(p, h.shape).noise(masks) * h).mean(axis=0))
"""


CHAPTER = Chapter(
    number=1,
    key="one-mask",
    title=Text("One mask", "마스크 하나"),
    asks=Text(
        "What does dropout do to a vector, and what does it leave as it was?",
        "드롭아웃은 벡터를 어떻게 바꾸고, 무엇을 그대로 둡니까?",
    ),
    says=Text(
        "Each unit is multiplied by a Bernoulli mask and, if kept, by 1/(1−p). The mean stays, E[h̃] = h; variance "
        "p/(1−p) h² is added: noise.",
        "각 유닛에 베르누이 마스크를 곱하고, 살아남으면 1/(1−p)배로 크기를 보정합니다. 기대값은 유지되고(E[h̃] = h) 분산 "
        "p/(1−p) h²만큼 잡음이 주입됩니다.",
    ),
    section=Text("1. The operation (inverted dropout); example 1", "1. 연산 정의 (Inverted Dropout), 예시 1"),
    controls=(
        rate_control(),
        Control(
            "n",
            Text("draws", "추출 횟수"),
            DRAWS,
            1,
            grid=(*range(1, 11), 30, 100, 1000, 5000),
            again=Text("Draw again", "다시 뽑기"),
        ),
        Control(
            "h",
            Text("vector h", "벡터 h"),
            tuple(VECTORS),
            "notes",
            kind="choice",
            names={k: Text(f"({_list(np.array(v))})", f"({_list(np.array(v))})") for k, v in VECTORS.items()},
        ),
    ),
    work=work,
    to_try=Text(
        "At p = 0.5 draw again a few times: single draws jump between 0 and twice h. Then go to 5000 draws and watch the diamonds settle on h.",
        "p = 0.5에서 몇 번 다시 뽑아 보십시오. 한 번의 추출은 0과 h의 두 배 사이를 오갑니다. 그런 다음 추출을 5000번까지 늘리면 마름모가 h에 자리 잡는 것이 보입니다.",
    ),
    question=Question(
        Text(
            "h = (2, −1, 3). At which p is the variance of the third unit exactly 36?",
            "h = (2, −1, 3)일 때, 셋째 유닛의 분산이 정확히 36이 되는 p는 얼마입니까?",
        ),
        lambda: next(p for p in rate_control().values if moments(VECTORS["notes"], p).variance[2] >= 36 - 1e-9),
        0.005,
        Text("Move p and read Var(h̃) of unit 3.", "p를 움직이며 유닛 3의 Var(h̃)을 읽으십시오."),
    ),
    code=code,
    terms=Text(
        "A network passes numbers from layer to layer; h is such a list of numbers, and each number is "
        "one unit. While a network is trained, dropout sets units to 0 at random, each with probability "
        "p, and enlarges those it keeps. Which units it keeps is the mask; one random mask is one draw, "
        "and h with the mask on it is written h̃. E[…] is the mean over all draws; Var is the variance, "
        "the mean squared distance from that mean; sd is its square root.",
        "신경망은 층에서 층으로 수를 전달합니다. h는 그런 수의 목록이고, 수 하나가 유닛 하나입니다. 드롭아웃은 학습하는 동안 각 유닛을 확률 p로 0으로 만들고, 살아남은 "
        "유닛은 크게 키웁니다. 어느 유닛이 살아남는지를 나타낸 것이 마스크이고, 마스크를 무작위로 한 번 뽑는 것이 추출이며, 마스크를 적용한 h를 h̃로 씁니다. E[…]는 "
        "모든 추출에 대한 평균, Var는 그 평균에서 떨어진 거리의 제곱 평균인 분산, 표준편차는 분산의 제곱근입니다.",
    ),
)
