"""Plugins that are not packaged, by name: entry points in a folder; and what a config has of those that a test gives."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from longline.plugins import LoadedPlugin, Plugin

Named = Mapping[str, type[Plugin]]
Given = Plugin | LoadedPlugin | str | type[Plugin] | Mapping[Any, Any]
"""A plugin as a test gives it to a run."""


def by_name(plugins: Sequence[Given]) -> tuple[list[Any], dict[str, type[Plugin]]]:
    """What a config lists of plugins that a test gives, all but the instances, and the classes among them by their names."""
    named: list[Any] = []
    classes: dict[str, type[Plugin]] = {}
    for plugin in plugins:
        if isinstance(plugin, (Plugin, LoadedPlugin)):
            continue
        entry = {}
        for key, options in (plugin if isinstance(plugin, Mapping) else {plugin: None}).items():
            name = key if isinstance(key, str) else name_of(key)
            classes |= {} if isinstance(key, str) else {name: key}
            entry[name] = plain(options)
        named.append(plugin if isinstance(plugin, str) else entry)
    return named, classes


def write_entry_points(folder: Path, plugins: Named) -> None:
    """Make plugins known by name to every process that has `folder` on its path, as installing a distribution of them does.

    A class is found by module and name, so its module must be one that can be imported. What is installed already is left out.
    """
    there = {(entry.name, entry.value) for entry in importlib.metadata.entry_points(group="longline")}
    entries = {name: f"{cls.__module__}:{cls.__qualname__}" for name, cls in plugins.items()}
    lines = [f"{name} = {value}" for name, value in entries.items() if (name, value) not in there]
    for line in lines:
        distribution = f"longline_test_{line.partition(' ')[0].replace('-', '_')}"
        info = folder / f"{distribution}-0.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[longline]\n{line}\n", encoding="utf-8")


def surroundings(*folders: Path) -> dict[str, str]:
    """The environment of a process that finds what this one imports, and `folders` before."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, folders), *(path for path in sys.path if path)])}


@contextmanager
def known(folder: Path, plugins: Named) -> Iterator[None]:
    """Let this process find plugins by name for the block, as `write_entry_points` does for others."""
    write_entry_points(folder, plugins)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def name_of(plugin: type[Plugin]) -> str:
    """What a config calls a plugin: the name that it is installed under, else the class's without `Plugin`, in lower case."""
    value = f"{plugin.__module__}:{plugin.__qualname__}"
    there = (entry.name for entry in importlib.metadata.entry_points(group="longline") if entry.value == value)
    return next(there, plugin.__name__.removesuffix("Plugin").lower() or "plugin")


def as_entry(plugin: Plugin | LoadedPlugin) -> tuple[str, type[Plugin], dict[str, Any]]:
    """An instance as a config has it: name, class, and options with what Longline itself reads of them."""
    loaded = plugin if isinstance(plugin, LoadedPlugin) else LoadedPlugin.of(plugin)
    options = {name: plain(value) for name, value in loaded.options.model_dump(exclude_unset=True).items()}
    return loaded.name, type(loaded.instance), {**options, **({"on_error": "raise"} if loaded.on_error == "raise" else {})}


def plain(value: Any) -> Any:
    """A value as YAML has it; a secret is written out, for the process shall have it."""
    if hasattr(value, "get_secret_value"):
        return value.get_secret_value()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)
