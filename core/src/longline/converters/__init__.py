"""Translators of other tools' configs: `longline convert TOOL FILE`. A converter is a function that is handed a `Draft`.

It comes in by the entry-point group `longline.converters`, under the name of its tool. An entry `TOOL.NAME` is a part of it that
another distribution brings: the same kind of function, called first, for the keys that only its plugin knows.

    [project.entry-points."longline.converters"]
    axolotl = "longline.converters.axolotl:convert"           # the core's own
    "axolotl.swanlab" = "longline_swanlab.axolotl:convert"    # a plugin's part of it

Nothing here imports more than a config needs.
"""

from __future__ import annotations

from types import FunctionType
from typing import TYPE_CHECKING

from longline.config import doors
from longline.converters.draft import Draft, Entry
from longline.errors import ConfigError, LonglineError, PluginError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["GROUP", "Draft", "Entry", "names", "translate"]

GROUP = "longline.converters"
"""The entry-point group of converters and of their parts."""


def names() -> list[str]:
    """Every tool whose configs can be translated here, by metadata alone."""
    return [name for name in doors.offers(GROUP) if "." not in name]


def translate(tool: str, path: Path) -> Draft:
    """Translate a file.

    Raises:
        ConfigError: nobody translates this tool's configs, or the file is none of them; with every problem of the file.
        PluginError: a part of the converter, or a converter of another distribution, raised.
    """
    whole, *parts = _functions(tool)
    draft = Draft.read(path, tool)
    # Parts first: what they know better than the whole is then spoken for.
    for name, function in [*parts, whole]:
        try:
            function(draft)
        except LonglineError:
            raise
        except Exception as error:
            if name in doors.own(GROUP):
                raise
            raise PluginError(f"the converter {name!r} raised {type(error).__name__}: {error}") from error
    draft.finish()
    if draft.problems:
        raise ConfigError(draft.problems)
    return draft


def _functions(tool: str) -> list[tuple[str, Callable[[Draft], None]]]:
    """The converter of a tool and the parts of it that are installed."""
    found = [doors.find(GROUP, tool, "converter")]
    found += [doors.find(GROUP, name, "converter") for name in doors.offers(GROUP) if name.startswith(f"{tool}.")]
    return [(entry.name, doors.load(entry, "converter", FunctionType)) for entry in found]
