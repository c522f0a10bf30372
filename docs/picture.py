"""Draws the line and its hooks in time, docs/images/line.svg and line-narrow.svg, from the hook specifications; see generate.py.

The wide picture has columns under a line that runs there, back and there again; the narrow one has one column beside the line.
Both follow the colour scheme of whoever looks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longline.hookspecs import HookFacts

ROW = 19
"""From one hook to the next."""
COLUMNS, COLUMN, MARGIN = 3, 222, 10
TALLEST = 9
"""A group of more hooks goes on in a second column, behind the last of those that fire again and again."""
ALONE = 300
"""How wide the narrow picture is."""
AGAIN = "again and again"

STYLE = """
text { font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #24292f }
.stage { font: bold 13px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
.note { font: 12px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: #57606a }
.line, .snood, .loop { fill: none; stroke: #57606a; stroke-width: 3; stroke-linecap: round }
.snood { stroke-width: 1 }
.loop { stroke-width: 1.5; stroke-dasharray: 4 3 }
.knot { fill: #57606a }
.shape { stroke: #b35900; fill: #b35900 } .provide { stroke: #8250df; fill: #8250df } .observe { stroke: #0969da; fill: #0969da }
.main { fill: #fff; fill-opacity: 0.01; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .note { fill: #9da7b3 } .line, .snood, .loop { stroke: #9da7b3 } .knot { fill: #9da7b3 }
  .shape { stroke: #f0883e; fill: #f0883e } .provide { stroke: #bc8cff; fill: #bc8cff } .observe { stroke: #58a6ff; fill: #58a6ff }
  .main { fill: #fff; fill-opacity: 0.01 }
}
"""
LEGEND = (
    ("shape", "", "shape: may change what it is handed"),
    ("provide", "", "provide: answers in the core's place"),
    ("observe", "", "observe: is told"),
    ("observe", "main", "hollow: on the main rank alone"),
)


@dataclass(frozen=True)
class Group:
    """Hooks under a heading, in the order of time; of one that goes on in a further column the heading is empty there."""

    heading: str
    hooks: Mapping[str, HookFacts]


def groups(facts: Mapping[str, HookFacts], headings: Mapping[str, str]) -> list[Group]:
    """The hooks by the headings of the source: `headings` has the first hook of each."""
    found: list[tuple[str, dict[str, HookFacts]]] = []
    for name, fact in facts.items():
        if name in headings:
            found.append((headings[name], {}))
        found[-1][1][name] = fact
    return [Group(heading, hooks) for heading, hooks in found]


def wide(facts: Mapping[str, HookFacts], headings: Mapping[str, str]) -> str:
    """The picture for a page that has room."""
    columns = [column for group in groups(facts, headings) for column in _broken(group)]
    rows = [columns[start : start + COLUMNS] for start in range(0, len(columns), COLUMNS)]
    width, top, parts, tops = 2 * MARGIN + COLUMNS * COLUMN, 24, [], []
    for row in rows:
        tops.append(top)
        for number, group in enumerate(row):
            parts += _hung(group, MARGIN + 8 + number * COLUMN, top)
        top += 44 + ROW * max(len(group.hooks) for group in row) + 34
    parts.insert(0, _line(tops, MARGIN, width - MARGIN - 10))
    for number, (kind, ranks, text) in enumerate(LEGEND):
        parts += _entry(kind, ranks, text, MARGIN + 8 + number % 2 * 1.5 * COLUMN, top - 14 + number // 2 * ROW)
    return _picture(width, top + 2 * ROW - 8, parts)


def narrow(facts: Mapping[str, HookFacts], headings: Mapping[str, str]) -> str:
    """The picture for a telephone: the line goes down, the hooks hang beside it."""
    top, parts = 30, []
    for group in groups(facts, headings):
        parts += _hung(group, MARGIN + 8, top, beside=True)
        top += 44 + ROW * len(group.hooks)
    end = top - 14
    x = MARGIN + 8
    parts.insert(0, f'<path class="line" d="M{x} 14 V{end} m-6 -9 l6 9 l6 -9"/>')
    for number, (kind, ranks, text) in enumerate(LEGEND):
        parts += _entry(kind, ranks, text, MARGIN + 8, end + 26 + number * ROW)
    return _picture(ALONE, end + 34 + ROW * len(LEGEND), parts)


def _broken(group: Group) -> Iterator[Group]:
    names = list(group.hooks)
    repeated = [number for number, fact in enumerate(group.hooks.values(), start=1) if fact.repeated]
    cut = repeated[-1] if len(names) > TALLEST and repeated else len(names)
    for heading, some in ((group.heading, names[:cut]), ("", names[cut:])):
        if some:
            yield Group(heading, {name: group.hooks[name] for name in some})


def _line(tops: Sequence[int], left: int, right: int) -> str:
    """There, back below the hooks, and there again."""
    path = f"M{left} {tops[0]} H{right}"
    for above, below in pairwise(tops):
        back = below - 28
        path = f"{path} C{right + 14} {above} {right + 14} {back} {right - 10} {back} H{left + 10}"
        path = f"{path} C{left - 12} {back} {left - 12} {below} {left + 10} {below} H{right}"
    return f'<path class="line" d="{path} m-8 -6 l8 6 l-8 6"/>'


def _hung(group: Group, x: int, top: int, *, beside: bool = False) -> Iterator[str]:
    """A knot in the line, the heading, and the hooks below it on a snood."""
    yield f'<circle class="knot" cx="{x}" cy="{top}" r="5"/>' if group.heading else ""
    yield f'<text class="stage" x="{x + 12}" y="{top + (4 if beside else 20)}">{escape(group.heading)}</text>'
    first = top + (26 if beside else 42)
    if not beside:
        yield f'<path class="snood" d="M{x} {top} V{first + ROW * (len(group.hooks) - 1)}"/>'
    for number, (name, fact) in enumerate(group.hooks.items()):
        y = first + number * ROW
        yield f'<path class="snood" d="M{x} {y} h12"/>{_mark(fact.kind, fact.ranks, x + 17, y)}'
        yield f'<text x="{x + 27}" y="{y + 4}">{name}</text>'
    again = [number for number, fact in enumerate(group.hooks.values()) if fact.repeated]
    if len(again) > 1 and again == list(range(again[0], again[-1] + 1)):
        yield _loop(x + 31 + 7.25 * max(map(len, group.hooks)), first + again[0] * ROW, first + again[-1] * ROW)


def _loop(x: float, begin: int, end: int) -> str:
    """An arrow from the last of the hooks that fire again and again back to the first."""
    back = f'<path class="loop" d="M{x:g} {end} h6 q6 0 6 -6 V{begin + 6} q0 -6 -6 -6 h-6"/>'
    head = f'<path class="snood" d="M{x + 5:g} {begin - 4} l-5 4 l5 4"/>'
    place = f"translate({x + 17:g} {(begin + end) / 2:g}) rotate(90)"
    return f'{back}{head}<text class="note" transform="{place}" text-anchor="middle">{AGAIN}</text>'


def _mark(kind: str, ranks: str, x: float, y: int) -> str:
    """A square, a diamond or a disc, so that the kinds can be told apart without colours."""
    style = f"{kind} main" if ranks == "main" else kind
    if kind == "shape":
        return f'<rect class="{style}" x="{x - 4}" y="{y - 4}" width="8" height="8"/>'
    if kind == "provide":
        return f'<path class="{style}" d="M{x - 5} {y} l5 -5 l5 5 l-5 5 z"/>'
    return f'<circle class="{style}" cx="{x}" cy="{y}" r="4"/>'


def _entry(kind: str, ranks: str, text: str, x: float, y: int) -> Iterator[str]:
    yield _mark(kind, ranks, x + 4, y)
    yield f'<text class="note" x="{x + 15}" y="{y + 4}">{escape(text)}</text>'


def _picture(width: int, height: int, parts: Sequence[str]) -> str:
    title = "The line of a run and its hooks, in the order of time"
    inside = "\n".join(part for part in parts if part)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n{inside}\n</svg>\n"
    )
