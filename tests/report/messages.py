"""Every message that the report can say, read from its source."""

import ast
from pathlib import Path

from jinja2 import Environment

import allmasks.report

ROOM = Path(allmasks.report.__file__).parent
CATALOG = ROOM / "locale" / "ko" / "LC_MESSAGES" / "allmasks.po"


def source_messages():
    """The msgids of the room's Python files and its template, and of the command line, which speaks through it."""
    found = set()
    others = [*sorted((ROOM.parent / "cli").glob("*.py")), ROOM.parent / "evidence" / "runner.py"]
    for path in [*sorted(ROOM.glob("*.py")), *others]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("_", "N_"):
                argument = node.args[0]
                if isinstance(argument, ast.Constant):
                    found.add(argument.value)
    environment = Environment(extensions=["jinja2.ext.i18n"])
    for path in sorted(ROOM.glob("*.j2")):
        found |= {text for _line, _name, text in environment.extract_translations(path.read_text(encoding="utf-8"))}
    return found
