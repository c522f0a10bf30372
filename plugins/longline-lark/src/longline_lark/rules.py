"""Metric rules: a small grammar, and the state that decides when one of them raises an alert.

    METRIC > NUMBER [for COUNT logs]                    also >=, < and <=
    no improvement in METRIC for COUNT evaluations      [by NUMBER] [, lower is better | , higher is better]
    nan [in METRIC]                                     a value that is not a number, or infinite

A metric is a name as the trainer logs it: loss, eval_loss, rewards/margins. One with spaces stands in double quotes. A rule
fires when it becomes true, and again only after it was false in between. COUNT counts the log events that hold the metric.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from operator import ge, gt, le, lt
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Protocol

if TYPE_CHECKING:
    from longline_lark.words import Words

COMPARE = {">": gt, ">=": ge, "<": lt, "<=": le}
UNITS = ("evaluations", "evaluation", "logs", "log", "times", "time")
LOWER_IS_BETTER = ("loss", "perplexity", "ppl", "error", "wer", "cer")
"""Parts of the names of metrics that improve when they fall; all others improve when they rise, unless the rule says."""
EXAMPLES = "rules read `loss > 10`, `no improvement in eval_loss for 5 evaluations` or `nan`"

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    |(?P<operator>[<>=!]+)
    |"(?P<quoted>[^"]+)"
    |(?P<word>[A-Za-z_][\w./@:%-]*)
    |(?P<comma>,)
    |(?P<other>\S))""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Finding:
    """Why a rule fired: the key of a sentence in `words`, and what stands in it, and in further ones like it."""

    sentence: str
    values: dict[str, Any]
    more: tuple[dict[str, Any], ...] = ()

    def said(self, words: Words) -> str:
        """Say it in a language."""
        return "; ".join(words.say(self.sentence, values) for values in (self.values, *self.more))


class Rule(Protocol):
    """A rule with its state; `metric` is None when it looks at all of them. `counted` names what a resumed run needs of it."""

    counted: ClassVar[tuple[str, ...]]
    text: str
    metric: str | None

    def see(self, logs: Mapping[str, Any]) -> Finding | None:
        """Take in one log event and say whether the rule fires."""
        ...


def numbers(logs: Mapping[str, Any]) -> dict[str, float]:
    """Return what a rule can look at: the numbers of a log event."""
    return {
        name: float(value) for name, value in logs.items() if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


# --- the rules ----------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Limit:
    """`loss > 10`, `loss > 10 for 3 logs`."""

    counted: ClassVar[tuple[str, ...]] = ("passed",)
    text: str
    metric: str | None
    operator: str
    limit: float
    count: int = 1
    passed: int = 0

    def see(self, logs: Mapping[str, Any]) -> Finding | None:
        """Count events in a row that pass the limit; NaN neither passes nor keeps it."""
        value = numbers(logs).get(self.metric or "", math.nan)
        if math.isnan(value):
            return None
        self.passed = self.passed + 1 if COMPARE[self.operator](value, self.limit) else 0
        if self.passed != self.count:
            return None
        values = {"metric": self.metric, "value": value, "count": self.count}
        return Finding("limit" if self.count == 1 else "limit_for", values)


@dataclass(slots=True)
class Stalled:
    """`no improvement in eval_loss for 5 evaluations`."""

    counted: ClassVar[tuple[str, ...]] = ("best", "waited")
    text: str
    metric: str | None
    count: int
    by: float
    lower: bool
    best: float = math.nan
    waited: int = 0

    def see(self, logs: Mapping[str, Any]) -> Finding | None:
        """Count evaluations since the best one; NaN is no improvement."""
        value = numbers(logs).get(self.metric or "")
        if value is None:
            return None
        if self._improves(value):
            self.best, self.waited = value, 0
            return None
        self.waited += 1
        if self.waited != self.count:
            return None
        return Finding("stalled", {"metric": self.metric, "value": value, "best": self.best, "count": self.count})

    def _improves(self, value: float) -> bool:
        if math.isnan(self.best) or math.isnan(value):
            return not math.isnan(value)
        gain = self.best - value if self.lower else value - self.best
        return gain > self.by


@dataclass(slots=True)
class NotFinite:
    """`nan`, `nan in grad_norm`."""

    counted: ClassVar[tuple[str, ...]] = ("bad",)
    text: str
    metric: str | None
    bad: list[str] = field(default_factory=list)

    def see(self, logs: Mapping[str, Any]) -> Finding | None:
        """Fire when a metric stops being a finite number; again only after it was one in between."""
        found = {name: value for name, value in numbers(logs).items() if self.metric in (None, name)}
        new = [name for name, value in found.items() if not math.isfinite(value) and name not in self.bad]
        self.bad = [name for name in self.bad if not math.isfinite(found.get(name, math.nan))] + new
        alike: dict[str, list[str]] = {}  # infinity is told as such, and NaN as NaN
        for name in new:
            alike.setdefault(str(found[name]), []).append(name)
        first, *more = [{"metric": ", ".join(names), "value": float(value)} for value, names in alike.items()] or [{}]
        return Finding("not_finite", first, tuple(more)) if new else None


# --- the grammar --------------------------------------------------------------------------------------------------------------


class RuleError(ValueError):
    """A rule that cannot be read: what was expected, at which character, and what a rule looks like."""


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


def _tokens(rule: str) -> Iterator[_Token]:
    for match in _TOKEN.finditer(rule):
        kind = match.lastgroup or "other"
        yield _Token(kind, match[kind], match.start(kind) + 1 - (kind == "quoted"))
    yield _Token("end", "", len(rule.rstrip()) + 1)


def parse(rule: str) -> Rule:
    """Read a rule; raises RuleError, a ValueError, that names the character."""
    return _Parser(rule).rule()


class _Parser:
    """Reads one rule from left to right."""

    def __init__(self, rule: str) -> None:
        self.text = rule.strip()
        self.tokens = list(_tokens(rule))
        self.shown = rule
        self.index = 0

    @property
    def next(self) -> _Token:
        return self.tokens[self.index]

    def rule(self) -> Rule:
        if self._take_word("no"):
            made: Rule = self._stalled()
        elif self._take_word("nan"):
            made = NotFinite(self.text, self._metric() if self._take_word("in") else None)
        else:
            made = self._limit()
        if self.next.kind != "end":
            self._refuse("the end of the rule")
        return made

    def _limit(self) -> Limit:
        metric = self._metric()
        if self.next.text not in COMPARE:
            self._refuse("one of > >= < <=")
        operator = self._take().text
        limit = self._number()
        count = self._count() if self._take_word("for") else 1
        return Limit(self.text, metric, operator, limit, count)

    def _stalled(self) -> Stalled:
        self._keyword("improvement")
        self._keyword("in")
        metric = self._metric()
        self._keyword("for")
        count = self._count()
        by = self._number() if self._take_word("by") else 0.0
        if by < 0:
            self._refuse("a number of at least 0", self.tokens[self.index - 1])
        lower = any(part in metric.lower() for part in LOWER_IS_BETTER)
        if self.next.kind == "comma":
            self._take()
            lower = self._direction()
        return Stalled(self.text, metric, count, by, lower)

    def _direction(self) -> bool:
        if self.next.text.lower() not in ("lower", "higher"):
            self._refuse("`lower is better` or `higher is better`")
        lower = self._take().text.lower() == "lower"
        self._keyword("is")
        self._keyword("better")
        return lower

    def _metric(self) -> str:
        if self.next.kind not in ("word", "quoted"):
            self._refuse("the name of a metric")
        return self._take().text

    def _number(self) -> float:
        if self.next.kind != "number":
            self._refuse("a number")
        return float(self._take().text)

    def _count(self) -> int:
        if not self.next.text.isdecimal() or int(self.next.text) < 1:
            self._refuse("a whole number of at least 1")
        count = int(self._take().text)
        if self.next.text.lower() not in UNITS:
            self._refuse("`evaluations` or `logs`")
        self._take()
        return count

    def _keyword(self, word: str) -> None:
        if not self._take_word(word):
            self._refuse(f"`{word}`")

    def _take_word(self, word: str) -> bool:
        found = self.next.kind == "word" and self.next.text.lower() == word
        self.index += found
        return found

    def _take(self) -> _Token:
        token = self.next
        self.index += 1
        return token

    def _refuse(self, expected: str, token: _Token | None = None) -> NoReturn:
        token = token or self.next
        got = f'got "{token.text}"' if token.text else "the rule ends there"
        close = get_close_matches(token.text.lower(), re.findall(r"`(\w+)`", expected), n=1)
        meant = f" (did you mean {close[0]!r}?)" if close else ""
        raise RuleError(f'"{self.shown}": expected {expected} at character {token.at}, {got}{meant}; {EXAMPLES}')
