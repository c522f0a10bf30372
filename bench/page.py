"""Makes the page docs/performance.md, its plots, and bench/results.md from the JSON files in bench/results; nothing is typed.

    python bench/page.py [--check]

`--check` writes nothing: exit status 1 when the pages are not what the files say.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

from common import HERE, columns, shown
from plots import PLOTS

RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "performance.md"
SUMMARY = HERE / "results.md"
ORDER = (
    "train",
    "dpo",
    "first_step",
    "startup",
    "prepare",
    "data_growth",
    "resume",
    "growth",
    "observers",
    "bus_share",
    "bus",
)
MADE = "<!-- made by bench/page.py from bench/results: change those -->"
INTRODUCTION = """\
Every figure here was measured by a program in `bench/`, and this page is made of what they wrote. Peers do the same work on the
same machine, in turns with Longline: A, B, C, A, B, C, each in a process of its own. A ratio is taken round by round, so that
what slows the machine for a while slows both sides. Shown is the median, and in brackets the least and the greatest.

`tox run -e bench` repeats a short version, `tox run -e bench -- --full` all of it; `python bench/NAME.py --help` tells of one."""


def load(folder: Path) -> list[dict[str, Any]]:
    """The results in a folder, in the order of the page."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    names = [*(name for name in ORDER if name in found), *(name for name in found if name not in ORDER)]
    return [found[name] for name in names]


def page(results: list[dict[str, Any]], images: str) -> str:
    """The whole page; `images` is where its plots are, seen from it."""
    parts = ["# Performance", MADE, INTRODUCTION, machines(results), "## Goals", goals(results)]
    for result in results:
        parts += [f"## {result['title']}", told(result["name"])]
        if result["name"] in PLOTS:
            parts.append(f"![{result['title']}]({images}/{result['name']}.svg)")
        parts += tables(result["rows"])
        note = ", ".join(
            f"{name}: {shown(value)}" for name, value in result["facts"].items() if isinstance(value, (int, float))
        )
        if note:
            parts.append(note[0].upper() + note[1:] + ".")
    return "\n\n".join(part for part in parts if part) + "\n"


def summary(results: list[dict[str, Any]]) -> str:
    """The goals alone, for the folder."""
    return "\n\n".join(["# Results", MADE, machines(results), goals(results)]) + "\n"


def machines(results: list[dict[str, Any]]) -> str:
    """On what was measured; one line when all was measured on the same."""
    lines = []
    for result in results:
        machine = result["facts"]["machine"]
        versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        processor = f"{machine['cores']} cores of {machine['processor']}, {machine['memory_gb']} GB"
        lines.append(f"Measured on {processor}, with Python {machine['python']}, {versions}.")
    return "\n\n".join(dict.fromkeys(lines))


def goals(results: list[dict[str, Any]]) -> str:
    """Every goal and whether it is reached, as a table."""
    rows = [
        {
            "benchmark": f"`{result['name']}`",
            "what": goal["what"],
            "found": goal["found"],
            "goal": goal["wanted"],
            "": "reached" if goal["met"] else "**missed**",
        }
        for result in results
        for goal in result["goal"]
    ]
    return markdown(rows)


def told(name: str) -> str:
    """What a script says of itself: its docstring, with the command as code."""
    path = HERE / f"{name}.py"
    if not path.exists():
        return ""
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return re.sub(r"^ {4,}(.*)$", r"```text\n\1\n```", doc, flags=re.MULTILINE)


def tables(rows: list[dict[str, Any]]) -> list[str]:
    """Tables of rows: a new one where what is varied changes, since other columns go with it."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row.get("grows", ""), []).append(row)
    return [markdown(group) for group in groups.values()]


def markdown(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    names = columns(rows)
    lines = [
        [name.replace("_", " ") for name in names],
        ["---"] * len(names),
        *([shown(row.get(n)) for n in names] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def write(folder: Path, target: Path, images: Path) -> None:
    """Write a page of the results in `folder`, and its plots."""
    results = load(folder)
    images.mkdir(parents=True, exist_ok=True)
    for result in results:
        if result["name"] in PLOTS:
            PLOTS[result["name"]](result["rows"], images / f"{result['name']}.svg")
    target.write_text(page(results, images.relative_to(target.parent).as_posix()), encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Write both pages, or compare."""
    images = PAGE.parent / "images" / "performance"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    chosen = parser.parse_args(arguments)
    results = load(RESULTS)
    if not results:
        sys.exit("there are no results: python bench/run.py --full")
    texts = {PAGE: page(results, images.relative_to(PAGE.parent).as_posix()), SUMMARY: summary(results)}
    if chosen.check:
        stale = [path for path, text in texts.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
        if stale:
            print(f"not what bench/page.py writes: {', '.join(path.name for path in stale)}")
        return int(bool(stale))
    write(RESULTS, PAGE, images)
    SUMMARY.write_text(texts[SUMMARY], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
