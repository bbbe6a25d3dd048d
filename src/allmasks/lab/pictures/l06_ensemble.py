"""The ensemble of all thinned networks, and the one scaled net that stands for it."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from allmasks.explain import Ensemble, ensemble
from allmasks.lab.controls import rate_control, say
from allmasks.lab.protocol import Answer, Chapter, Control, Question, words
from allmasks.language import Text
from allmasks.report.figures import layout

Array = NDArray[np.float64]
NETS = {
    "deep": Text("ReLU after the mask", "마스크 뒤에 ReLU가 있음"),
    "direct": Text("only a linear layer after the mask", "마스크 뒤에 선형층만 있음"),
    "linear": Text("no ReLU at all", "ReLU가 없음"),
}
PLACES = tuple(round(-3 + 0.25 * i, 2) for i in range(25))


@cache
def found_at(p: float, x1: float) -> Ensemble:
    """The worked example of `allmasks explain ensemble`, its first input moved."""
    return ensemble((x1, 2.0, -1.0), p=p)


def work(p: float, net: str, x1: float) -> Answer:
    found = found_at(p, x1)
    reading = found.readings[list(NETS).index(net)]
    outputs, weight = reading.outputs, found.probabilities
    shares = expit(outputs)
    mean, geometric, scaled = (
        float(weight @ shares),
        float(expit(weight @ outputs)),
        float(expit(reading.weight_scaling)),
    )
    round_off = 64 * np.finfo(float).eps * (1 + float(abs(outputs).max()))
    figure = _figure(found, shares, mean, geometric, scaled)
    spread = float(np.sqrt(max(weight @ (shares - mean) ** 2, 0.0)))
    numbers = (
        words("mean", "mean of all predictions", "모든 예측의 평균", mean, round_off, "exact"),
        words("geometric", "normalized geometric mean", "정규화한 기하평균", geometric, round_off, "exact"),
        words("scaled", "the scaled net", "가중치 스케일링한 네트워크", scaled, round_off, "exact"),
        words("gap", "gap: mean − scaled", "차이: 평균 − 스케일링", mean - scaled, 2 * round_off, "exact"),
        words("spread", "spread over masks (sd)", "마스크에 따른 흩어짐 (표준편차)", spread, 2 * round_off, "exact"),
        words(
            "expected",
            "E_m[(output − 1)²] of the first net",
            "첫째 네트워크의 E_m[(출력 − 1)²]",
            found.expected_loss,
            round_off * 64,
            "exact",
        ),
    )
    equal = abs(geometric - scaled) < 4 * round_off
    sentence = Text(
        f"{found.n_masks} thinned network{'s' if found.n_masks > 1 else ''} with p = {say(p)} predict between {say(shares.min())} and {say(shares.max())}. "
        f"Their mean is {say(mean)}, their geometric mean {say(geometric)}, and the net with scaled weights, as run at inference, says {say(scaled)}: "
        + (
            "exactly the geometric mean, since nothing bends after the mask."
            if equal
            else "neither of the two, since a ReLU follows the mask."
        ),
        f"p = {say(p)}인 서브네트워크 {found.n_masks}개의 예측은 {say(shares.min())}에서 {say(shares.max())} 사이입니다. "
        f"평균은 {say(mean)}, 기하평균은 {say(geometric)}이고, 추론 때 쓰는 가중치 스케일링 네트워크는 {say(scaled)}를 냅니다. "
        + (
            "마스크 뒤에 꺾이는 것이 없으므로 기하평균과 정확히 같습니다."
            if equal
            else "마스크 뒤에 ReLU가 있으므로 둘 가운데 어느 것과도 같지 않습니다."
        ),
    )
    return Answer(figure, numbers, sentence)


def _figure(found: Ensemble, shares: Array, mean: float, geometric: float, scaled: float) -> dict[str, Any]:
    """The cloud of predictions, each as large as it is probable, and the three that stand for it."""
    weight = found.probabilities
    height = np.array([int(mask.sum()) for mask in found.masks])
    marks = (
        (mean, Text("their mean", "평균"), "@accent", "solid"),
        (geometric, Text("their geometric mean", "기하평균"), "@third", "dot"),
        (scaled, Text("the scaled net (inference)", "가중치 스케일링한 네트워크 (추론)"), "@second", "dash"),
    )
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "markers",
                "name": Text("thinned networks", "서브네트워크"),
                "x": shares,
                "y": height,
                "hovertext": [
                    f"{''.join('01'[int(b)] for b in m)}: {s:.4f}, P = {q:.3g}"
                    for m, s, q in zip(found.masks, shares, weight, strict=True)
                ],
                "hoverinfo": "text",
                "marker": {
                    "size": 6 + 40 * np.sqrt(weight),
                    "color": "@muted",
                    "opacity": 0.6,
                    "line": {"color": "@ink", "width": 1},
                },
            },
            *(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": name,
                    "x": [v, v],
                    "y": [-0.5, 4.5],
                    "line": {"color": color, "dash": dash, "width": 3},
                }
                for v, name, color, dash in marks
            ),
        ],
        "layout": layout(
            height=420,
            legend=True,
            xaxis={"title": {"text": Text("predicted probability", "예측 확률")}, "range": [-0.06, 1.06]},
            yaxis={
                "title": {"text": Text("hidden units kept", "살아남은 은닉 유닛")},
                "range": [-0.6, 4.6],
                "dtick": 1,
            },
        ),
    }


def code(p: float, net: str, x1: float) -> str:
    return f"""\
