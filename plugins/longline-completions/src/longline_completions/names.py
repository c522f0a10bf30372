"""Names of columns that a person wrote: found, or refused with the nearest one."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches

from longline.errors import ConfigError


def suggestion(name: str, columns: Collection[str]) -> str:
    """Return what to write instead of a name that is no column."""
    there = f"there are {', '.join(columns)}"
    close = get_close_matches(name, columns, n=1)
    return f"did you mean {close[0]!r}? {there}" if close else there


def known(name: str, columns: Collection[str], option: str) -> str:
    """Return the name if it is a column.

    Raises:
        ConfigError: it is none.
    """
    if name not in columns:
        raise ConfigError(f"{option}: there is no column {name!r}", hint=suggestion(name, columns))
    return name
