"""An extension of griffe: what follows `name : ` in our docstrings is the description, where numpydoc has a type, and
examples need no heading.

The types stand in the signatures; saying them again in prose would be one more thing to keep true.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

SECTION = re.compile(r"^(Parameters|Attributes|Raises|Returns)\n-+\n(.*?)(?=\n\n|\Z)", re.M | re.S)
ENTRY = re.compile(r"^(\S.*?) : (.*)$", re.M)

EXAMPLES = "Examples\n--------\n"
HEADING = re.compile(r"^Examples?\n-+\n", re.M)
PROMPT = re.compile(r"(?<=\n\n)(?=>>> )")


def described(text: str) -> str:
    """The docstring with every `name : text` as a name and an indented description, examples under their heading."""

    def section(found: re.Match[str]) -> str:
        return f"{found[1]}\n{'-' * len(found[1])}\n" + ENTRY.sub(r"\1\n    \2", found[2])

    text = SECTION.sub(section, text)
    return HEADING.sub(EXAMPLES, text) if HEADING.search(text) else PROMPT.sub(EXAMPLES, text, count=1)


class Descriptions(Extension):
    """Applies `described` to every object's docstring."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = described(obj.docstring.value)
