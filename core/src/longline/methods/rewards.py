"""Reward functions: found by their entry point or as `package.module:function`, and guarded against what they may return."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longline.config import doors
from longline.errors import ConfigError, LonglineError, TrainingError, did_you_mean
from longline.events import RewardFunction

if TYPE_CHECKING:
    from longline.config.sections import RewardSection

Scores = Sequence[float | None]
RESERVED = frozenset(
    {"prompts", "completion", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric"}
    | {"environment", "environments", "image", "images", "row_ids"}
)
"""What the trainer itself hands to reward functions, or takes for something else: no name for a column of prompts."""
TAKEN = ("prompt", "completion", "reward", "advantage")
"""The other columns of on_completions, which no reward function may be called."""


def refuse_names(rewards: Sequence[RewardFunction]) -> None:
    """Each function is a column of its own, and a metric. Raises ConfigError for a name that is taken, or there twice."""
    names = [reward.name for reward in rewards]
    for name in names:
        if name in TAKEN or names.count(name) > 1:
            what = f"{name!r} is another column of what is told of each answer" if name in TAKEN else f"two are called {name!r}"
            raise ConfigError(f"rewards: {what}", hint="give the function a `name` of its own")


def load_rewards(sections: Sequence[RewardSection], folder: Path) -> list[RewardFunction]:
    """Import what `rewards:` names; modules are also looked for in the section's folder, or else in `folder`, the config's own.

    Raises:
        ConfigError: a function is not there, cannot be imported, or is none.
    """
    return [
        _load(section, f"rewards.{index}", (section.folder or folder).expanduser()) for index, section in enumerate(sections)
    ]


def _load(section: RewardSection, where: str, folder: Path) -> RewardFunction:
    function = _imported(section.function, where, folder) if ":" in section.function else _installed(section.function, where)
    if not callable(function):
        raise ConfigError(f"{where}: {section.function} is a {type(function).__name__}, not a function")
    name = section.name or section.function.rpartition(":")[2]
    return RewardFunction(
        # The config is frozen, and a function may change what it is handed.
        name,
        _with_options(function, deepcopy(section.options), where) if section.options else function,
        section.weight,
    )


def _with_options(function: Callable[..., Scores], options: Mapping[str, Any], where: str) -> Callable[..., Scores]:
    """The function with its options filled in."""

    def score(**given: Any) -> Scores:
        if both := sorted(given.keys() & options):
            raise ConfigError(f"{where}.options: {both[0]} is a column of the data, too", hint="rename one of them")
        return function(**given, **options)

    return score


def _installed(name: str, where: str) -> Any:
    try:
        return doors.load(doors.find(doors.REWARDS, name, "reward function"), "reward function", object)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}; or name one as package.module:function", hint=error.hint) from error


def _imported(text: str, where: str, folder: Path) -> Any:
    module, _, attribute = text.partition(":")
    with _importable(folder):
        try:
            found = import_module(module)
        except Exception as error:
            absent = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
            hint = f"it is looked for in {folder} and among what is installed" if absent else None
            raise ConfigError(f"{where}: cannot import {module!r}: {type(error).__name__}: {error}", hint=hint) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            hint = did_you_mean(part, vars(found), otherwise="name a function of that module")
            raise ConfigError(f"{where}: {module} has no {attribute!r}", hint=hint)
        found = getattr(found, part)
    return found


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Look for modules beside the config too, for as long as one is imported."""
    text = str(folder.absolute())
    sys.path.insert(0, text)
    try:
        yield
    finally:
        sys.path.remove(text)


def guarded(reward: RewardFunction, describe_rows: Callable[[list[int]], str]) -> Callable[..., list[float | None]]:
    """The function as a trainer calls it: what it raises or returns wrongly ends the run with its name and the rows.

    `describe_rows` turns row ids into places. The wrapped function has the reward's name, which trl reads.
    """

    def score(row_ids: Sequence[int] | None = None, **given: Any) -> list[float | None]:
        rows = sorted(set(row_ids or ()))
        try:
            scores = reward.function(**given)
        except LonglineError:
            raise
        except Exception as error:
            text = f"the reward function {reward.name} failed: {type(error).__name__}: {error}, in {describe_rows(rows)}"
            raise TrainingError(text, hint="it gets prompts, completions and the data's other columns by keyword") from error
        return _numbers(reward.name, scores, len(given["prompts"]))

    score.__name__ = reward.name
    return score


def _numbers(name: str, scores: Any, count: int) -> list[float | None]:
    """One number or None for each completion. Raises TrainingError for anything else."""
    try:
        found = [None if score is None else float(score) for score in scores]
    except (TypeError, ValueError) as error:
        raise TrainingError(f"the reward function {name} must return a number for each completion: {error}") from error
    if len(found) != count:
        raise TrainingError(f"the reward function {name} returned {len(found)} scores for {count} completions")
    wrong = next((score for score in found if score is not None and not math.isfinite(score)), None)
    if wrong is not None:
        raise TrainingError(f"the reward function {name} returned {wrong}", hint="None says that it does not apply")
    return found
