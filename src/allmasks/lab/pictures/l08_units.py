"""What dropout does to units: measured on the net that was just trained."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from allmasks.diagnose.co_adaptation import measure_co_adaptation
from allmasks.diagnose.concentration import measure_concentration
from allmasks.diagnose.robustness import measure_robustness
from allmasks.diagnose.scaled_units import ScaledUnits
from allmasks.diagnose.unit_penalty import measure_unit_penalty
from allmasks.expect import prepare
from allmasks.lab.controls import say
from allmasks.lab.pictures.l07_training import DATA
from allmasks.lab.protocol import Answer, Chapter, Control, Number, Progress, Question, words
from allmasks.lab.training import Recipe, finished, measurable, rows, trained
from allmasks.language import Text
from allmasks.report.figures import error_bars, layout, line

MEASURES = {
    "unstable": Text("unstable units: who pays the penalty", "불안정한 유닛: 누가 페널티를 내는가"),
    "adapted": Text("co-adaptation: pairs that lean on each other", "co-adaptation: 서로 의존하는 쌍"),
    "losing": Text("losing units one by one", "유닛을 하나씩 잃을 때"),
    "special": Text("specialization: who carries the function", "기능 집중: 누가 기능을 맡는가"),
}
RATES = (0.0, 0.25, 0.5, 0.75)
WIDTH, P, EXAMPLES = 32, 0.5, 100
FRACTIONS = tuple(round(i / 10, 1) for i in range(10))
NONE, WITH = Text("trained without dropout", "드롭아웃 없이 학습"), Text("trained with dropout", "드롭아웃으로 학습")


@lru_cache(maxsize=32)
def measured(recipe: Recipe, measure: str) -> Any:
    """One instrument's reading of the second hidden layer of the trained net, at p = 1/2 and on validation rows."""
    net, _ = finished(recipe)
    _, _, x, y = rows(recipe.data)
    problem = prepare(measurable(net, P), x[:EXAMPLES].double(), y[:EXAMPLES], "cross_entropy")
    run = ScaledUnits(problem, next(site for site in problem.look.sites if site.name == "5"))
    if measure == "unstable":
        return measure_unit_penalty(run)
    if measure == "adapted":
        return measure_co_adaptation(run, max_pairs=200)
    if measure == "losing":
        return measure_robustness(run, FRACTIONS, n_orders=8)
    return measure_concentration(run, n_orders=8)


def work(p: float, data: str, measure: str) -> Iterator[Progress | Answer]:
    recipes = (Recipe(data, 0.0, WIDTH), Recipe(data, p, WIDTH))
    for i, recipe in enumerate(recipes):
        for step in trained(recipe):
            if isinstance(step, float):
                yield Progress((i + step) / 2 * 0.9)
    yield Progress(0.92)
    before, after = (measured(recipe, measure) for recipe in recipes)
    show = {"unstable": _unstable, "adapted": _adapted, "losing": _losing, "special": _special}[measure]
    yield show(before, after, p)


def _two(first: Any, second: Any) -> tuple[tuple[Any, Text, str, str], ...]:
    return (first, NONE, "@second", "dash"), (second, WITH, "@accent", "solid")


def _ranked(before: np.ndarray, after: np.ndarray, title: Text, errors: tuple[Any, Any]) -> dict[str, Any]:
    """Units from the largest to the least, for both nets."""
    data = []
    for (values, name, color, _dash), error in zip(_two(before, after), errors, strict=True):
        order = np.argsort(-values)
        bars = error_bars(np.asarray(error)[order]) | {"color": "@ink", "width": 2}
        data.append(
            {
                "type": "bar",
                "name": name,
                "x": list(range(1, len(values) + 1)),
                "y": values[order],
                "marker": {"color": color},
                "error_y": bars,
            }
        )
    axis = {"title": {"text": Text("units, the largest first", "유닛, 큰 것부터")}}
    return {
        "data": data,
        "layout": layout(height=420, legend=True, barmode="group", xaxis=axis, yaxis={"title": {"text": title}}),
    }


