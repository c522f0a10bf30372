"""The tasks that are asked for, with their data: loaded before a model is, so that what is wrong with one is told early."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from longline import ConfigError
from longline.errors import Interrupted
from longline_lm_eval import names, needs
from longline_lm_eval.upstream import quiet

if TYPE_CHECKING:
    from longline_lm_eval.config import LmEvalConfig


@dataclass(slots=True)
class Loaded:
    """Single tasks and groups by name. `skipped`: those that were asked for and could not be had, each with the reason."""

    manager: Any
    tasks: dict[str, Any] = field(default_factory=dict)
    groups: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, found: dict[str, Any]) -> None:
        """Take what the harness loaded under a name. Raises ConfigError for a task that came under another one too."""
        if twice := sorted(self.tasks.keys() & found["tasks"].keys()):
            raise ConfigError(f"the task {twice[0]!r} is asked for twice", hint=f"leave it out: {name!r} has it too")
        self.tasks |= found["tasks"]
        self.groups |= found.get("groups", {})


def load(options: LmEvalConfig) -> Loaded:
    """Load tasks and their data.

    Raises:
        ConfigError: one is unknown or cannot be loaded, or none is left that needs no network.
    """
    needs.refuse_tasks(options)
    with quiet():
        loaded = Loaded(_manager(options))
        wanted = _expanded(options.tasks, loaded.manager)
        for name in wanted:  # which grows
            try:
                found = loaded.manager.load([name])
            except Interrupted:
                raise
            except Exception as error:
                _skip(loaded, name, error, options)
                wanted += [member for member in _plain_members(name, loaded.manager) if member not in wanted]
            else:
                loaded.add(name, found)
    _refuse_unfit(loaded, options)
    if not loaded.tasks:
        reasons = "; ".join(f"{name}: {why}" for name, why in loaded.skipped.items())
        raise ConfigError(f"no task is left to evaluate on: {reasons}", hint=NETWORK_HINT)
    return loaded


NETWORK_HINT = "a machine with network fetches a task's data into the cache of `datasets` once; HF_HUB_OFFLINE=1 then uses it"


def _manager(options: LmEvalConfig) -> Any:
    """The harness's list of tasks; its own 14,000, which take ten seconds to read, only where one of them is asked for."""
    from lm_eval.tasks import TaskManager

    folders = list(needs.folders(options))
    if folders:
        own = TaskManager(include_path=folders, include_defaults=False)
        if all(_alone(name, own) for name in options.tasks):
            return own
    elif all(names.is_file(name) for name in options.tasks):
        return TaskManager(include_defaults=False)
    return TaskManager(include_path=folders or None)


def _alone(name: str, own: Any) -> bool:
    """Whether a name, and for a group all that is in it, is among one's own tasks."""
    if names.is_file(name):
        return True
    found = own.match_tasks([name]) if names.PATTERN & set(name) else [name] if name in own.all_tasks else []
    return bool(found) and all(_alone(inside, own) for item in found for inside in _members(own.task_index[item].cfg))


def _members(config: Any) -> Iterator[str]:
    """What a group names; what it defines in place needs nobody else."""
    inside = config.get("task") if isinstance(config, dict) and "group" in config else None
    for item in inside if isinstance(inside, list) else []:
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict) and "dataset_path" not in item and isinstance(item.get("task", item.get("group")), str):
            yield item.get("task", item.get("group"))


def _plain_members(name: str, manager: Any) -> list[str]:
    """The members of a group that are names and nothing more: those that need no network are asked without the group."""
    entry = manager.task_index.get(name)
    inside = entry.cfg.get("task") if entry is not None and entry.cfg and "group" in entry.cfg else None
    return inside if isinstance(inside, list) and all(isinstance(item, str) for item in inside) else []


def _expanded(wanted: Iterable[str], manager: Any) -> list[str]:
    """Patterns as the names that they stand for."""
    every: list[str] = []
    for name in wanted:
        every += manager.match_tasks([name]) if names.PATTERN & set(name) and name not in manager.all_tasks else [name]
    return list(dict.fromkeys(every))


def _skip(loaded: Loaded, name: str, error: Exception, options: LmEvalConfig) -> None:
    """Leave a task out that needs the network; whatever else is wrong with one is an error."""
    why = needs_network(error)
    if why is None:
        raise _unloadable(name, error) from error
    if options.strict:
        raise ConfigError(f"the task {name!r} needs the network: {why}", hint=NETWORK_HINT) from error
    loaded.skipped[name] = f"it needs the network: {why}"


def _unloadable(name: str, error: Exception) -> ConfigError:
    missing = getattr(error, "name", None) if isinstance(error, ImportError) else None
    hint = (
        f"pip install {missing}, or an extra of lm-eval that brings it" if missing else "its YAML file says where its data is"
    )
    return ConfigError(f"the task {name!r} cannot be loaded: {type(error).__name__}: {error}", hint=hint)


def needs_network(error: BaseException) -> str | None:
    """What could not be reached, if that is what went wrong."""
    link: BaseException | None = error
    while link is not None:
        # By names: what `datasets`, the hub and their clients raise is no public hierarchy, and importing them says nothing more.
        if {"ConnectionError", "OfflineModeIsEnabled", "TransportError"} & {cls.__name__ for cls in type(link).__mro__}:
            return " ".join(str(link).split())
        link = link.__cause__ or link.__context__
    return None


def _refuse_unfit(loaded: Loaded, options: LmEvalConfig) -> None:
    """Refuse what the harness would stop at when the model is loaded."""
    for name, task in loaded.tasks.items():
        if getattr(task, "UNSAFE_CODE", False) and not options.confirm_run_unsafe_code:
            hint = "confirm_run_unsafe_code: true, on a machine where that may happen"
            raise ConfigError(f"the task {name!r} executes what the model writes", hint=hint)
        if getattr(task, "MULTIMODAL", False):
            raise ConfigError(f"the task {name!r} shows pictures, and the model is asked in text")


def tell_shots(loaded: Loaded, options: LmEvalConfig) -> list[str]:
    """The tasks that keep to no examples whatever num_fewshot says, as the harness has it."""
    return [name for name, task in loaded.tasks.items() if options.num_fewshot and task.get_config("num_fewshot") == 0]
