"""What is relied on of a library beyond its documentation, in words, with a check of what is installed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any


@dataclass(frozen=True, slots=True)
class Assumption:
    """One thing that a library does not promise: the object that it is about, the sentence, and a check of what is installed."""

    about: str
    read_in: str
    sentence: str
    check: Callable[[], bool]

    def broken(self) -> str | None:
        """The sentence, with what the check raised, when it does not hold any more; None when it does."""
        try:
            if self.check():
                return None
            why = ""
        except Exception as error:  # whatever a missing or changed name raises
            why = f" ({type(error).__name__}: {error})"
        return f"{self.about}, as of {self.read_in}: {self.sentence}{why}"


def reads(path: str, *, takes: tuple[str, ...] = (), says: tuple[str, ...] = ()) -> Callable[[], bool]:
    """A check that `path` (`module:Class.method`) exists, has the parameters `takes` in this order, and `says` that."""

    def check() -> bool:
        item: Any = resolve_name(path)
        item = inspect.unwrap(getattr(item, "fget", item))  # a property has the function in it
        order = [name for name in inspect.signature(item).parameters if name in takes] if takes else []
        source = " ".join(inspect.getsource(item).split()) if says else ""
        return order == list(takes) and all(part in source for part in says)

    return check


def every(*checks: Callable[[], bool]) -> Callable[[], bool]:
    """A check that holds when all of them do."""
    return lambda: all(check() for check in checks)


def stands_in(name: str, file: str) -> Callable[[], bool]:
    """A check that `name` (`package.Class`) is defined in a file that ends so."""
    return lambda: inspect.getfile(resolve_name(name.replace(".", ":", 1))).replace("\\", "/").endswith(f"/{file}")


def of(library: str, read_in: str) -> Callable[..., Assumption]:
    """What makes assumptions about a library in a version, each of: what of it, the sentence, checks that have to hold."""

    def assumption(about: str, sentence: str, *checks: Callable[[], bool]) -> Assumption:
        return Assumption(f"{library}.{about}", read_in, sentence, every(*checks))

    return assumption