def _unstable(before: Any, after: Any, p: float) -> Answer:
    figure = _ranked(
        before.penalty,
        after.penalty,
        Text("penalty of a unit (nats)", "유닛의 페널티 (nats)"),
        (before.penalty_error, after.penalty_error),
    )
    sums = [float(v.penalty.sum()) for v in (before, after)]
    off = [float(v.penalty_error.sum()) for v in (before, after)]
    return Answer(
        figure,
        _numbers("penalty", Text("sum of penalties", "페널티의 합"), sums, off, ("exact", "exact")),
        Text(
            f"What each unit's own mask adds to the loss, at p = 1/2: in all {say(sums[0])} nats without dropout, {say(sums[1])} after training with p = {say(p)}. "
            + (
                "Units whose output swings were held down."
                if sums[1] < sums[0]
                else "The net trained with dropout pays no less."
            ),
            f"p = 1/2에서 유닛 각각의 마스크가 손실에 더하는 양입니다. 드롭아웃 없이 학습하면 모두 {say(sums[0])} nats, p = {say(p)}로 학습하면 {say(sums[1])}입니다. "
            + (
                "출력이 크게 출렁이는 유닛이 억제되었습니다."
                if sums[1] < sums[0]
                else "드롭아웃으로 학습한 쪽이 덜 내지는 않습니다."
            ),
        ),
    )


def _adapted(before: Any, after: Any, p: float) -> Answer:
    data = []
    for found, name, color, dash in _two(before, after):
        sizes = np.sort(abs(found.interaction))
        data.append(line(sizes.tolist(), np.linspace(0, 1, len(sizes)).tolist(), color, dash=dash, name=name))
    axis = {"title": {"text": Text("|interaction| of a pair (nats)", "쌍의 |상호작용| (nats)")}, "rangemode": "tozero"}
    figure = {
        "data": data,
        "layout": layout(
            height=420, legend=True, xaxis=axis, yaxis={"title": {"text": Text("share of pairs", "쌍의 비율")}}
        ),
    }
    values, errors = [float(v.strength) for v in (before, after)], [float(v.strength_error) for v in (before, after)]
    label = Text(
        "co-adaptation: mean |interaction| / mean |ablation|", "co-adaptation: 평균 |상호작용| / 평균 |제거 효과|"
    )
    return Answer(
        figure,
        _numbers("strength", label, values, errors, (before.guarantee, after.guarantee)),
        Text(
            f"How much losing two units together differs from losing each alone. Relative to the effect of one unit: {say(values[0])} without dropout, {say(values[1])} with p = {say(p)}.",
            f"두 유닛을 함께 잃는 것이 하나씩 잃는 것과 얼마나 다른지입니다. 유닛 하나의 효과에 견주어 드롭아웃이 없으면 {say(values[0])}, p = {say(p)}이면 {say(values[1])}입니다.",
        ),
    )


def _losing(before: Any, after: Any, p: float) -> Answer:
    data = []
    for found, name, color, dash in _two(before, after):
        low, high = (np.asarray(v) for v in (found.accuracy_low, found.accuracy_high))
        x = np.asarray(found.fractions)
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": np.concatenate([x, x[::-1]]),
                "y": np.concatenate([high, low[::-1]]),
                "fill": "toself",
                "fillcolor": "@shade",
                "line": {"width": 0, "color": color},
                "showlegend": False,
                "hoverinfo": "skip",
                "name": name,
            }
        )
        data.append(line(x.tolist(), found.accuracy.tolist(), color, dash=dash, name=name))
    figure = {
        "data": data,
        "layout": layout(
            height=420,
            legend=True,
            xaxis={"title": {"text": Text("share of units removed", "제거한 유닛 비율")}},
            yaxis={"title": {"text": Text("accuracy", "정확도")}, "range": [0, 1.02]},
        ),
    }
    values, errors = [float(v.area) for v in (before, after)], [float(v.area_error) for v in (before, after)]
    label = Text("accuracy, mean over 0 … 90 % removed", "정확도, 0 … 90 % 제거에 대한 평균")
    return Answer(
        figure,
        _numbers("area", label, values, errors, ("statistical", "statistical")),
        Text(
            f"Accuracy as units are removed in random order (band: 90 % of orders). Averaged over 0 to 90 % removed: {say(values[0])} without dropout, {say(values[1])} with p = {say(p)}.",
            f"유닛을 무작위 순서로 제거할 때의 정확도입니다 (띠: 순서의 90 %). 0 … 90 % 제거에 대한 평균은 드롭아웃이 없으면 {say(values[0])}, p = {say(p)}이면 {say(values[1])}입니다.",
        ),
    )


