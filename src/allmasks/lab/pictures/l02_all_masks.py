"""The loss over all masks: every thinned network of a small net, and what training minimizes."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allmasks.dropped_scores import expected_score_loss
from allmasks.explain.moments import mask_probabilities
from allmasks.lab.controls import rate_control, say
from allmasks.lab.protocol import Answer, Chapter, Control, Question, words
from allmasks.language import Text
from allmasks.losses import score_loss
from allmasks.masks import MaskLaw
from allmasks.methods import Enumeration
from allmasks.report.figures import layout

Array = NDArray[np.float64]
LOSSES = {"squared_error": Text("squared error", "제곱오차"), "logistic": Text("logistic", "로지스틱 손실")}
BARS = 40


@cache
def net(d: int) -> tuple[Array, Array, Array, float]:
    """Hidden units (n, d) of 40 points, their targets 0 or 1, output weights (d,) and bias, fitted without dropout."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(40, 2))
    y = (x[:, 0] * x[:, 1] > 0).astype(float)
    first, bias = rng.normal(size=(2, 10))[:, :d], rng.normal(size=10)[:d] * 0.5
    hidden = np.maximum(x @ first + bias, 0)
    columns = np.c_[hidden, np.ones(len(x))]
    found = np.linalg.solve(columns.T @ columns + 0.3 * np.eye(d + 1), columns.T @ (4 * y - 2))
    return hidden, y, found[:d], float(found[d])


def losses_of_all(d: int, p: float, loss: str) -> tuple[NDArray[np.bool_], Array, Array]:
    """Masks (2^d, d), their probabilities, and the mean loss of each thinned network over the points."""
    hidden, y, weights, bias = net(d)
    masks = MaskLaw(0.5, (d,)).enumerate()  # all of them, those that p = 0 never draws too
    law = MaskLaw(p, (d,))
    scores = (law.noise(masks) * weights) @ hidden.T + bias
    return (
        masks,
        mask_probabilities(law, masks),
        score_loss(loss).value(scores, np.broadcast_to(y, scores.shape)).mean(axis=1),
    )


def work(p: float, d: int, loss: str) -> Answer:
    hidden, y, weights, bias = net(d)
    masks, probabilities, losses = losses_of_all(d, p, loss)
    found = expected_score_loss(weights, hidden, y, p, loss=loss, intercept=bias, method=Enumeration())
    figure = _figure(d, masks, probabilities, losses, found.value, found.weight_scaling_loss)
    numbers = (
        words("count", "thinned networks, 2^d", "서브네트워크 수, 2^d", len(masks)),
        words(
            "expected",
            "E_m[L], the mean over all masks",
            "E_m[L], 모든 마스크에 대한 평균",
            found.value,
            found.error,
            found.guarantee,
        ),
        words(
            "at_mean",
            "loss at the mean mask (inference)",
            "평균 마스크에서의 손실 (추론 시)",
            found.weight_scaling_loss,
        ),
        words(
            "penalty",
            "penalty: their difference",
            "페널티: 둘의 차이",
            found.penalty,
            found.penalty_error,
            found.guarantee,
        ),
        words("best", "best thinned network", "손실이 가장 작은 서브네트워크", losses.min()),
        words("worst", "worst thinned network", "손실이 가장 큰 서브네트워크", losses.max()),
        words("whole", "probability that no unit is dropped", "한 유닛도 꺼지지 않을 확률", (1 - p) ** d),
    )
    sentence = Text(
        f"{len(masks)} thinned networks of {d} hidden unit{'s' if d > 1 else ''}, as squares colored by their loss, from {say(losses.min())} to {say(losses.max())}; "
        f"the outlined square keeps every unit. At p = {say(p)} their mean loss, E_m[L], is {say(found.value)}; "
        f"the whole net, as used at inference, has a loss of {say(found.weight_scaling_loss)}, so dropout adds a penalty of {say(found.penalty)}.",
        f"은닉 유닛 {d}개의 서브네트워크 {len(masks)}개를 손실에 따라 칠한 사각형입니다. 손실은 {say(losses.min())}에서 {say(losses.max())}까지이고, "
        f"테두리가 있는 사각형은 모든 유닛이 켜진 것입니다. p = {say(p)}에서 평균 손실 E_m[L]은 {say(found.value)}, "
        f"평균 마스크에서의 손실은 {say(found.weight_scaling_loss)}이므로 드롭아웃이 더하는 페널티는 {say(found.penalty)}입니다.",
    )
    return Answer(figure, numbers, sentence)


