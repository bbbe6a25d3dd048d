"""Training, live: the losses and the gap between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import nn

from allmasks.lab.controls import say
from allmasks.lab.protocol import Answer, Chapter, Control, Progress, Question, words
from allmasks.lab.training import Recipe, Seen, keep, rows, surface, training
from allmasks.language import Text
from allmasks.report.figures import layout, line

DATA = {
    "moons": Text("two moons, 50 points", "초승달 두 개, 점 50개"),
    "digits": Text("digits, 200 pictures", "숫자 그림 200장"),
}
RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
WIDTHS = (1, 4, 16, 32, 64)


def work(p: float, data: str, width: int) -> Iterator[Progress | Answer]:
    recipe = Recipe(data, p, width)
    for last in training(recipe):
        yield picture(*last, recipe)
    keep(recipe, *last)


def picture(net: nn.Sequential, seen: Seen, recipe: Recipe) -> Answer:
    """The losses so far and, for points in the plane, what the net says of each place."""
    flat = recipe.data == "moons"
    _, expected, error = seen.expected[-1]
    evaluated, validation = seen.evaluated[-1], seen.validation[-1]
    at_look = seen.evaluated[seen.steps.index(seen.expected[-1][0])]
    share, generalization = expected - at_look, validation - evaluated
    axes: dict[str, Any] = {"xaxis": "x2", "yaxis": "y2"} if flat else {}
    curves = [
        line(
            seen.steps,
            seen.train,
            "@muted",
            dash="dot",
            name=Text("training loss (with masks)", "학습 손실 (마스크 있음)"),
            **axes,
        ),
        line(
            seen.steps, seen.evaluated, "@accent", name=Text("same rows in eval mode", "같은 데이터, 추론 모드"), **axes
        ),
        line(seen.steps, seen.validation, "@second", dash="dash", name=Text("validation loss", "검증 손실"), **axes),
        {
            "type": "scatter",
            "mode": "markers",
            "name": Text("E_m[L] of the training rows", "학습 데이터의 E_m[L]"),
            "x": [row[0] for row in seen.expected],
            "y": [row[1] for row in seen.expected],
            "error_y": {"type": "data", "array": [row[2] for row in seen.expected], "color": "@ink"},
            "marker": {"color": "@ink", "symbol": "diamond", "size": 9},
            **axes,
        },
    ]
    below = {"title": {"text": Text("step", "스텝")}, "range": [-6, 320]}
    losses = {"title": {"text": Text("loss (nats)", "손실 (nats)")}, "rangemode": "tozero"}
    figure: dict[str, Any]
    if flat:
        figure = {
            "data": [*points(), *curves],
            "heat": [surface(net)],
            "layout": layout(
                height=640,
                legend=True,
                margin={"l": 64, "r": 16, "t": 36, "b": 48},
                xaxis={"visible": False, "range": [-2.6, 2.6], "anchor": "y", "domain": [0.15, 0.85]},
                yaxis={"visible": False, "range": [-2.6, 2.6], "domain": [0.42, 1]},
                xaxis2=below | {"anchor": "y2"},
                yaxis2=losses | {"domain": [0, 0.34], "anchor": "x2"},
            ),
        }
    else:
        figure = {"data": curves, "layout": layout(height=420, legend=True, xaxis=below, yaxis=losses)}
    numbers = (
        words("step", "step", "스텝", seen.steps[-1]),
        words("train", "training loss, last steps", "학습 손실, 최근 스텝", seen.train[-1]),
        words("evaluated", "same rows in eval mode", "같은 데이터, 추론 모드", evaluated),
        words("validation", "validation loss", "검증 손실", validation),
        words("accuracy", "validation accuracy", "검증 정확도", seen.accuracy[-1]),
        words(
            "expected",
            "E_m[L] of the training rows",
            "학습 데이터의 E_m[L]",
            expected,
            error,
            "exact" if recipe.p == 0 else "statistical",
        ),
        words(
            "share",
            "dropout's share: E_m[L] − eval mode",
            "드롭아웃의 몫: E_m[L] − 추론 모드",
            share,
            error,
            "exact" if recipe.p == 0 else "statistical",
        ),
        words(
            "generalization", "generalization: validation − eval mode", "일반화의 몫: 검증 − 추론 모드", generalization
        ),
    )
    return Answer(figure, numbers, _sentence(seen, recipe, share, generalization))


def _sentence(seen: Seen, recipe: Recipe, share: float, generalization: float) -> Text:
    evaluated, validation = seen.evaluated[-1], seen.validation[-1]
    return Text(
        f"Step {seen.steps[-1]}, p = {say(recipe.p)}, {recipe.width} units a layer: in eval mode the training rows have a loss of {say(evaluated)}, "
        f"the validation rows {say(validation)}. The gap is generalization, {say(generalization)}; masks add {say(share)} "
        "to the training loss, which is no gap in generalization at all.",
        f"스텝 {seen.steps[-1]}, p = {say(recipe.p)}, 층마다 유닛 {recipe.width}개. 추론 모드에서 학습 데이터의 손실은 {say(evaluated)}, "
        f"검증 데이터의 손실은 {say(validation)}입니다. 이 차이 {say(generalization)}이(가) 일반화의 몫이고, 마스크가 학습 손실에 더한 "
        f"{say(share)}은(는) 일반화와는 상관없는 드롭아웃의 몫입니다.",
    )


def points() -> list[dict[str, Any]]:
    """The training points, each class with a color and a shape of its own."""
    x, y, _, _ = rows("moons")
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": Text(f"class {k}", f"클래스 {k}"),
            "x": np.asarray(x[y == k, 0]),
            "y": np.asarray(x[y == k, 1]),
            "showlegend": False,
            "marker": {"color": color, "symbol": symbol, "size": 9, "line": {"color": "@page", "width": 1}},
        }
        for k, color, symbol in ((0, "@second", "circle"), (1, "@accent", "square"))
    ]


def code(p: float, data: str, width: int) -> str:
    return f"""\
