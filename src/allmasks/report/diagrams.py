"""The notes' diagrams as drawings of boxes and arrows, each step with the verdict of the claim that says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

from allmasks.language import N_, Translate

__all__ = ["ANALOGIES", "DIAGRAMS", "Diagram", "drawing"]

_BOX, _GAP, _STEP, _LINE = 208, 16, 34, 18


@dataclass(frozen=True)
class Diagram:
    """Rows of boxes from top to bottom; arrows join (row, place) to (row, place).

    Each box is its words and the key of the claim that says so, or "" where there is nothing to measure.
    """

    title: str
    rows: tuple[tuple[tuple[str, str], ...], ...]
    arrows: tuple[tuple[tuple[int, int], tuple[int, int]], ...]


def _chain(title: str, *boxes: tuple[str, str]) -> Diagram:
    arrows = tuple(((i, 0), (i + 1, 0)) for i in range(len(boxes) - 1))
    return Diagram(title, tuple((box,) for box in boxes), arrows)


DIAGRAMS: dict[str, Diagram] = {
    "competition": Diagram(
        N_("The notes' picture: competition between neurons"),
        (
            ((N_("Dropout is applied"), ""),),
            ((N_("Random neurons are OFF each time"), ""),),
            ((N_("Those that survive compete"), ""),),
            ((N_("Neurons with an important feature"), ""), (N_("Less important neurons"), "")),
            ((N_("Survive again and again, strengthened"), "competition"), (N_("Contribution falls"), "competition")),
            ((N_("Function gathers in particular neurons"), "concentration"),),
        ),
        (
            ((0, 0), (1, 0)),
            ((1, 0), (2, 0)),
            ((2, 0), (3, 0)),
            ((2, 0), (3, 1)),
            ((3, 0), (4, 0)),
            ((3, 1), (4, 1)),
            ((4, 0), (5, 0)),
            ((4, 1), (5, 0)),
        ),
    ),
    "unstable_units": _chain(
        N_("The notes' picture: why dropout regularizes"),
        (N_("Dropout is applied"), ""),
        (N_("Noise is injected"), ""),
        (N_("Hidden units are OFF at random"), ""),
        (N_("The output varies: variance rises"), "moments"),
        (N_("The expected loss E_m[L] is minimized"), "monte_carlo"),
        (N_("Unstable neurons are punished"), "unstable_units"),
        (N_("The effect: regularization"), "overfitting"),
    ),
    "overfitting": Diagram(
        N_("The notes' picture: how dropout works"),
        (
            ((N_("Neurons are OFF at random"), ""),),
            ((N_("No dependence on certain paths"), "single_unit"), (N_("Co-adaptation held down"), "co_adaptation")),
            ((N_("Independent features are learned"), "different_features"),),
            ((N_("Better generalization"), "overfitting"),),
        ),
        (((0, 0), (1, 0)), ((0, 0), (1, 1)), ((1, 0), (2, 0)), ((1, 1), (2, 0)), ((2, 0), (3, 0))),
    ),
    "concentration": _chain(
        N_("The notes' picture: how function gathers"),
        (N_("A penalty in the expected loss"), "variance_penalty"),
        (N_("Neurons of large output variance are suppressed"), "unstable_units"),
        (N_("Only independent, meaningful features survive"), "sparse_features"),
        (N_("Roles gather in particular neurons"), "concentration"),
    ),
}
"""By the key of the claim that each stands beside."""

ANALOGIES: dict[str, str] = {
    "monte_carlo": N_(
        "The notes' analogy. Wanted: the mean income of the whole country. It is out of the question to ask everyone. "
        "So ask 1,000 people drawn at random and take their mean: that is a Monte Carlo approximation. Dropout "
        "training draws a mask, computes the loss with it and updates; in the long run that approximates the mean over "
        "all masks."
    ),
    "single_unit": N_(
        "The notes' analogy. Dropout is a coach who teaches teamwork. Without it all players always play, and the team "
        "depends on a few of them. With it others sit on the bench each time, and those who play each develop a "
        "role of their own."
    ),
    "smoothing": N_(
        "The notes in one sentence: regularization is a device that makes a model less free and less sensitive, so "
        "that it generalizes well."
    ),
}
"""By the key of the claim that each stands beside."""


def drawing(diagram: Diagram, verdicts: Mapping[str, str], _: Translate) -> Markup:
    """The diagram as inline SVG; a box whose claim was measured carries the verdict."""
    columns = max(len(row) for row in diagram.rows)
    width = columns * _BOX + (columns - 1) * _GAP
    centers: dict[tuple[int, int], float] = {}
    tops, heights = [], []
    y = 2.0
    shapes: list[str] = []
    for r, row in enumerate(diagram.rows):
        lines = [_wrapped(_(words)) for words, _claim in row]
        measured = any(claim in verdicts for _words, claim in row)
        height = 18 + _LINE * (max(map(len, lines)) + measured)
        tops.append(y)
        heights.append(height)
        left = (width - len(row) * _BOX - (len(row) - 1) * _GAP) / 2
        for i, ((_words, claim), text) in enumerate(zip(row, lines, strict=True)):
            x = left + i * (_BOX + _GAP)
            centers[r, i] = x + _BOX / 2
            verdict = verdicts.get(claim, "")
            kind = verdict.replace(" ", "-") or "plain"
            shapes.append(f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{_BOX}" height="{height}" rx="7"/>')
            for k, line in enumerate(text):
                shapes.append(f'<text x="{x + _BOX / 2:g}" y="{y + 22 + k * _LINE:g}">{escape(line)}</text>')
            if verdict:
                at = y + 22 + len(text) * _LINE
                shapes.append(f'<text class="{kind}" x="{x + _BOX / 2:g}" y="{at:g}">{escape(_(verdict))}</text>')
        y += height + _STEP
    for (r, i), (s, j) in diagram.arrows:
        x1, y1, x2, y2 = centers[r, i], tops[r] + heights[r], centers[s, j], tops[s]
        shapes.append(f'<path d="M{x1:g} {y1:g} L{x2:g} {y2 - 7:g}"/>')
        shapes.append(f'<path class="head" d="M{x2 - 5:g} {y2 - 9:g} L{x2:g} {y2 - 1:g} L{x2 + 5:g} {y2 - 9:g} Z"/>')
    total = y - _STEP + 2
    label = escape(_(diagram.title), quote=True)
    return Markup(
        f'<svg class="diagram" role="img" aria-label="{label}" viewBox="-1 0 {width + 2} {total:g}" '
        f'style="max-width:{width}px">{"".join(shapes)}</svg>'
    )


def _wrapped(words: str, at_most: int = 26) -> Sequence[str]:
    """Lines of words; Korean letters are twice as wide."""
    lines, line = [], ""
    for word in words.split():
        longer = f"{line} {word}".strip()
        if line and _columns(longer) > at_most:
            lines.append(line)
            line = word
        else:
            line = longer
    return [*lines, line]


def _columns(text: str) -> int:
    return sum(2 if ord(c) >= 0x1100 else 1 for c in text)