def _figure(
    d: int, masks: NDArray[np.bool_], probabilities: Array, losses: Array, mean: float, at_mean: float
) -> dict[str, Any]:
    """The grid, each network faint in proportion to its probability, above the distribution of its losses."""
    wide = 2 ** ((d + 1) // 2)
    number = np.arange(len(masks))
    kept = masks.sum(axis=1)
    top = float(np.quantile(losses, 0.97)) if len(losses) > 8 else float(losses.max())
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "markers",
                "showlegend": False,
                "x": number % wide,
                "y": number // wide,
                "marker": {
                    "symbol": "square",
                    "size": min(30, 300 // wide),
                    "color": losses,
                    "cmin": float(losses.min()),
                    "cmax": top,
                    "colorscale": "Cividis",
                    "reversescale": True,
                    "showscale": True,
                    "colorbar": {"title": {"text": Text("loss", "손실")}, "thickness": 12, "len": 0.55, "y": 0.72},
                    "line": {"width": [2 if k == d else 0 for k in kept], "color": "@second"},
                    "opacity": 0.25 + 0.75 * probabilities / probabilities.max(),
                },
                "hovertext": [
                    f"{''.join('01'[int(b)] for b in m)}: {v:.4g}, P = {q:.3g}"
                    for m, v, q in zip(masks, losses, probabilities, strict=True)
                ],
                "hoverinfo": "text",
            },
            *_distribution(losses, probabilities, mean, at_mean),
        ],
        "layout": layout(
            height=620,
            legend=True,
            bargap=0,
            margin={"l": 64, "r": 16, "t": 36, "b": 48},
            xaxis={
                "visible": False,
                "range": [-0.7, wide - 0.3],
                "anchor": "y",
                "scaleanchor": "y",
                "constrain": "domain",
            },
            yaxis={"visible": False, "range": [len(masks) / wide - 0.3, -0.7], "domain": [0.42, 1]},
            xaxis2={"title": {"text": Text("loss of a thinned network", "서브네트워크의 손실")}, "anchor": "y2"},
            yaxis2={
                "title": {"text": Text("probability", "확률")},
                "domain": [0, 0.3],
                "rangemode": "tozero",
                "anchor": "x2",
            },
        ),
    }


def _distribution(losses: Array, probabilities: Array, mean: float, at_mean: float) -> list[dict[str, Any]]:
    """How probable each loss is, the rare tail beyond the 99.5 % point left out, and the two lines to compare."""
    order = np.argsort(losses)
    high = losses[order][min(int(np.searchsorted(np.cumsum(probabilities[order]), 0.995)), len(losses) - 1)]
    low = losses[probabilities > 0].min()
    edges = np.linspace(low, max(high, mean * 1.05, at_mean * 1.05, low + 1e-9), BARS + 1)
    mass, _ = np.histogram(losses, edges, weights=probabilities)
    top = float(mass.max()) * 1.1

    def upright(x: float, name: Text, color: str, dash: str) -> dict[str, Any]:
        place = {"x": [x, x], "y": [0, top], "xaxis": "x2", "yaxis": "y2"}
        return {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "line": {"color": color, "width": 3, "dash": dash},
            **place,
        }

    return [
        {
            "type": "bar",
            "name": Text("all thinned networks", "모든 서브네트워크"),
            "x": (edges[1:] + edges[:-1]) / 2,
            "y": mass,
            "width": float(edges[1] - edges[0]),
            "marker": {"color": "@muted"},
            "xaxis": "x2",
            "yaxis": "y2",
        },
        upright(mean, Text("their mean, E_m[L]", "평균 E_m[L]"), "@accent", "solid"),
        upright(at_mean, Text("loss at the mean mask", "평균 마스크에서의 손실"), "@second", "dash"),
    ]