import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from allmasks.explain import ensemble

found = ensemble(({x1}, 2.0, -1.0), p={p})
reading = found.readings[{list(NETS).index(net)}]  # {NETS[net].en}
print("mean", found.probabilities @ expit(reading.outputs))
print("geometric", expit(found.probabilities @ reading.outputs), "scaled", expit(reading.weight_scaling))
print("E_m[L]", found.expected_loss)
"""


def _gap(net: str) -> float:
    answer = work(0.5, net, 1.0)
    return answer.value("geometric") - answer.value("scaled")


CHAPTER = Chapter(
    number=6,
    key="ensemble",
    title=Text("The ensemble, and the net that stands for it", "앙상블과 그것을 대신하는 네트워크"),
    asks=Text("Why may dropout be switched off at inference?", "추론할 때 드롭아웃을 꺼도 되는 까닭은 무엇입니까?"),
    says=Text(
        "Each choice of units is a sub-network; training with masks is read as training their stochastic ensemble. At "
        "inference one net is run whose size is right on the mean: weight scaling.",
        "각 유닛을 켜거나 끄는 조합이 서브네트워크를 이루고, 드롭아웃 학습은 이들의 확률적 앙상블을 학습한 것으로 해석합니다. "
        "추론 시에는 평균적 크기로 이미 맞춰진 네트워크 하나를 사용합니다.",
    ),
    section=Text("5. The ensemble; 6. In practice", "5. 앙상블 해석, 6. 구현·해석 팁"),
    controls=(
        rate_control(),
        Control("net", Text("net", "네트워크"), tuple(NETS), "deep", kind="choice", names=NETS),
        Control("x1", Text("first input", "첫째 입력"), PLACES, 1.0, grid=(-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)),
    ),
    work=work,
    to_try=Text(
        "Choose a net without ReLU after the mask: the dashed and the dotted line meet, whatever p and input. With the ReLU they part.",
        "마스크 뒤에 ReLU가 없는 네트워크를 고르면 p와 입력이 무엇이든 파선과 점선이 만납니다. ReLU가 있으면 갈라집니다.",
    ),
    question=Question(
        Text(
            "Only a linear layer follows the mask: how far is the scaled net from the geometric mean?",
            "마스크 뒤에 선형층만 있을 때, 가중치 스케일링한 네트워크는 기하평균에서 얼마나 떨어져 있습니까?",
        ),
        lambda: round(_gap("direct"), 9),
        1e-6,
        Text("Choose that net and compare the two numbers.", "그 네트워크를 골라 두 수를 비교하십시오."),
    ),
    code=code,
)
