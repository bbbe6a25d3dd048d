"""The claims of the notes and their verdicts."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from allmasks.evidence import CLAIMS
from allmasks.lab.protocol import Answer, Chapter, Control, Question, nothing_chosen, words
from allmasks.language import Text
from allmasks.report.figures import layout

VERDICTS = {
    "all": Text("all claims", "모든 주장"),
    "holds": Text("holds", "성립"),
    "holds in part": Text("holds in part", "부분 성립"),
    "not seen": Text("not seen", "관찰되지 않음"),
    "contradicted": Text("contradicted", "반증됨"),
}
DATASETS = {name: Text(name, name) for name in ("digits", "breast_cancer", "wine", "diabetes")}
SAYS = {
    "for": (Text("for the claim", "주장을 지지"), "@accent", "circle"),
    "against": (Text("against it", "주장에 반대"), "@second", "x"),
    "nothing": (Text("says nothing", "판단 불가"), "@muted", "circle-open"),
}
ORDERS = {"notes": Text("as in the notes", "노트의 순서"), "effect": Text("strongest effect first", "효과가 큰 것부터")}
EDGE = 6.0
"""Effects beyond so many thresholds are drawn at the edge."""


@cache
def results() -> tuple[dict[str, Any], ...]:
    """The full run of `allmasks evidence`: each claim's number, verdict and readings."""
    text = (resources.files("allmasks.lab") / "verdicts.json").read_text(encoding="utf-8")
    return tuple(json.loads(text))


def in_thresholds(number: int, reading: dict[str, Any]) -> float:
    """An effect over what counts; of an agreement 1 − |deviation| / tolerance, so that the right is for the claim."""
    criterion = CLAIMS[number - 1].criteria[ord(reading["criterion"]) - ord("a")]
    share = reading["effect"] / criterion.minimum
    return float(np.clip(share if criterion.kind == "difference" else 1 - abs(share), -EDGE, EDGE))


def work(verdict: str, data: tuple[str, ...], order: str) -> Answer:
    if not data:
        return nothing_chosen(
            "No data set is chosen, so there is nothing to judge by: choose at least one.",
            "고른 데이터가 없어 판단할 것이 없습니다. 데이터를 하나 이상 고르십시오.",
        )
    shown = [row for row in results() if verdict in ("all", row["verdict"])]
    kept = {row["number"]: [r for r in row["readings"] if r["dataset"] in data] for row in shown}
    shown = [row for row in shown if kept[row["number"]]]
    if order == "effect":
        shown.sort(key=lambda row: -max(abs(in_thresholds(row["number"], r)) for r in kept[row["number"]]))
    figure = _figure(shown, kept)
    readings = [r for row in shown for r in kept[row["number"]]]
    counts = {name: sum(row["verdict"] == name for row in shown) for name in VERDICTS if name != "all"}
    numbers = (
        words("claims", "claims shown", "보이는 주장", len(shown)),
        *(words(name.replace(" ", "_"), VERDICTS[name].en, VERDICTS[name].ko, n) for name, n in counts.items()),
        *(
            words(says, f"readings: {name.en}", f"측정: {name.ko}", sum(r["says"] == says for r in readings))
            for says, (name, _, _) in SAYS.items()
        ),
    )
    named = [row for row in shown if row["verdict"] == "contradicted"]
    sentence = Text(
        f"{len(shown)} claims of the notes, as measured on {', '.join(data)}: "
        + ", ".join(f"{n} {VERDICTS[name].en}" for name, n in counts.items())
        + ". "
        + (f"Contradicted: {'; '.join(CLAIMS[row['number'] - 1].title.en for row in named)}." if named else ""),
        f"노트의 주장 {len(shown)}개를 {', '.join(data)} 데이터에서 잰 결과입니다: "
        + ", ".join(f"{VERDICTS[name].ko} {n}개" for name, n in counts.items())
        + ". "
        + (f"반증된 주장: {'; '.join(CLAIMS[row['number'] - 1].title.ko for row in named)}." if named else ""),
    )
    return Answer(figure, numbers, sentence)


