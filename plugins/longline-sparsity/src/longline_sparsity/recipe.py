"""Recipes of LLMCompressor, as far as they keep zeros: ConstantPruningModifier with its targets, start and end. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from longline import LonglineError
from longline.errors import did_you_mean

if TYPE_CHECKING:
    from longline_sparsity.config import SparsityConfig

KEEPS = "ConstantPruningModifier"
FIELDS = ("targets", "start", "end")
EVERYWHERE = ("__ALL__", "__ALL_PRUNABLE__")
NEVER = -1
"""LLMCompressor's word for an end that does not come."""
WORDS = ("run_type", "metadata", "version", "args")
"""Keys of a recipe that are no stages and no groups."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Whose zeros are kept (None: of all matrices that have some), and up to which epoch (None: to the end)."""

    targets: tuple[str, ...] | None
    end: float | None = None


def read(options: SparsityConfig) -> Kept:
    """What options or their recipe ask for. Raises LonglineError for a recipe that cannot be read, or that asks for more."""
    if options.recipe is None:
        return Kept(options.targets)
    found = [_kept(fields) for fields in _modifiers(_parsed(options.recipe))]
    if not found:
        raise LonglineError(
            f"the recipe has no {KEEPS}, so it keeps no zeros", hint="stages, in them groups, in them modifiers"
        )
    if len({kept.end for kept in found}) > 1:
        raise LonglineError("the modifiers of the recipe end at different epochs", hint="one end for all")
    everywhere = any(kept.targets is None for kept in found)
    return Kept(None if everywhere else tuple(target for kept in found for target in kept.targets or ()), found[0].end)


def _parsed(recipe: Path | Mapping[str, Any]) -> Mapping[str, Any]:
    """The content of a recipe, from its file where it has one."""
    if not isinstance(recipe, Path):
        return recipe
    try:
        content = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    except OSError as error:
        raise LonglineError(f"the recipe {recipe} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first = str(error).split("\n")[0]
        raise LonglineError(f"the recipe {recipe} is no YAML that LLMCompressor reads: {first}") from error
    if not isinstance(content, Mapping):
        raise LonglineError(f"the recipe {recipe} holds no mapping of stages to modifiers")
    return content


def _modifiers(content: Any, above: str = "the recipe") -> Iterator[Mapping[str, Any]]:
    """The fields of each modifier that keeps zeros, out of stages and groups. Raises LonglineError for another modifier."""
    for name, inside in content.items():
        if name in WORDS:
            continue
        if name == KEEPS:
            yield inside if isinstance(inside, Mapping) else {}
        elif str(name).endswith("Modifier"):
            text = f"{name} of the recipe is not applied: only {KEEPS}, which keeps zeros that are there"
            raise LonglineError(text, hint="prune with LLMCompressor first, then train with this plugin")
        elif isinstance(inside, Mapping):
            yield from _modifiers(inside, str(name))
        else:
            raise LonglineError(f"{name} in {above} is neither a stage, nor a group of modifiers, nor one of them")


def _kept(fields: Mapping[str, Any]) -> Kept:
    for name in fields:
        if name not in FIELDS:
            raise LonglineError(f"{KEEPS} has no {name} here", hint=did_you_mean(str(name), FIELDS, ", ".join(FIELDS)))
    given = fields.get("targets")
    targets = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list) else ()
    if not targets or not all(isinstance(target, str) and target for target in targets):
        raise LonglineError(f"targets of {KEEPS} must be names, or a list of them, and it is {given!r}")
    start, end = _number("start", fields.get("start")) or 0.0, _number("end", fields.get("end"))
    if start > 0:
        text = f"{KEEPS} starts at epoch {start:g}: until then training fills the zeros that it shall keep"
        raise LonglineError(text, hint="start: 0")
    if end is not None and end != NEVER and end <= 0:
        raise LonglineError(f"{KEEPS} ends at epoch {end:g}, before anything is trained", hint="leave out end")
    everywhere = any(target in EVERYWHERE for target in targets)
    return Kept(None if everywhere else targets, None if end == NEVER else end)


def _number(name: str, value: Any) -> float | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise LonglineError(f"{name} of {KEEPS} must be a number of epochs, and it is {value!r}")
    return value
