"""The table: what was asked for, what is applied and where, what is not and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from longline_liger import release

if TYPE_CHECKING:
    from longline_liger.applied import Applied
    from longline_liger.config import Kernels

COLUMNS = ("kernel", "asked", "applied", "where, or why not")
Row = tuple[str, str, str, str]


def rows(results: Sequence[Applied], options: Kernels, kernels: Sequence[str]) -> list[Row]:
    """A row for each kernel that was asked for, then for the rest of the model type's `kernels`."""
    asked = "by name" if options.wanted() else "by liger's advice"
    made = [(item.kernel, asked, "yes" if item.done else "no", ", ".join(item.places) or item.why) for item in results]
    if options.use_token_scaling:
        made.append(("use_token_scaling", "by name", "yes", "in fused_linear_cross_entropy"))
    named = {item.kernel for item in results}
    return [*made, *((name, "no", "no", "") for name in kernels if name not in named)]


def lines(model_type: str, table: Sequence[Row]) -> list[str]:
    """The table as text."""
    whole = [COLUMNS, *table]
    widths = [max(len(row[column]) for row in whole) for column in range(3)]
    text = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]).rstrip() for row in whole
    ]
    return [f"liger-kernel {release.installed_version()} on a model of type {model_type}", *(f"  {line}" for line in text)]
