"""What plugins keep between steps: a file for each plugin and rank in every checkpoint, and a list of all plugins beside them.

The files are torch's, read with `weights_only`, so that a checkpoint from elsewhere can run no code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longline.errors import PluginError

if TYPE_CHECKING:
    from longline.plugins.base import LoadedPlugin

FOLDER = "plugins"
LIST = "plugins.json"
_PLAIN = (str, bytes, bool, int, float, type(None))


def write(checkpoint: Path, plugins: Sequence[LoadedPlugin], rank: int, world_size: int) -> None:
    """Write the state of every plugin that has some on this rank, and on the main one the list of all plugins.

    Raises PluginError for a state that cannot be kept, or a `state` that fails.
    """
    import torch

    for plugin in plugins:
        if plugin.keeps_state and (rank == 0 or plugin.instance.state_ranks == "all"):
            state = _told(plugin)
            if state is not None:
                path = _file(checkpoint, plugin.name, rank)
                path.parent.mkdir(exist_ok=True)
                torch.save(state, path)
    if rank == 0:
        listed = [{"name": p.name, "distribution": p.distribution, "version": p.version} for p in plugins]
        content = json.dumps({"world_size": world_size, "plugins": listed}, indent=1)
        (checkpoint / LIST).write_text(content + "\n", encoding="utf-8")


def _told(plugin: LoadedPlugin) -> dict[str, Any] | None:
    """What `state` returned, of plain values and tensors alone: anything else could not be read again."""
    try:
        state = plugin.instance.state()
        if state is None:
            return None
        plain: dict[str, Any] = _plain(dict(state), "state()")
    except Exception as error:
        raise plugin.failed("cannot give its state", error) from error
    return plain


def _plain(value: Any, where: str) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        # A shard is kept as the plain tensor that this rank has; on the same ranks it becomes a shard again.
        local = value.to_local() if hasattr(value, "to_local") else value
        return local.detach().to("cpu", copy=True)  # what is behind a view shall not be written with it
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Mapping):
        return {_plain(key, f"a key of {where}"): _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{number}]") for number, item in enumerate(value)]
    raise TypeError(f"{where} is a {type(value).__name__}; tensors, numbers, texts, mappings and lists can be kept")


def _file(checkpoint: Path, name: str, rank: int) -> Path:
    return checkpoint / FOLDER / f"{name}.rank{rank}.pt"


# --- going on -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """The states of this rank by plugin, and what a person should know of plugins that are not those of the checkpoint."""

    states: Mapping[str, Mapping[str, Any]]
    notes: tuple[str, ...]


NOTHING = Found({}, ())


def read(checkpoint: Path, plugins: Sequence[LoadedPlugin], rank: int) -> Found:
    """Read what plugins kept in a checkpoint. Raises PluginError for a state that cannot be read, or that this rank lacks."""
    before = _list(checkpoint)
    states: dict[str, Mapping[str, Any]] = {}
    notes: list[str] = []
    for plugin in plugins:
        wanted = plugin.keeps_state and (rank == 0 or plugin.instance.state_ranks == "all")
        if wanted and (state := _read(checkpoint, plugin, rank)) is not None:
            states[plugin.name] = state
        if before is not None:
            notes += _difference(plugin, before.get(plugin.name), plugin.name in states)
    named = {plugin.name for plugin in plugins}
    for name in before or {}:
        if name not in named:
            kept = any((checkpoint / FOLDER).glob(f"{name}.rank*.pt"))
            notes.append(
                f"plugin {name!r} was enabled and is not now" + (": the state that it kept is left out" if kept else "")
            )
    return Found(states, tuple(notes))


def _list(checkpoint: Path) -> dict[str, str] | None:
    """The versions of the plugins that made a checkpoint; None for one that does not tell."""
    try:
        listed = json.loads((checkpoint / LIST).read_text(encoding="utf-8"))["plugins"]
        return {plugin["name"]: plugin["version"] for plugin in listed}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _difference(plugin: LoadedPlugin, version: str | None, restored: bool) -> list[str]:
    """What became of a plugin since the checkpoint."""
    if version is None:
        start = ", and starts without a state" if plugin.keeps_state else ""
        return [f"{plugin.label} was not enabled when the checkpoint was made{start}"]
    if version != plugin.version:
        state = "; it is handed the state that the other version kept" if restored else ""
        return [f"{plugin.label} was {version or 'without a version'} when the checkpoint was made{state}"]
    return []


def _read(checkpoint: Path, plugin: LoadedPlugin, rank: int) -> Mapping[str, Any] | None:
    import torch

    path = _file(checkpoint, plugin.name, rank)
    if not path.is_file():
        others = sorted(path.parent.glob(f"{plugin.name}.rank*.pt"))
        if others and plugin.instance.state_ranks == "all":
            text = f"{plugin.label} kept its state on {len(others)} ranks, and rank {rank} has none in {checkpoint}"
            raise PluginError(text, hint="resume with as many processes as before")
        return None
    try:
        state: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        first = str(error).strip().split("\n")[0]
        text = f"the state of {plugin.label} cannot be read: {path}: {type(error).__name__}: {first}"
        hint = f"resume from an earlier checkpoint, or {plugin.remedy}"
        raise PluginError(text, hint=hint) from error
    return state


def restore(plugins: Sequence[LoadedPlugin], states: Mapping[str, Mapping[str, Any]]) -> None:
    """Hand every plugin its state. Raises PluginError for one that cannot take it."""
    for plugin in plugins:
        if plugin.name in states:
            try:
                plugin.instance.restore(states[plugin.name])
            except Exception as error:
                told = plugin.failed("cannot take back its state", error)
                raise PluginError(told.message, hint=f"resume from an earlier checkpoint, or {told.hint}") from error