def _figure(shown: list[dict[str, Any]], kept: dict[int, list[dict[str, Any]]]) -> dict[str, Any]:
    """A row a claim, a mark a reading, in units of its threshold: beyond the line at 1 counts for the claim."""
    place = {row["number"]: i for i, row in enumerate(shown)}
    data = []
    for says, (name, color, symbol) in SAYS.items():
        marks = [(row["number"], r) for row in shown for r in kept[row["number"]] if r["says"] == says]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": [in_thresholds(number, r) for number, r in marks],
                "y": [place[number] for number, _ in marks],
                "hovertext": [
                    f"{r['criterion']} · {r['dataset']}: {r['effect']:g} [{r['low']:g}, {r['high']:g}]"
                    for _, r in marks
                ],
                "hoverinfo": "text",
                "marker": {"color": color, "symbol": symbol, "size": 9},
            }
        )
    titles = [CLAIMS[row["number"] - 1].title for row in shown]
    short = [
        Text(*(f"{row['number']}. {t if len(t) < 34 else t[:32] + '…'}" for t in (title.en, title.ko)))
        for row, title in zip(shown, titles, strict=True)
    ]
    across = {
        "title": {"text": Text("effect, in units of the least that counts", "효과 (의미 있는 최소 효과의 배수)")},
        "range": [-6.5, 6.5],
    }
    names = {
        "tickvals": list(range(len(shown))),
        "ticktext": short,
        "range": [len(shown) - 0.5, -0.5],
        "zeroline": False,
    }
    return {
        "data": data,
        "layout": layout(height=max(320, 140 + 24 * len(shown)), legend=True, xaxis=across, yaxis=names),
    }


def code(verdict: str, data: tuple[str, ...], order: str) -> str:
    return f"""\
from allmasks.evidence import CLAIMS
from allmasks.lab.pictures.l11_claims import results  # the full run of `allmasks evidence`

for row in results():
    if {verdict!r} in ("all", row["verdict"]):
        print(row["number"], CLAIMS[row["number"] - 1].title.en, "-", row["verdict"])
        for reading in row["readings"]:
            if reading["dataset"] in {data!r}:
                print("   ", reading)
"""


CHAPTER = Chapter(
    number=11,
    key="claims",
    title=Text("The claims and their verdicts", "주장과 판정"),
    asks=Text(
        "Which of the notes' claims about dropout hold when they are measured?",
        "드롭아웃에 대한 노트의 주장 가운데 실제로 재어 보면 어느 것이 성립합니까?",
    ),
    says=Text(
        "28 claims, each with what would count for and against it fixed beforehand, measured on small nets and on linear "
        "models with 10 seeds. `allmasks evidence` repeats the run.",
        "주장 28개마다 무엇이 지지하고 무엇이 반박하는지를 먼저 정한 뒤, 작은 신경망과 선형 모델에서 시드 10개로 쟀습니다. "
        "`allmasks evidence`로 다시 실행할 수 있습니다.",
    ),
    section=Text("All of them", "노트 전체"),
    controls=(
        Control("verdict", Text("verdict", "판정"), tuple(VERDICTS), "all", kind="choice", names=VERDICTS),
        Control("data", Text("data", "데이터"), tuple(DATASETS), tuple(DATASETS), kind="pick", names=DATASETS),
        Control("order", Text("order", "순서"), tuple(ORDERS), "notes", kind="choice", names=ORDERS),
    ),
    work=work,
    to_try=Text(
        "Show only what is contradicted, and ask which data set speaks against it. A verdict is about these small nets, not about all nets.",
        "반증된 것만 골라 어느 데이터가 반대하는지 보십시오. 판정은 이 작은 신경망들에 대한 것이지 모든 신경망에 대한 것이 아닙니다.",
    ),
    question=Question(
        Text("How many of the 28 claims are contradicted?", "주장 28개 가운데 반증된 것은 몇 개입니까?"),
        lambda: work("all", tuple(DATASETS), "notes").value("contradicted"),
        0.0,
        Text("Choose the verdict and count.", "판정을 골라 세어 보십시오."),
    ),
    code=code,
)
