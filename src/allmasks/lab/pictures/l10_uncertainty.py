"""Uncertainty: the band of MC dropout, how many masks it takes, and where it means nothing."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from allmasks.lab.controls import say
from allmasks.lab.protocol import Answer, Chapter, Control, Progress, Question, words
from allmasks.language import Text
from allmasks.nn import Dropout
from allmasks.prediction import Prediction, predict
from allmasks.report.figures import layout, line

RATES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.95)
MASKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
POINTS = (5, 20, 80, 320)
PLACES = torch.linspace(-5, 5, 101, dtype=torch.float64)[:, None]
INSIDE, FAR = 50, 100
STEPS = 400


def truth(x: Tensor) -> Tensor:
    """What the points scatter about."""
    return torch.sin(1.6 * x)


@lru_cache(maxsize=4)
def data(points: int) -> tuple[Tensor, Tensor]:
    """Points between −2 and 2 with noise of standard deviation 0.2; more points begin with the fewer."""
    rng = np.random.default_rng(4)
    drawn = torch.from_numpy(rng.uniform(-1, 1, size=(320, 2)))[:points]
    x = 2 * drawn[:, :1]
    return x, truth(x) + 0.2 * drawn[:, 1:] * 3**0.5


_KEPT: dict[tuple[float, int], nn.Sequential] = {}


def fitting(p: float, points: int) -> Iterator[float | nn.Sequential]:
    """Shares of the work done, then a 1-48-48-1 net trained with dropout on the points: once for each (p, points)."""
    if (p, points) not in _KEPT:
        x, y = data(points)
        generator = torch.Generator().manual_seed(5)
        net = nn.Sequential(
            nn.Linear(1, 48),
            nn.ReLU(),
            Dropout(p, seed=1),
            nn.Linear(48, 48),
            nn.ReLU(),
            Dropout(p, seed=2),
            nn.Linear(48, 1),
        ).double()
        with torch.no_grad():
            for layer in net:
                if not isinstance(layer, nn.Linear):
                    continue
                layer.weight.uniform_(-1, 1, generator=generator).mul_((3 / layer.in_features) ** 0.5)
                layer.bias.uniform_(-1, 1, generator=generator)
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=1e-5)
        for step in range(STEPS):
            with torch.enable_grad():
                optimizer.zero_grad()
                nn.functional.mse_loss(net.train()(x), y).backward()
                optimizer.step()
            if step % 50 == 49:
                yield (step + 1) / STEPS
        _KEPT[p, points] = copy.deepcopy(net).eval().requires_grad_(False)
    yield _KEPT[p, points]


def predicted(p: float, k: int, points: int) -> Prediction:
    """Mean and spread over K masks at 101 places from −5 to 5."""
    *_, net = fitting(p, points)
    assert isinstance(net, nn.Sequential)
    return predict(net, PLACES, task="regression", n_masks=k)


def work(p: float, k: int, points: int) -> Iterator[Progress | Answer]:
    for step in fitting(p, points):
        if isinstance(step, float):
            yield Progress(0.9 * step)
    found = predicted(p, k, points)
    x = PLACES[:, 0].numpy()
    mean, std, off, spread_off = (
        np.asarray(v, np.float64).reshape(len(x)) for v in (found.mean, found.std, found.mean_error, found.std_error)
    )
    actual = truth(PLACES)[:, 0].numpy()
    width = np.nan_to_num(std)
    seen_x, seen_y = data(points)
    inside = abs(x) <= 2
    outside = ~inside
    held = [float((abs(actual - mean) <= 2 * width)[where].mean()) for where in (inside, outside)]
    figure = {
        "data": [
            _band(x, mean, 2 * width),
            line(x.tolist(), mean.tolist(), "@accent", name=Text("mean over masks", "마스크 평균")),
            line(x.tolist(), actual.tolist(), "@second", dash="dash", name=Text("truth", "참값")),
            {
                "type": "scatter",
                "mode": "markers",
                "name": Text("data", "데이터"),
                "x": seen_x[:, 0].numpy(),
                "y": seen_y[:, 0].numpy(),
                "marker": {"color": "@ink", "size": 6},
            },
        ],
        "layout": layout(
            height=440,
            legend=True,
            xaxis={"title": {"text": Text("x", "x")}, "range": [-5, 5]},
            yaxis={"title": {"text": Text("y", "y")}, "range": [-4, 4]},
        ),
    }
    kind = found.guarantee
    numbers = (
        words("mean_inside", "mean at x = 0", "x = 0에서의 평균", mean[INSIDE], off[INSIDE], kind),
        words(
            "std_inside", "spread (sd) at x = 0", "x = 0에서의 흩어짐 (표준편차)", std[INSIDE], spread_off[INSIDE], kind
        ),
        words(
            "std_far",
            "spread (sd) at x = 5, far from data",
            "데이터에서 먼 x = 5에서의 흩어짐",
            std[FAR],
            spread_off[FAR],
            kind,
        ),
        words(
            "held",
            "truth within ± 2 sd, where there are data",
            "데이터가 있는 곳에서 참값이 ± 2 표준편차 안에 든 비율",
            held[0],
        ),
        words(
            "held_outside",
            "truth within ± 2 sd, where there are none",
            "데이터가 없는 곳에서 참값이 ± 2 표준편차 안에 든 비율",
            held[1],
        ),
    )
    yield Answer(figure, numbers, _sentence(p, k, points, std, held))


def _band(x: NDArray[np.float64], mean: NDArray[np.float64], half: NDArray[np.float64]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": np.concatenate([x, x[::-1]]),
        "y": np.concatenate([mean + half, (mean - half)[::-1]]),
        "fill": "toself",
        "fillcolor": "@band",
        "line": {"width": 0, "color": "@accent"},
        "name": Text("± 2 sd over masks", "마스크에 따른 ± 2 표준편차"),
        "hoverinfo": "skip",
    }


def _sentence(p: float, k: int, points: int, std: NDArray[np.float64], held: list[float]) -> Text:
    if k == 1 and p > 0:
        return Text(
            "One mask gives one curve and says nothing of the spread: take at least two masks.",
            "마스크가 하나면 곡선이 하나뿐이라 흩어짐을 알 수 없습니다. 마스크를 둘 이상 뽑으십시오.",
        )
    if p == 0:
        return Text(
            "At p = 0 all masks are the same: the band has no width, although the net may be wrong anywhere.",
            "p = 0이면 마스크가 모두 같습니다. 네트워크가 어디서든 틀릴 수 있는데도 띠의 폭은 0입니다.",
        )
    return Text(
        f"{points} points, p = {say(p)}, K = {k} masks. The spread over masks is {say(std[INSIDE])} at x = 0 and {say(std[FAR])} at x = 5, far from the data. "
        f"The truth lies within 2 sd at {say(100 * held[0])} % of the places among the data and at {say(100 * held[1])} % of those outside: the band's width is set by p and the weights, not by what is known.",
        f"점 {points}개, p = {say(p)}, 마스크 K = {k}개입니다. 마스크에 따른 흩어짐은 x = 0에서 {say(std[INSIDE])}, 데이터에서 먼 x = 5에서 {say(std[FAR])}입니다. "
        f"참값은 데이터가 있는 곳의 {say(100 * held[0])} %, 없는 곳의 {say(100 * held[1])} %에서 2 표준편차 안에 듭니다. 띠의 폭을 정하는 것은 p와 가중치이지, 무엇을 알고 있는지가 아닙니다.",
    )


def code(p: float, k: int, points: int) -> str:
    return f"""\
