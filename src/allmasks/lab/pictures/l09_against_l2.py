"""Dropout against L2 and L1: the same data, matched strength, side by side and together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import nn

from allmasks.lab.controls import say
from allmasks.lab.pictures.l07_training import points
from allmasks.lab.protocol import Answer, Chapter, Control, Progress, Question, words
from allmasks.lab.training import Recipe, Seen, finished, surface, trained
from allmasks.language import Text
from allmasks.report.figures import layout, line

RATES = (0.0, 0.25, 0.5, 0.75)
MATCHED = {0.0: (0.0, 0.0), 0.25: (0.0024, 0.52), 0.5: (0.006, 0.75), 0.75: (0.0145, 0.95)}
"""λ of L2 and of L1 that leave the training rows, in eval mode, with the loss that dropout of this p leaves them with."""

ARMS = {
    "dropout": Text("dropout", "드롭아웃"),
    "l2": Text("L2 (weight decay)", "L2 (Weight Decay)"),
    "l1": Text("L1", "L1"),
    "both": Text("dropout and L2", "드롭아웃과 L2 함께"),
}
COLORS = {"dropout": "@accent", "l2": "@second", "l1": "@third", "both": "@fourth"}
DASHES = {"dropout": "solid", "l2": "dash", "l1": "dot", "both": "dashdot"}
VIEWS = {"surfaces": Text("decision surfaces", "결정 경계"), "weights": Text("weights", "가중치")}
ZERO = 1e-3
"""Weights below this are counted as zero."""


def recipe(arm: str, p: float) -> Recipe:
    """How the net of an arm is trained."""
    l2, l1 = MATCHED[p]
    return {
        "dropout": Recipe(p=p),
        "l2": Recipe(p=0.0, l2=l2),
        "l1": Recipe(p=0.0, l1=l1),
        "both": Recipe(p=p, l2=l2),
    }[arm]


def work(p: float, view: str) -> Iterator[Progress | Answer]:
    at = min(RATES, key=lambda rate: abs(rate - p))
    found: dict[str, tuple[nn.Sequential, Seen]] = {}
    for i, arm in enumerate(ARMS):
        for step in trained(recipe(arm, at)):
            if isinstance(step, float):
                yield Progress((i + step) / len(ARMS))
            else:
                found[arm] = step
    sizes = {arm: _weights(net) for arm, (net, _) in found.items()}
    seen = {arm: one for arm, (_, one) in found.items()}
    figure = _surfaces(found) if view == "surfaces" else _sizes(sizes)
    numbers = [
        row
        for arm, name in ARMS.items()
        for row in (
            words(
                f"train_{arm}",
                f"training loss (eval mode): {name.en}",
                f"학습 데이터 손실 (추론 모드): {name.ko}",
                seen[arm].evaluated[-1],
            ),
            words(
                f"validation_{arm}", f"validation loss: {name.en}", f"검증 손실: {name.ko}", seen[arm].validation[-1]
            ),
            words(
                f"zero_{arm}",
                f"weights that are zero: {name.en}",
                f"0인 가중치의 비율: {name.ko}",
                float((sizes[arm] < ZERO).mean()),
            ),
        )
    ]
    l2, l1 = MATCHED[at]
    best = min(ARMS, key=lambda arm: seen[arm].validation[-1])
    sentence = Text(
        f"Four nets on the same points: dropout with p = {say(at)}, L2 with λ = {l2:g} and L1 with λ = {l1:g}, matched so that they fit the training rows about as well, "
        f"and dropout with L2. The least validation loss is that of {ARMS[best].en}, {say(seen[best].validation[-1])}; "
        f"weights that are zero: {say(100 * float((sizes['l1'] < ZERO).mean()))} % with L1, {say(100 * float((sizes['dropout'] < ZERO).mean()))} % with dropout.",
        f"같은 점으로 학습한 네 네트워크입니다. p = {say(at)}인 드롭아웃, λ = {l2:g}인 L2, λ = {l1:g}인 L1은 학습 데이터를 비슷하게 맞추도록 세기를 맞추었고, 넷째는 드롭아웃과 L2를 함께 씁니다. "
        f"검증 손실이 가장 작은 것은 {ARMS[best].ko}({say(seen[best].validation[-1])})입니다. "
        f"0인 가중치는 L1에서 {say(100 * float((sizes['l1'] < ZERO).mean()))} %, 드롭아웃에서 {say(100 * float((sizes['dropout'] < ZERO).mean()))} %입니다.",
    )
    yield Answer(figure, tuple(numbers), sentence)


def _weights(net: nn.Sequential) -> np.ndarray:
    """|w| of all layers."""
    layers = [layer.weight.detach().abs().flatten().numpy() for layer in net if isinstance(layer, nn.Linear)]
    return np.concatenate(layers).astype(float)


def _surfaces(found: dict[str, tuple[nn.Sequential, Seen]]) -> dict[str, Any]:
    data: list[dict[str, Any]] = []
    heat: list[dict[str, Any]] = []
    axes: dict[str, Any] = {}
    notes: list[dict[str, Any]] = []
    for i, (arm, (net, _)) in enumerate(found.items()):
        name = "" if i == 0 else str(i + 1)
        across, up = i % 2, 1 - i // 2
        x0, y0 = 0.52 * across, 0.54 * up
        axes[f"xaxis{name}"] = {"visible": False, "range": [-2.6, 2.6], "domain": [x0, x0 + 0.48], "anchor": f"y{name}"}
        axes[f"yaxis{name}"] = {"visible": False, "range": [-2.6, 2.6], "domain": [y0, y0 + 0.42], "anchor": f"x{name}"}
        heat.append(surface(net, name))
        data += [row | {"xaxis": f"x{name}", "yaxis": f"y{name}"} for row in points()]
        notes.append(
            {
                "text": ARMS[arm],
                "x": x0 + 0.24,
                "y": y0 + 0.48,
                "xref": "paper",
                "yref": "paper",
                "showarrow": False,
                "xanchor": "center",
                "yanchor": "top",
            }
        )
    return {"data": data, "heat": heat, "layout": layout(height=640, annotations=notes, **axes)}


def _sizes(sizes: dict[str, np.ndarray]) -> dict[str, Any]:
    """Sorted |w|, one line a net; log scale, so that what is zero falls away."""
    data = []
    for arm, values in sizes.items():
        ordered = np.sort(values)[::-1][:: max(len(values) // 120, 1)]
        share = np.linspace(0, 100, len(ordered))
        data.append(
            line(share.tolist(), np.maximum(ordered, 1e-5).tolist(), COLORS[arm], dash=DASHES[arm], name=ARMS[arm])
        )
    across = {"title": {"text": Text("share of the weights, the largest first (%)", "가중치의 비율, 큰 것부터 (%)")}}
    up = {"title": {"text": Text("|w|", "|w|")}, "type": "log", "dtick": 1}
    return {"data": data, "layout": layout(height=420, legend=True, xaxis=across, yaxis=up)}


def code(p: float, view: str) -> str:
    at = min(RATES, key=lambda rate: abs(rate - p))
    return f"""\
