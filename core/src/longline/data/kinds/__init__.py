"""Kinds of rows: one file each. Every question about a kind is asked of its object."""

from __future__ import annotations

from importlib import import_module

from longline.data.kinds.base import Kind, Shown
from longline.errors import ConfigError
from longline.methods import usable

__all__ = ["Kind", "Shown", "load", "methods_of"]


def load(place: str) -> Kind:
    """The kind at `package.module:NAME`, which is how a method names it. Raises ConfigError."""
    module, _, name = place.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"the kind of row {place!r} cannot be imported: {error}") from error
    if not isinstance(found, Kind):
        raise ConfigError(f"{place!r} is a {type(found).__name__}, and must be an instance of longline.data.kinds.Kind")
    return found


def methods_of(kind: Kind) -> str:
    """Which methods train on a kind of row, for people."""
    names = [name for name, method in usable(lambda _: None).items() if load(method.kind) is kind]
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part) or "another method"
