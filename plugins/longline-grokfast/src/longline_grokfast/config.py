"""The options of the plugin, as they stand under its name in a config."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from longline import PluginConfig

Filter = Literal["ema", "ma"]
LAMB = {"ema": 2.0, "ma": 5.0}
"""How often each filter's average is added, as in the paper's own code."""
BELONGS = {"alpha": "ema", "window": "ma", "reduce": "ma", "warmup": "ma"}
"""Options that only one of the filters reads."""


class GrokfastConfig(PluginConfig):
    """Which average of a weight's gradients is added to each of them, how often, and of which weights."""

    filter: Filter = "ema"
    """`ema`: an exponential average of all gradients so far, which starts as the first one. `ma`: the last `window` gradients."""
    alpha: Annotated[float, Field(strict=True, gt=0, lt=1)] = 0.98
    """For `ema`: how much of the average stays at each step."""
    lamb: float | None = Field(None, strict=True, gt=0, le=1000)
    """How often the average is added to the gradient. Left out: 2 for `ema`, 5 for `ma`."""
    window: Annotated[int, Field(strict=True, ge=2)] = 100
    """For `ma`: over how many gradients. All of them are kept, so it costs that many times the memory of the gradients."""
    reduce: Literal["mean", "sum"] = "mean"
    """For `ma`: what is made of the gradients in the window."""
    warmup: bool = True
    """For `ma`: add nothing before the window is full."""
    place: Literal["after_clipping", "before_clipping"] = "after_clipping"
    """`after_clipping`: averages are of clipped gradients, and what is added is not clipped, so that the sum may be longer than
    `trainer.max_grad_norm`. `before_clipping`: averages are of whole gradients, and the sum is clipped, and told as `grad_norm`."""
    include: tuple[str, ...] | None = None
    """Only weights in whose name one of these regular expressions is found, such as `q_proj` or `layers\\.0\\.`. Left out: all."""
    exclude: tuple[str, ...] | None = None
    """Not the weights in whose name one of these is found."""

    @field_validator("include", "exclude")
    @classmethod
    def _patterns(cls, patterns: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if patterns is not None and not all(patterns or [""]):
            raise ValueError("nothing, or an empty pattern: leave the option out")
        for pattern in patterns or ():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return patterns

    @model_validator(mode="before")
    @classmethod
    def _in_their_order(cls, values: Any) -> Any:
        """Tell alpha and lamb that stand in each other's place, as a known guide prints them: the run would explode."""
        alpha, lamb = (values.get(name) for name in ("alpha", "lamb")) if isinstance(values, dict) else (None, None)
        if _number(alpha) and _number(lamb) and alpha >= 1 > lamb > 0:
            text = f"alpha: {alpha} and lamb: {lamb} are swapped: alpha, below 1, is how much of the average stays"
            raise ValueError(f"{text}, and lamb how often it is added; write alpha: {lamb} and lamb: {alpha}")
        return values

    @model_validator(mode="after")
    def _of_its_filter(self) -> GrokfastConfig:
        for name, owner in BELONGS.items():
            # A default is no wish: the config that a run keeps has them written out.
            if owner != self.filter and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} belongs to filter: {owner}, and the filter is {self.filter}; remove one of them")
        return self

    @property
    def times(self) -> float:
        """How often the average is added."""
        return LAMB[self.filter] if self.lamb is None else self.lamb

    def takes(self, name: str) -> bool:
        """Whether the gradients of the weight of this name are filtered."""
        wanted = self.include is None or _found(self.include, name)
        return wanted and not (self.exclude and _found(self.exclude, name))


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _found(patterns: tuple[str, ...], name: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)