from allmasks.lab.pictures.l09_against_l2 import ARMS, recipe
from allmasks.lab.training import finished

for arm in ARMS:
    net, seen = finished(recipe(arm, {at}))
    print(recipe(arm, {at}), "train", seen.evaluated[-1], "validation", seen.validation[-1])
"""


CHAPTER = Chapter(
    number=9,
    key="against-l2",
    title=Text("Dropout, L2 and L1", "드롭아웃과 L2, L1"),
    asks=Text(
        "What do dropout, L2 and L1 have in common, and what not?", "드롭아웃, L2, L1은 무엇이 같고 무엇이 다릅니까?"
    ),
    says=Text(
        "All three prevent overfitting and limit the size of weights. L2 acts on every weight alike, dropout depends on "
        "the data, L1 makes weights sparse. They can be used together.",
        "셋 다 과적합을 막고 가중치 크기를 제한합니다. L2는 모든 가중치에 균등하게, 드롭아웃은 데이터에 따라 작용하고, L1은 "
        "희소성(sparsity)을 유도합니다. 함께 사용할 수도 있습니다.",
    ),
    section=Text("Why dropout is regularization, 1, 5", "Dropout이 정규화인 이유, 1, 5"),
    controls=(
        Control("p", Text("strength, as drop rate p", "세기 (드롭율 p)"), RATES, 0.5),
        Control("view", Text("shown", "보기"), tuple(VIEWS), "surfaces", kind="choice", names=VIEWS),
    ),
    work=work,
    to_try=Text(
        "Raise the strength and compare the four boundaries; then look at the weights: only one of the lines falls to zero.",
        "세기를 올리며 네 경계를 비교하십시오. 그런 다음 가중치를 보면 한 선만 0으로 떨어집니다.",
    ),
    question=Question(
        Text(
            "Strength p = 0.5: what share of the weights is zero with L1, in per cent?",
            "세기 p = 0.5일 때, L1에서 0인 가중치는 몇 %입니까?",
        ),
        lambda: 100 * float((_weights(finished(recipe("l1", 0.5))[0]) < ZERO).mean()),
        3.0,
        Text("Read the share of weights that are zero with L1.", "L1의 0인 가중치 비율을 읽으십시오."),
    ),
    code=code,
    long=True,
)
