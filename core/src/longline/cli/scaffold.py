"""A distribution to start from, out of the templates that come with Longline. The standard library is all that it needs.

A template is a distribution called newname, whole and in working order. Its names are replaced, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from keyword import iskeyword
from pathlib import Path

TEMPLATES = Path(__file__).resolve().parents[1] / "templates"
NAME = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")
"""What a plugin, a method or a format may be called: it becomes part of the names of a distribution and of a package."""


def wrong(name: str) -> str | None:
    """What is wrong with a name, or None."""
    if not NAME.fullmatch(name):
        return "a name is made of small letters, digits and single hyphens, and begins with a letter"
    if iskeyword(name):
        return "that is a word of Python"
    return None


def written(template: str, name: str) -> Iterator[tuple[Path, str]]:
    """Every file of a template under its new name, relative to the distribution's folder, with its content.

    `name` is as `wrong` lets it pass. The distribution is called longline-NAME with hyphens, the package longline_NAME with
    underscores, the entry point NAME as it was given, constants and classes as the language has it.
    """
    snake = name.replace("-", "_")
    replaced = {
        "longline-newname": f"longline-{name.replace('_', '-')}",
        "longline_newname": f"longline_{snake}",
        "test_newname": f"test_{snake}",
        "NewName": "".join(part.capitalize() for part in snake.split("_")),
        "NEWNAME": snake.upper(),
        "newname": name,
    }
    pattern = re.compile("|".join(replaced))

    def renamed(text: str) -> str:
        return pattern.sub(lambda found: replaced[found.group()], text)

    for path in sorted((TEMPLATES / template).rglob("*")):
        # An installer compiles the templates' modules.
        if path.is_file() and "__pycache__" not in path.parts:
            yield Path(renamed(str(path.relative_to(TEMPLATES / template)))), renamed(path.read_text(encoding="utf-8"))
