"""Every message that a catalog must hold, read from the source."""

import ast
from pathlib import Path

from jinja2 import Environment

import allmasks

ROOM = Path(allmasks.__file__).parent
CATALOG = ROOM / "locale" / "ko" / "LC_MESSAGES" / "allmasks.po"
SPEAK = ("_", "N_", "Note")


def source_messages():
    """The msgids of all Python files and of the report's templates."""
    found = set()
    for path in sorted(ROOM.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SPEAK
            if called and node.args and isinstance(node.args[0], ast.Constant):
                found.add(node.args[0].value)
    environment = Environment(extensions=["jinja2.ext.i18n"])
    for path in sorted(ROOM.rglob("*.j2")):
        called = environment.extract_translations(path.read_text(encoding="utf-8"))
        # Of a call with a variable there is no text here; what it holds is marked where it is made.
        found |= {text for _line, _name, text in called if isinstance(text, str)}
    return found