import allmasks as am
from allmasks.lab.pictures.l10_uncertainty import FAR, INSIDE, PLACES, fitting

*_, net = fitting({p}, {points})  # a 1-48-48-1 net, trained with dropout on {points} points
found = am.predict(net, PLACES, task="regression", n_masks={k})
print("x = 0", float(found.mean[{INSIDE}]), "sd", float(found.std[{INSIDE}]), "x = 5 sd", float(found.std[{FAR}]))
"""


CHAPTER = Chapter(
    number=10,
    key="uncertainty",
    title=Text("Uncertainty", "불확실성"),
    asks=Text(
        "What does the spread over masks say of what the net does not know?",
        "마스크에 따른 흩어짐은 네트워크가 모르는 것에 대해 무엇을 말해 줍니까?",
    ),
    says=Text(
        "Keep the masks on at inference, K times: mean and spread of the outputs. Both are Monte Carlo approximations of "
        "the ensemble of the notes, with an error that falls as 1/√K.",
        "추론할 때도 마스크를 켜고 K번 실행하면 출력의 평균과 흩어짐을 얻습니다. 둘 다 노트의 앙상블에 대한 몬테카를로 근사이며, "
        "오차는 1/√K로 줄어듭니다.",
    ),
    section=Text("Monte Carlo approximation, 3; 5. The ensemble", "Monte Carlo 근사 3, 5. 앙상블 해석"),
    controls=(
        Control("p", Text("drop rate p", "드롭율 p"), RATES, 0.2, grid=(0.0, 0.05, 0.2, 0.5)),
        Control("k", Text("masks K", "마스크 수 K"), MASKS, 64, grid=(1, 4, 16, 64, 256)),
        Control("points", Text("data points", "데이터 수"), POINTS, 20),
    ),
    work=work,
    to_try=Text(
        "Go from 5 to 320 points: an honest band would shrink. Then change p: the band follows it, on the same data.",
        "데이터를 5개에서 320개로 늘려 보십시오. 제대로 된 불확실성이라면 띠가 줄어야 합니다. 그런 다음 p를 바꾸면 같은 데이터에서도 띠가 따라 움직입니다.",
    ),
    question=Question(
        Text(
            "How many masks are needed before there is any band at all (p > 0)?",
            "띠가 조금이라도 생기려면 마스크가 몇 개 있어야 합니까 (p > 0)?",
        ),
        lambda: 2.0,
        0.0,
        Text("Go down with K until the band is gone.", "띠가 사라질 때까지 K를 줄여 보십시오."),
    ),
    code=code,
    long=True,
)