from allmasks.lab.training import Recipe, training

for net, seen in training(Recipe("{data}", p={p}, width={width})):
    print(seen.steps[-1], "train", seen.train[-1], "eval", seen.evaluated[-1], "validation", seen.validation[-1])
print("E_m[L]", seen.expected[-1])
"""


CHAPTER = Chapter(
    number=7,
    key="training",
    title=Text("Training, live", "학습을 지켜보기"),
    asks=Text(
        "Why is the training loss with dropout higher than the loss in eval mode, and what does that say of overfitting?",
        "드롭아웃으로 학습할 때 학습 손실이 추론 모드의 손실보다 높은 까닭은 무엇이고, 그것은 과적합과 어떤 관계입니까?",
    ),
    says=Text(
        "Each step draws one mask: forward, loss, backward, update. The loss shakes, and on the mean E_m[L] falls. Less "
        "overfitting is claimed; watch the validation loss.",
        "매 스텝 마스크를 한 번 뽑아 forward → loss → backward → 업데이트합니다. 손실은 흔들리지만 평균적으로 E_m[L]이 "
        "줄어드는 방향으로 수렴합니다. 과적합이 억제된다고 하니 검증 손실을 지켜보십시오.",
    ),
    section=Text("Monte Carlo approximation, 4–5; qualitative, 1", "Monte Carlo 근사 4–5, 정성적 이해 1"),
    controls=(
        Control("p", Text("drop rate p", "드롭율 p"), RATES, 0.5, grid=(0.0, 0.5, 0.8)),
        Control("data", Text("data", "데이터"), tuple(DATA), "moons", kind="choice", names=DATA),
        Control("width", Text("units a layer", "층마다 유닛 수"), WIDTHS, 32, grid=(4, 32)),
    ),
    work=work,
    to_try=Text(
        "Train with p = 0 and then with p = 0.5. Compare where the dashed line turns up, and how ragged the boundary is.",
        "p = 0으로 학습한 다음 p = 0.5로 학습해 보십시오. 파선이 어디서 다시 오르는지, 경계가 얼마나 들쭉날쭉한지 비교하십시오.",
    ),
    question=Question(
        Text(
            "With p = 0, how large is dropout's share of the gap?", "p = 0이면 차이 가운데 드롭아웃의 몫은 얼마입니까?"
        ),
        lambda: 0.0,
        1e-6,
        Text("Set p = 0 and read dropout's share.", "p = 0으로 놓고 드롭아웃의 몫을 읽으십시오."),
    ),
    code=code,
    long=True,
    live=True,
)
