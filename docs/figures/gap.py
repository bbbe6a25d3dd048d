"""Draws docs/assets/gap*.svg: the demo's gap between training and validation loss, in two languages, light and dark.

python docs/figures/gap.py
"""

from __future__ import annotations

from html import escape
from pathlib import Path

import allmasks as am
from allmasks.demo import demo, training_digits
from allmasks.language import translator

FOLDER = Path(__file__).parents[1] / "assets"
THEMES = {
    "light": {"ink": "#1b1f24", "quiet": "#5a6470", "total": "#4a5868", "dropout": "#c8571b", "rest": "#2e8b57"},
    "dark": {"ink": "#e8ebee", "quiet": "#a3adb8", "total": "#aab6c2", "dropout": "#eb9a5b", "rest": "#6fcf97"},
}
WIDTH, LEFT, RIGHT, ROW, BAR = 760, 210, 150, 40, 24


def drawing(gap: am.diagnose.LossGap, lang: str, theme: str) -> str:
    _, color = translator(lang), THEMES[theme]
    rows = [
        (_("training loss (train mode)"), 0.0, gap.training, f"{gap.training:.3f} ± {gap.training_error:.3f}", "total"),
        (
            _("dropout's share"),
            gap.training_eval,
            gap.training,
            f"{gap.dropout:.3f} ± {gap.dropout_error:.3f}",
            "dropout",
        ),
        (_("training loss (eval mode)"), 0.0, gap.training_eval, f"{gap.training_eval:.3f}", "total"),
        (
            _("generalization"),
            gap.training_eval,
            gap.validation,
            f"{gap.generalization:.3f} ± {gap.generalization_error:.3f}",
            "rest",
        ),
        (
            _("validation loss (eval mode)"),
            0.0,
            gap.validation,
            f"{gap.validation:.3f} ± {gap.validation_error:.3f}",
            "total",
        ),
    ]
    scale = (WIDTH - LEFT - RIGHT) / max(end for _label, _start, end, _text, _kind in rows)
    shapes = []
    for i, (label, start, end, text, kind) in enumerate(rows):
        x, width, y = LEFT + scale * min(start, end), scale * abs(end - start), 8 + i * ROW
        shapes.append(f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{color[kind]}"/>')
        middle = y + BAR / 2 + 5
        at = f'x="{LEFT - 10}" y="{middle}" text-anchor="end" fill="{color["ink"]}"'
        shapes.append(f"<text {at}>{escape(label)}</text>")
        shapes.append(f'<text x="{x + width + 8:.1f}" y="{middle}" fill="{color["quiet"]}">{escape(text)}</text>')
        if i + 1 < len(rows):
            at = LEFT + scale * (gap.training if i == 0 else gap.training_eval if i < 3 else gap.validation)
            line = f'x1="{at:.1f}" x2="{at:.1f}" y1="{y + BAR}" y2="{y + ROW}"'
            shapes.append(f'<line {line} stroke="{color["quiet"]}" stroke-dasharray="2 3"/>')
    title = escape(_("Training and validation loss"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {len(rows) * ROW}" role="img" font-size="14" '
        f'font-family="system-ui, sans-serif"><title>{title}</title>{"".join(shapes)}</svg>\n'
    )


def main() -> None:
    net, held_out = demo()
    found = am.audit(net, training_digits(), "cross_entropy", validation=held_out, instruments=False, progress=False)
    for lang, ending in (("en", ""), ("ko", ".ko")):
        for theme in THEMES:
            file = FOLDER / f"gap-{theme}{ending}.svg"
            file.write_text(drawing(found.gap, lang, theme), encoding="utf-8")


if __name__ == "__main__":
    main()
