"""The pages of the documentation and their fenced blocks, for the tests that hold what they say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
READMES = [
    ROOT / "README.md",
    ROOT / "core" / "README.md",
    *sorted(ROOT.glob("examples/*/README.md")),
    *sorted(ROOT.glob("plugins/*/README.md")),
]
PAGES = [*READMES, *sorted(DOCS.rglob("*.md"))]


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, its language, its text, and the heading above it."""

    page: Path
    line: int
    language: str
    text: str
    heading: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    language, start, heading, inside = None, 0, "", []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if language is not None and line == "```":
            yield Block(page, start, language, "\n".join(inside) + "\n", heading)
            language = None
        elif language is not None:
            inside.append(line)
        elif line.startswith("```"):
            language, start, inside = line[3:], number, []
        elif line.startswith("#"):
            heading = line.lstrip("# ")


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def blocks(*languages: str) -> list[Block]:
    found = [block for block in BLOCKS if block.language in languages]
    assert found
    return found


def each(found: list[Any]) -> Any:
    return pytest.mark.parametrize("item", found, ids=str)