def _special(before: Any, after: Any, p: float) -> Answer:
    figure = _ranked(
        abs(before.shapley),
        abs(after.shapley),
        Text("|importance| (Shapley, nats)", "|중요도| (섀플리, nats)"),
        (before.shapley_error, after.shapley_error),
    )
    values, errors = [float(v.gini) for v in (before, after)], [float(v.gini_error) for v in (before, after)]
    label = Text("Gini coefficient of importance (1: one unit carries all)", "중요도의 지니 계수 (1: 한 유닛이 전부)")
    return Answer(
        figure,
        _numbers("gini", label, values, errors, (before.guarantee, after.guarantee)),
        Text(
            f"How unevenly the function is spread over units: Gini {say(values[0])} without dropout, {say(values[1])} with p = {say(p)}. "
            + (
                "It gathered in fewer units."
                if values[1] > values[0]
                else "It did not gather in few units, as the notes claim; it spread."
            ),
            f"기능이 유닛에 얼마나 고르지 않게 나뉘어 있는지입니다. 지니 계수는 드롭아웃이 없으면 {say(values[0])}, p = {say(p)}이면 {say(values[1])}입니다. "
            + (
                "기능이 더 적은 유닛에 집중되었습니다."
                if values[1] > values[0]
                else "노트의 주장과 달리 소수에 집중되지 않고 퍼졌습니다."
            ),
        ),
    )


def _numbers(
    key: str, label: Text, values: list[float], errors: list[float], kinds: tuple[Any, Any]
) -> tuple[Number, ...]:
    return tuple(
        words(f"{key}_{name}", f"{label.en}: {arm.en}", f"{label.ko}: {arm.ko}", value, error, kind)
        for name, arm, value, error, kind in zip(("none", "with"), (NONE, WITH), values, errors, kinds, strict=True)
    )


def code(p: float, data: str, measure: str) -> str:
    return f"""\
from allmasks.lab.pictures.l08_units import WIDTH, measured
from allmasks.lab.training import Recipe

print("without dropout", measured(Recipe("{data}", 0.0, WIDTH), "{measure}"))
print("with", measured(Recipe("{data}", {p}, WIDTH), "{measure}"))
"""


def _answer() -> float:
    return CHAPTER.compute({"data": "digits", "measure": "losing"}).value("area_with")


CHAPTER = Chapter(
    number=8,
    key="units",
    title=Text("What it does to units", "유닛에 일어나는 일"),
    asks=Text(
        "Does dropout break up units that lean on each other, and does function gather in few?",
        "드롭아웃은 서로 의존하는 유닛을 떼어 놓습니까? 기능은 소수의 유닛에 집중됩니까?",
    ),
    says=Text(
        "The notes claim: less co-adaptation, unstable units suppressed, robustness to lost units, function gathered in "
        "a few important units. Here each is measured, on the nets of the last chapter.",
        "노트의 주장은 co-adaptation 억제, 불안정한 뉴런 억제, 일부 뉴런이 꺼져도 작동하는 robustness, 몇몇 중요한 뉴런에 기능 집중입니다. "
        "여기서는 앞 장에서 학습한 네트워크로 하나하나 잽니다.",
    ),
    section=Text("Qualitative understanding, 1–5", "Dropout의 정성적 이해, 1–5"),
    controls=(
        Control("p", Text("drop rate p while training", "학습할 때의 드롭율 p"), RATES, 0.5),
        Control("data", Text("data", "데이터"), tuple(DATA), "digits", kind="choice", names=DATA),
        Control(
            "measure",
            Text("what is measured", "무엇을 재는가"),
            tuple(MEASURES),
            "losing",
            kind="choice",
            names=MEASURES,
        ),
    ),
    work=work,
    to_try=Text(
        "Go through the four measures at p = 0.5 on digits. Three of the notes' claims show; one turns out the other way.",
        "숫자 데이터에서 p = 0.5로 놓고 네 가지를 차례로 재 보십시오. 노트의 주장과 같은 것도 있고 반대로 나오는 것도 있습니다.",
    ),
    question=Question(
        Text(
            "Digits, p = 0.5: which mean accuracy is kept over 0 … 90 % of units removed?",
            "숫자 데이터, p = 0.5: 유닛을 0 … 90 % 제거하는 동안 정확도의 평균은 얼마입니까?",
        ),
        _answer,
        0.03,
        Text(
            "Choose losing units one by one and read the mean accuracy with dropout.",
            "유닛을 하나씩 잃을 때를 고르고 드롭아웃으로 학습한 쪽의 평균 정확도를 읽으십시오.",
        ),
    ),
    code=code,
    long=True,
)
