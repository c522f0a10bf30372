"""The base class of plugins and of their options, and a plugin as the bus knows it."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from longline.errors import LonglineError, PluginError

if TYPE_CHECKING:
    from longline.config import sections
    from longline.errors import Problem
    from longline.events import Column, Finding
    from longline.hookspecs import Ranks
    from longline.plan import Plan

OnError = Literal["continue", "raise"]
OWN = f"{Path(__file__).parents[1]}{os.sep}"
"""Where our own code lies."""


class PluginConfig(BaseModel):
    """Base of a plugin's options: unknown ones are errors, values are fixed once read, descriptions come from docstrings."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)


class Plugin:
    """Base class of every plugin. The instance finds its validated options in `self.config`.

    `Config` is the pydantic model of the options. `files` are the names that it writes into the run folder, files or folders:
    `--overwrite` deletes them with the run. `tracker` says that it sends metrics to an experiment tracker, so that
    trackers can tell of each other. Hooks are methods marked with `@hookimpl`. The constructor does no work and
    imports nothing heavy: what would be refused is said in `check`, and work begins in the first hook.
    `state_ranks` says which ranks keep what `state` returns.
    """

    Config: ClassVar[type[BaseModel]] = PluginConfig
    files: ClassVar[frozenset[str]] = frozenset()
    tracker: ClassVar[bool] = False
    state_ranks: ClassVar[Ranks] = "main"
    config: Any

    def __init__(self, config: BaseModel) -> None:
        self.config = config

    @property
    def claims(self) -> frozenset[str]:
        """Exclusive abilities, such as {"loss"} for a loss kernel: two enabled plugins with the same claim are refused.

        A class writes `claims = frozenset({"loss"})`, or a property of its own where it depends on `self.config`.
        """
        return frozenset()

    @property
    def columns(self) -> tuple[Column, ...]:
        """Further columns of the data that this plugin asks for, in every batch: `longline.Column(name, align, dtype ...)`.

        A class writes `columns = (Column("score"),)`, or a property of its own where they depend on `self.config`.
        """
        return ()

    def check(self, config: sections.Config, plan: Plan) -> Iterable[Problem]:
        """What of a config this plugin cannot do, before a run: `longline check`, `plan` and `train` show the same.

        `Problem(message, path="trainer.optim", hint=...)` is placed at that key of the config; without a path it stands at the
        plugin's own entry. Torch-free: nothing is loaded, and `plan.trainer_args` are the trainer's arguments. Called again with
        the final plan when a plugin changed them.
        """
        return ()

    def plan(self, config: sections.Config, plan: Plan) -> Iterable[str]:
        """What this plugin will do in a run of this config, a sentence each: `longline plan` shows them. Torch-free, as `check`."""
        return ()

    def doctor(self) -> Iterable[Finding]:
        """How what this plugin needs is doing on this machine: libraries, servers, files. `longline doctor CONFIG` shows it.

        `Finding(name, text, level, hint)`: "error" is what a run with these options would fail for. Nothing is sent that a person
        would see, and what waits for a server waits a few seconds at most. Heavy libraries may be imported here.
        """
        return ()

    def state(self) -> Mapping[str, Any] | None:
        """What a resumed run needs of this plugin: tensors, numbers, texts and None, in mappings and lists; part of every
        checkpoint. None: nothing.
        """
        return None

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned, on the same rank, before `on_train_begin`; resumed equals uninterrupted."""


@dataclass(frozen=True, slots=True, eq=False)
class LoadedPlugin:
    """An enabled plugin: the instance with its options, and what messages, the manifest and the account call it.

    `distribution` and `version` are empty for an instance that was made by hand.
    """

    name: str
    instance: Plugin
    options: BaseModel
    distribution: str = ""
    version: str = ""
    on_error: OnError = "continue"
    slow_after: float = 30.0

    @classmethod
    def of(
        cls, instance: Plugin, name: str | None = None, on_error: OnError = "continue", slow_after: float = 30.0
    ) -> LoadedPlugin:
        """Wrap an instance made by hand, as tests and notebooks do; the name defaults to the class's, without `Plugin`."""
        name = name or type(instance).__name__.removesuffix("Plugin").lower() or "plugin"
        options = getattr(instance, "config", None)
        return cls(name, instance, options if isinstance(options, BaseModel) else PluginConfig(), "", "", on_error, slow_after)

    @property
    def keeps_state(self) -> bool:
        """Whether it has something that a checkpoint must hold."""
        return type(self.instance).state is not Plugin.state

    @property
    def label(self) -> str:
        """How messages name it: plugin, distribution and version."""
        return label(self.name, self.distribution, self.version)

    @property
    def remedy(self) -> str:
        """What to do when it cannot be used as it is."""
        return remedy(self.name)

    def failed(self, what: str, error: BaseException) -> PluginError:
        """What to raise when the plugin's own code raised `error`; what it raised on purpose keeps its words and its hint."""
        if isinstance(error, LonglineError):
            return PluginError(f"{self.label} {what}: {error.message}", hint=error.hint or self.remedy)
        return PluginError(f"{self.label} {what}: {described(error)}", hint=debug_hint(self.name))


def label(name: str, distribution: str, version: str) -> str:
    """How messages name a plugin."""
    return f"plugin {name!r} ({distribution} {version})" if distribution else f"plugin {name!r}"


def remedy(name: str) -> str:
    """What to do about a plugin that is wrong as it is."""
    return f"remove {name!r} from plugins:, or tell its author"


def debug_hint(name: str) -> str:
    """What to do about a plugin whose code raised: another version may not help, and its author needs the traceback."""
    return f"--debug shows the traceback; without {name!r} under plugins: the run does without it"


def described(error: BaseException) -> str:
    """An exception with the innermost place that is neither the import machinery's nor our own, for what a plugin hands us wrongly
    is raised by us: `ValueError: no such thing (file.py:12)`. A hint is left to whoever shows one.
    """
    text = error.message if isinstance(error, LonglineError) else str(error)
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{error.filename}:{error.lineno}"
    else:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_foreign(frame.filename)]
        place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "from its metadata"
    return f"{type(error).__name__}: {text} ({place})"


def _is_foreign(filename: str) -> bool:
    """Whether code is neither ours nor Python's way to it; the test kit's plugins are as foreign as any."""
    own = filename.startswith(OWN) and not filename.startswith(f"{OWN}testing")
    return not own and "importlib" not in filename and not filename.startswith("<")