def code(p: float, d: int, loss: str) -> str:
    hidden, y, weights, bias = net(d)
    return f"""\
import numpy as np
import allmasks as am

hidden = np.array({np.round(hidden, 12).tolist()})
y = np.array({y.tolist()})
weights, bias = np.array({np.round(weights, 12).tolist()}), {round(bias, 12)}
found = am.expected_score_loss(weights, hidden, y, {p}, loss="{loss}", intercept=bias, method=am.methods.Enumeration())
print("E_m[L]", found.value, "+-", found.error, "at the mean mask", found.weight_scaling_loss, "penalty", found.penalty)
"""


CHAPTER = Chapter(
    number=2,
    key="all-masks",
    title=Text("The loss over all masks", "모든 마스크에 대한 손실"),
    asks=Text(
        "Which loss does training with dropout minimize?", "드롭아웃으로 학습할 때 실제로 최소화하는 손실은 무엇입니까?"
    ),
    says=Text(
        "d units can be kept or dropped in 2^d ways: 2^d thinned networks that share their weights. Training minimizes "
        "the mean of their losses, E_m[L(f(x; m, θ), y)].",
        "유닛 d개를 켜거나 끄는 방법은 2^d가지이고, 그만큼의 서브네트워크가 가중치를 공유합니다. 학습은 이들의 기대 손실 "
        "E_m[L(f(x; m, θ), y)]를 최소화합니다.",
    ),
    section=Text("2. Optimization (minimizing the expected loss)", "2. 최적화 관점 (기대 손실 최소화)"),
    controls=(
        rate_control(),
        Control("d", Text("hidden units d", "은닉 유닛 수 d"), tuple(range(1, 11)), 6, grid=(1, 2, 3, 4, 6, 8)),
        Control("loss", Text("loss", "손실"), tuple(LOSSES), "logistic", kind="choice", names=LOSSES),
    ),
    work=work,
    to_try=Text(
        "Move p from 0 up: at 0 only one network is left and both lines coincide. Then look at how far they part, and which losses become probable.",
        "p를 0부터 올려 보십시오. 0에서는 네트워크가 하나뿐이라 두 선이 겹칩니다. 그런 다음 두 선이 얼마나 벌어지고 확률이 어디로 옮겨 가는지 보십시오.",
    ),
    question=Question(
        Text(
            "With d = 8, how many thinned networks does the mean E_m[L] run over, and so how many squares are there?",
            "d = 8일 때 평균 E_m[L]은 서브네트워크 몇 개에 대한 평균입니까? (사각형의 수와 같습니다.)",
        ),
        lambda: work(0.5, 8, "logistic").value("count"),
        0.0,
        Text("Set d and read the number of thinned networks.", "d를 움직이며 서브네트워크 수를 읽으십시오."),
    ),
    code=code,
    terms=Text(
        "The loss L says how wrong a network's answers are: 0 would be perfect. Each mask m leaves a smaller "
        "network, a thinned one, with its own loss: one square below, faint if its mask is improbable. E_m[L] is "
        "the mean of these losses, each counted by how probable its mask is. The mean mask drops nothing: it is "
        "the whole network, as it is used after training (inference).",
        "손실 L은 신경망의 답이 얼마나 틀렸는지를 나타내며, 0이면 완벽합니다. 마스크 m마다 유닛이 줄어든 신경망, 곧 서브네트워크가 하나씩 생기고 손실도 저마다 다릅니다. "
        "아래 사각형 하나가 서브네트워크 하나이며, 드물게 뽑히는 것은 흐리게 그렸습니다. E_m[L]은 각 손실에 마스크의 확률을 곱해 더한 평균입니다. 평균 마스크는 아무 "
        "유닛도 끄지 않은 전체 신경망이며, 학습이 끝난 뒤(추론)에 쓰는 것입니다.",
    ),
)
