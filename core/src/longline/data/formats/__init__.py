"""Formats of rows: one file each, behind the entry-point group `longline.formats`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from longline.config import doors
from longline.data.formats.base import Format, Opened, Reader
from longline.data.kinds import methods_of
from longline.errors import DataError
from longline.text import some

if TYPE_CHECKING:
    from importlib_metadata import EntryPoint

    from longline.config.sections import ColumnsSection, SourceSection, TrainOn
    from longline.data.kinds import Kind

__all__ = ["GROUP", "Format", "Opened", "Reader", "entries", "find", "guess", "resolve_train_on"]

GROUP = "longline.formats"


def find(name: str) -> Format:
    """The installed format of this name. Raises ConfigError."""
    return _load(doors.find(GROUP, name, "format"))


def entries(brought_by: str) -> list[EntryPoint]:
    """The formats among which `auto` guesses: the core's, and those of the distribution that brought the method."""
    # Not all that are installed: another distribution must change neither what is guessed nor the key of the cache.
    own = list(doors.own(GROUP).values())
    if brought_by == doors.CORE:
        return own
    others = [entry for several in doors.offers(GROUP).values() for entry in several if entry not in own]
    return own + [entry for entry in others if entry.dist is not None and entry.dist.name == brought_by]


def _load(entry: EntryPoint) -> Format:
    found: Format = doors.load(entry, "format", Format)
    return found


def refuse_unusable(format_: Format, kind: Kind, source: str, brought_by: str) -> None:
    """Raise DataError for a format that gives another kind of sample than the method trains on."""
    if format_.kind is kind:
        return
    usable = _of(kind, brought_by)
    raise DataError(
        f"{source}: the format {format_.name!r} is for {methods_of(format_.kind)}, "
        f"and {methods_of(kind)} can use {' or '.join(known.name for known in usable) or 'none that is installed'} only",
        hint=f"change `method:`, or give rows as {_needs(usable)}",
    )


def _of(kind: Kind, brought_by: str) -> list[Format]:
    return [known for known in map(_load, entries(brought_by)) if known.kind is kind]


def _needs(formats: Iterable[Format]) -> str:
    return "; ".join(f"{known.name} needs {known.needs}" for known in formats)


def guess(columns: Iterable[str], names: ColumnsSection, source: str, kind: Kind, brought_by: str = doors.CORE) -> Format:
    """The format that the columns of a source mean, of those that give this kind of sample.

    Raises DataError when none or several fit.
    """
    found = set(columns)
    known = list(map(_load, entries(brought_by)))
    usable = [one for one in known if one.kind is kind]
    fitting = [one for one in usable if one.fits(found, names)]
    if len(fitting) == 1:
        return fitting[0]
    listed = some(sorted(found))
    other = next((one for one in known if one.kind is not kind and one.certain and one.fits(found, names)), None)
    if not fitting and len(usable) != 1 and other:
        raise DataError(
            f"{source}: the columns {listed} are those of {other.name!r}, which is for {methods_of(other.kind)}, "
            f"not for {methods_of(kind)}",
            hint="change `method:`, or set `format:` and `columns:` of this source",
        )
    if len(usable) == 1:
        raise DataError(
            f"{source}: the columns {listed} can't be used by {methods_of(kind)}: {_needs(usable)}{_others(known)}",
            hint="map the names with `columns:` of this source, or change `method:`",
        )
    what = f"can be read as {' or '.join(one.name for one in fitting)}" if fitting else "fit no format"
    raise DataError(
        f"{source}: the columns {listed} {what}: {_needs(fitting or usable)}{_others(known)}",
        hint="set `format:` of this source, and `columns:` where names differ",
    )


def _others(known: Sequence[Format]) -> str:
    """What else is installed, which is not guessed: its columns may mean anything."""
    others = [name for name in doors.offers(GROUP) if name not in {one.name for one in known}]
    return f" ({', '.join(others)}: installed, and to be named by `format:`)" if others else ""


def resolve_train_on(section: SourceSection, wanted: TrainOn | None, format_: Format) -> TrainOn:
    """What is learnt of a source: its own `train_on`, else that of `data`, else the format's default."""
    train_on = section.train_on or wanted or format_.train_on[0]
    if train_on not in format_.train_on:
        raise DataError(
            f"{section.path}: train_on {train_on!r} means nothing for the format {format_.name!r}",
            hint=f"give this source its own `train_on`: {' or '.join(format_.train_on)}",
        )
    return train_on
