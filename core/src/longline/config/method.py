"""The methods that a config may name: objects of `longline.methods`, found by their entry points, whoever brings them.

The config stands below the methods and imports none of them: it asks the object that stands behind the name.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, cast

from longline.config import doors
from longline.config.sections import Config
from longline.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from longline.config.document import Node
    from longline.methods.base import Method

GROUP = "longline.methods"
"""The entry-point group of methods; an entry is an instance of `longline.methods.base.Method`."""
WHAT = "method"
ELSEWHERE = {"distill": "longline-distill", "diffusion": "longline-diffusion"}
"""Methods that are not the core's, and the distribution that would bring each."""


@cache
def find(name: str) -> Method:
    """The method of that name.

    Raises:
        ConfigError: nobody offers it, several distributions do, or what is offered cannot be imported or is no method.
    """
    entry = doors.find(GROUP, name, WHAT, ELSEWHERE)
    # Imported by its name: methods stand above the config and import it.
    method = cast("Method", doors.load(entry, WHAT, import_module("longline.methods.base").Method))
    if method.name != name:
        raise ConfigError(f"the method {name!r} ({doors.distribution(entry)}) calls itself {method.name!r}")
    return method


def brought_by(name: str) -> str:
    """The name of the distribution that brings a method."""
    entry = doors.find(GROUP, name, WHAT, ELSEWHERE)
    return entry.dist.name if entry.dist else doors.CORE


def names() -> list[str]:
    """Every method that is installed, by metadata alone: the core's first, then others'."""
    return list(doors.offers(GROUP))


def usable(note: Callable[[str], None]) -> dict[str, Method]:
    """Every method that is installed and can be imported, by name; `note` is told why another is left out."""
    found = {}
    for name in names():
        try:
            found[name] = find(name)
        except ConfigError as error:
            note(str(error))
    return found


def written(root: Node) -> Method | None:
    """The method that a config's tree asks for, or the default; None for one that cannot be used."""
    node = root.child(WHAT)
    try:
        return find(str(node.value) if node else Config.model_fields[WHAT].default)
    except ConfigError:
        return None


def check_name(root: Node) -> list[Problem]:
    """What is wrong with the name that a config's tree gives; of another type than text the section itself complains."""
    node = root.child(WHAT)
    if node is None or not isinstance(node.value, str):
        return []
    try:
        find(node.value)
    except ConfigError as error:
        return [Problem(error.message, WHAT, str(node.focus), error.hint)]
    return []
