"""Values as the local dashboard can show them: it draws lines and lists of texts, and nested values as `[object Object]`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def rows_as_text(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[tuple[str, str]]:
    """Each row as (caption, text): numbers on one line, then every text under the name of its column.

    The last number is the first in the caption: it is the one that a method is judged by, such as margin or advantage, and the
    dashboard shows some 20 characters of a caption until one clicks on it.
    """
    for number, row in enumerate(rows, start=1):
        cells = dict(zip(columns, row, strict=True))
        texts = {name: value for name, value in cells.items() if isinstance(value, str)}
        numbers = [f"{name} {_number(value)}" for name, value in cells.items() if name not in texts and value is not None]
        text = "\n\n".join(f"[{name}]\n{value}" for name, value in texts.items())
        yield " · ".join(reversed(numbers)) or f"row {number}", text or "\n".join(numbers)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """A nested config under dotted keys, such as `trainer.learning_rate` and `data.train.0.path`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{above}{name}"
        if isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
            value = {str(index): item for index, item in enumerate(value)}
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{key}.")
        else:
            found[key] = json.dumps(value) if isinstance(value, (list, Mapping)) else value
    return found
