"""Which runs, in which order: the words of `--where` and `--sort`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from longline.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from longline.record import Record

# the longest first: `<=` is no `<`
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "~": lambda value, part: str(part).lower() in str(value).lower(),
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_CONDITION = re.compile(rf"\s*(?P<key>[^=<>!~]+?)\s*(?P<sign>{'|'.join(OPERATORS)})\s*(?P<value>.*?)\s*")


@dataclass(frozen=True)
class Condition:
    """One `--where`: a key of a run, a sign and a value, as YAML reads it."""

    key: str
    sign: str
    value: Any

    @classmethod
    def of(cls, text: str) -> Condition:
        """Read `eval_loss<0.5` or `status=completed`. Raises ConfigError."""
        found = _CONDITION.fullmatch(text)
        if found is None:
            raise ConfigError(
                f"--where {text!r} is no condition", hint=f"write KEY, one of {' '.join(OPERATORS)}, and a value: method=dpo"
            )
        return cls(found["key"], found["sign"], _scalar(found["value"]))

    def holds(self, record: Record) -> bool:
        """Whether it is so; what a run does not have is unequal to everything, and neither more nor less."""
        value = record.value(self.key)
        value = _scalar(value) if isinstance(value, str) else value
        if value is None or self.value is None:
            return OPERATORS[self.sign](value, self.value) if self.sign in ("=", "!=") else False
        if self.sign in ("<", "<=", ">", ">=") and _number(value) != _number(self.value):
            return False
        return OPERATORS[self.sign](value, self.value)


def ordered(found: Sequence[Record], keys: Iterable[str]) -> list[Record]:
    """Sort by each key, the first counting most; `-key` from the greatest down. Runs that have no such value come last."""
    result = list(found)
    for key in reversed(list(keys)):
        name, down = key.removeprefix("-"), key.startswith("-")
        values = {id(record): record.value(name) for record in result}
        having = [record for record in result if values[id(record)] is not None]
        # numbers before texts, so that a value that is both in different runs has an order
        having.sort(key=lambda record: _rank(values[id(record)]), reverse=down)
        result = having + [record for record in result if values[id(record)] is None]
    return result


def known(found: Sequence[Record], keys: Iterable[str]) -> None:
    """Raise ConfigError for a key that no run has."""
    every: set[str] = set()
    for key in keys:
        if any(record.value(key) is not None for record in found):
            continue
        every = every or {name for record in found for name in record.names()}
        if key not in every:
            meant = did_you_mean(key, sorted(every), otherwise="a metric, a name of run.json or a dotted key of the config")
            raise ConfigError(f"none of these runs has {key!r}", hint=meant)


def _scalar(text: str) -> Any:
    """A text as YAML reads it, also `2e-4`, which YAML 1.1 takes for a text."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value if isinstance(value, (bool, int, float)) or value is None else text


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _rank(value: Any) -> tuple[int, float, str]:
    return (0, float(value), "") if isinstance(value, (int, float)) else (1, 0.0, str(value))
