"""The options of the plugin, as they stand under its name in a config."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, field_validator, model_validator

from longline import PluginConfig

PATTERN = re.compile(r"auto|unstructured|(?P<kept>[1-9]\d?):(?P<of>[1-9]\d?)|block(?P<side>[1-9]\d*)")
REGEX = "re:"


class SparsityConfig(PluginConfig):
    """Whose zeros are kept, and which pattern they must have."""

    targets: tuple[str, ...] | None = None
    """Which weights: names of modules or weights, `re:` and a regular expression, or classes of modules such as `Linear`. One that
    names no weight with zeros is an error. Left out: every matrix but the embedding of which at least `least` is zeros."""
    ignore: tuple[str, ...] = ()
    """Not these, in the same words."""
    least: Annotated[float, Field(strict=True, gt=0, lt=1)] = 0.05
    """Without `targets`: the share of zeros from which on a weight counts as pruned. Zeros by chance are far fewer."""
    pattern: str = "auto"
    """What the zeros must be: `2:4` and its like, at most 2 in every 4 that are not zero; `block16` and its like, squares of zeros;
    `unstructured`; or `auto`, whatever is found."""

    recipe: Path | dict[str, Any] | None = None
    """A recipe of LLMCompressor in place of `targets`: its file, or what stands in it. `ConstantPruningModifier` is applied, others
    are refused by name."""

    @field_validator("recipe", mode="before")
    @classmethod
    def _inline(cls, recipe: Any) -> Any:
        """Text of several lines is what stands in a recipe, and no name of a file."""
        if not isinstance(recipe, str) or "\n" not in recipe.strip():
            return recipe
        try:
            return yaml.safe_load(recipe)
        except yaml.YAMLError as error:
            raise ValueError(f"no YAML that LLMCompressor reads: {error}") from None

    @model_validator(mode="after")
    def _one_says_where(self) -> SparsityConfig:
        if self.recipe is not None and self.targets is not None:
            raise ValueError("recipe and targets both say whose zeros are kept; remove one of them")
        return self

    @field_validator("pattern")
    @classmethod
    def _known(cls, pattern: str) -> str:
        match = PATTERN.fullmatch(pattern)
        if match is None:
            raise ValueError(f"{pattern!r} is none of auto, unstructured, 2:4 and its like, block16 and its like")
        if match["of"] and int(match["kept"]) >= int(match["of"]):
            raise ValueError(f"{pattern} leaves no zeros: the first number must be the smaller one")
        return pattern

    @field_validator("targets", "ignore")
    @classmethod
    def _compiled(cls, targets: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if targets is not None and not all(targets):
            raise ValueError("an empty name: remove it")
        for target in targets or ():
            try:
                re.compile(target.removeprefix(REGEX) if target.startswith(REGEX) else "")
            except re.error as error:
                raise ValueError(f"{target!r} is no regular expression: {error}") from None
        return targets
