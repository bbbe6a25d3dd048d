"""A hook of mkdocs: formulas become MathML while the site is built, so that pages need no script and no network."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\(\(|\[)(.*?)\\[)\]]</\1>', re.S)


def _mathml(found: re.Match[str]) -> str:
    tag, bracket, source = found.groups()
    latex = html.unescape(source).strip()
    try:
        drawn = convert(latex, display="inline" if bracket == "(" else "block")
    except Exception as problem:
        raise ValueError(f"this formula cannot be drawn ({type(problem).__name__}): {latex}") from problem
    return f'<{tag} class="formula">{drawn}</{tag}>'


def on_page_content(content: str, **_: Any) -> str:
    """Replace every formula that arithmatex marked."""
    return FORMULA.sub(_mathml, content)
