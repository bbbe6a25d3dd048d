"""The chapters as Jupyter notebooks, for teachers who want to change them."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from allmasks.files import write_text
from allmasks.lab import chapters
from allmasks.lab.payload import payload, plain
from allmasks.lab.protocol import Answer, Chapter, Settings
from allmasks.language import translator

__all__ = ["notebook", "plotly_figure", "show", "write_notebooks"]

_COLOR = re.compile(r"--(\w+): ([^;]+);")


@cache
def _colors() -> dict[str, str]:
    """The report's colors by their names, of its light theme."""
    style = (resources.files("allmasks.report") / "page.css").read_text(encoding="utf-8")
    return dict(_COLOR.findall(style.split("}")[0]))


def plotly_figure(answer: Answer, lang: str = "en") -> dict[str, Any]:
    """The picture as plotly knows it: colors for their names, and surfaces as heat maps."""

    def painted(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: painted(v) for k, v in value.items()}
        if isinstance(value, list):
            return [painted(v) for v in value]
        named = isinstance(value, str) and value.startswith("@")
        return _colors().get(value[1:], value) if named else value

    figure = painted(plain(answer.figure, lang))
    surfaces = []
    for heat in figure.pop("heat", []):
        n, m = len(heat["z"]), len(heat["z"][0])
        surfaces.append(
            {
                "type": "heatmap",
                "z": heat["z"],
                "zmin": heat["low"],
                "zmax": heat["high"],
                "x": [heat["x"][0] + (heat["x"][1] - heat["x"][0]) * (i + 0.5) / m for i in range(m)],
                "y": [heat["y"][0] + (heat["y"][1] - heat["y"][0]) * (i + 0.5) / n for i in range(n)],
                "xaxis": heat["xref"],
                "yaxis": heat["yref"],
                "colorscale": [[0, _colors()["second"]], [0.5, "#ffffff"], [1, _colors()["accent"]]],
                "showscale": False,
                "opacity": 0.8,
            }
        )
    return {"data": surfaces + figure["data"], "layout": figure["layout"]}


def show(chapter: Chapter, controls: Settings, lang: str = "en") -> Answer:
    """The answer of a chapter: its picture, where the notebook can draw, its numbers and its sentence as text."""
    answer = chapter.compute(controls)
    told = payload(chapter, answer, chapter.settle(controls), lang)
    if "IPython" in sys.modules:
        from IPython.display import display

        picture = {"application/vnd.plotly.v1+json": plotly_figure(answer, lang), "text/plain": told["sentence"]}
        display(picture, raw=True)
    width = max((len(row["label"]) for row in told["numbers"]), default=0)
    for row in told["numbers"]:
        print(f"{row['label']:<{width}}  {row['text']}  {row['kind']}".rstrip())
    print(told["sentence"])
    return answer


def notebook(chapter: Chapter, lang: str = "en") -> dict[str, Any]:
    """One chapter: what it says, its own code to change, its controls to set, and the library's calls."""
    _ = translator(lang)
    module = sys.modules[chapter.work.__module__]
    values = "\n".join(f"# {c.key}: {_values(c.values)}" for c in chapter.controls)
    set_ = f"controls = {chapter.start!r}\nanswer = show(CHAPTER, controls, {lang!r})"
    run = f"from allmasks.lab.notebooks import show\n\n{values}\n{set_}"
    cells = [
        ("markdown", f"# {chapter.number}. {chapter.title[lang]}\n\n{chapter.asks[lang]}\n\n{chapter.says[lang]}"),
        ("markdown", _("The chapter's own code: change what you like and run the cells below again.")),
        ("code", inspect.getsource(module)),
        ("code", run),
        (
            "markdown",
            f"**{_('What to try.')}** {chapter.to_try[lang]}\n\n**{_('Question.')}** {chapter.question.text[lang]}",
        ),
        ("code", chapter.code(**chapter.start)),
    ]
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "language_info": {"name": "python"},
        },
        "cells": [_cell(i, kind, text) for i, (kind, text) in enumerate(cells)],
    }


def _values(values: tuple[Any, ...]) -> str:
    return ", ".join(map(repr, values)) if len(values) <= 14 else f"{values[0]!r} … {values[-1]!r}"


def _cell(i: int, kind: str, text: str) -> dict[str, Any]:
    cell: dict[str, Any] = {
        "id": f"cell-{i}",
        "cell_type": kind,
        "metadata": {},
        "source": text.splitlines(keepends=True),
    }
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def write_notebooks(folder: Path, lang: str = "en", tell: Callable[[Path], None] | None = None) -> None:
    """A notebook for each chapter. One that is there is kept: a teacher may have changed it.

    Raises
    ------
    FileExistsError : a notebook of that name is there already.
    """
    _ = translator(lang)
    paths = [(found, folder / f"{found.number:02d}-{found.key}.{lang}.ipynb") for found in chapters()]
    for _found, path in paths:
        if path.exists():
            raise FileExistsError(
                _("{path} is there already and may have been changed: choose another --out DIR").format(path=path)
            )
    for found, path in paths:
        write_text(path, json.dumps(notebook(found, lang), ensure_ascii=False, indent=1) + "\n")
        if tell is not None:
            tell(path)
