"""One check of a config: a function that yields problems, with the dotted paths that it reads.

One that reads a value which is already known to be wrong is left out: its answer would only repeat or confuse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from longline.config.loader import LoadedConfig
    from longline.errors import Problem

    _Function = Callable[[LoadedConfig], Iterator[Problem]]


@dataclass(frozen=True, slots=True)
class Check:
    """One check: the function, and what it reads."""

    function: Callable[[LoadedConfig], Iterator[Problem]]
    reads: tuple[str, ...]


def adder(checks: list[Check]) -> Callable[..., Callable[[_Function], _Function]]:
    """A decorator that adds a function with what it reads to `checks`."""

    def check(*reads: str) -> Callable[[_Function], _Function]:
        def add(function: _Function) -> _Function:
            checks.append(Check(function, reads))
            return function

        return add

    return check


def touched(reads: tuple[str, ...], skip: frozenset[str]) -> bool:
    """Whether something that is read is, holds or lies in one of some dotted paths."""
    return any(
        path == read or path.startswith(f"{read}.") or read.startswith(f"{path}.") for read in reads for path in skip if path
    )
