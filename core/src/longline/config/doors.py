"""The doors: groups of entry points behind which stands whatever a config names by a word.

The core's own things enter by the same door as anybody's: its pyproject lists them in the same groups. A name of the core is
looked up in the core's metadata alone, which costs a file, so that what else is installed slows nothing down; only a name that
is not ours makes us read the metadata of everything. Nothing is imported before it is named.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from longline.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from importlib_metadata import EntryPoint

REWARDS = "longline.rewards"
"""The group of installed reward functions."""
CORE = "longline"
"""The distribution whose names nobody else can take."""


@cache
def own(group: str) -> Mapping[str, EntryPoint]:
    """What the core brings in a group, by name."""
    import importlib_metadata

    found = importlib_metadata.distribution(CORE).entry_points.select(group=group)
    return {entry.name: entry for entry in sorted(found, key=lambda entry: entry.name)}


def offers(group: str) -> dict[str, list[EntryPoint]]:
    """Everything that is installed in a group, by name: the core's first, then others' by the alphabet.

    A name with several entries is offered by several distributions; one of the core is its alone.
    """
    import importlib_metadata

    found = {name: [entry] for name, entry in own(group).items()}
    for entry in sorted(importlib_metadata.entry_points(group=group), key=lambda entry: entry.name):
        if entry.dist is not None and entry.name not in own(group):
            found.setdefault(entry.name, []).append(entry)
    return found


def find(group: str, name: str, what: str, elsewhere: Mapping[str, str] | None = None) -> EntryPoint:
    """The entry of one name; `what` is what messages call such a thing, `elsewhere` names distributions that would bring one.

    Raises:
        ConfigError: nobody offers it, or several distributions do.
    """
    # A file of metadata says it, so that twenty foreign distributions slow no start down, and nobody can take a name of ours.
    if name in own(group):
        return own(group)[name]
    known = offers(group)
    entries = known.get(name, [])
    if len(entries) == 1:
        return entries[0]
    if entries:
        several = ", ".join(distribution(entry) for entry in entries)
        raise ConfigError(
            f"the {what} {name!r} is offered by several distributions: {several}", hint="pip uninstall all but one"
        )
    if elsewhere and name in elsewhere:
        raise ConfigError(f"the {what} {name!r} is not installed", hint=f"pip install {elsewhere[name]}")
    raise ConfigError(f"there is no {what} {name!r}", hint=did_you_mean(name, known, f"installed: {', '.join(known)}"))


def load(entry: EntryPoint, what: str, kind: type) -> Any:
    """Import what stands behind an entry, which must be an instance of `kind`.

    Raises:
        ConfigError: it cannot be imported, or is something else.
    """
    try:
        found = entry.load()
    except Exception as error:
        raise _unusable(entry, what, f" cannot be imported: {type(error).__name__}: {error}") from error
    if not isinstance(found, kind):
        is_ = f"{entry.value!r} is a {type(found).__name__}, and must be an instance of {kind.__name__}"
        raise _unusable(entry, what, f": its entry point {is_}")
    return found


def _unusable(entry: EntryPoint, what: str, why: str) -> ConfigError:
    # Asked for its name alone, a distribution parses all of its metadata: 6 ms, which nobody should pay when all is well.
    repair = f"pip install --force-reinstall {entry.dist.name}" if entry.dist else None
    return ConfigError(f"the {what} {entry.name!r} ({distribution(entry)}){why}", hint=repair)


def distribution(entry: EntryPoint) -> str:
    """Name and version of the distribution that an entry comes from."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown"
