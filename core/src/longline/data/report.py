"""What preparing the data came to: counts for each source, the rows that could not be read, and the packing."""

from __future__ import annotations

import itertools
import re
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from longline.data.notes import Notice
from longline.text import clipped

if TYPE_CHECKING:
    from collections.abc import Sequence

_PARTICULAR = re.compile(r"\d+|\(found: .*")
"""What is not the same in rows that fail for one reason."""
LISTED_BAD_ROWS = 20
"""How many bad rows of a source are listed with file and line; all of them are counted."""

SCREEN = 2400
"""How many characters of rows one message lists."""


def on_a_screen(rows: Sequence[str], count: int) -> str:
    """The first rows, a line each, as many as fit a screen, and how many more of `count` there are."""
    ends = itertools.accumulate(len(row) for row in rows)
    shown = [
        row for number, (row, end) in enumerate(zip(rows, ends, strict=True)) if number < LISTED_BAD_ROWS and end <= SCREEN
    ]
    more = f"\n  and {count - len(shown)} more" if count > len(shown) else ""
    return "".join(f"\n  {row}" for row in shown) + more


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not be read: `where` is `file:line`; `hint` is what to do where all rows are like it."""

    where: str
    reason: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass(slots=True)
class SourceReport:
    """The counts of one source. `rows` are the rows read, bad ones included; tokens are counted after truncation, and those of an
    overlap as often as they are seen. `splits`: what is too long is split.

    `kept` are the rows that are trained on, and `pieces` the samples made of them: more where rows were split (`split_rows`);
    `idle` pieces have nothing to learn and are left out. `lost` tokens are those of `dropped` rows and of what was cut off.
    `truncated_kept` leaves out those of the `truncated` that were left out themselves: `untrained` rows have nothing to learn and
    are left out; `terminators` are the end-of-turn tokens that are learnt; in
    `straddling` rows a token starts in what is masked and ends in what is learnt, so it is masked (in answers to compare it is
    learnt). Rows are pairs, labelled answers or prompts where the method asks for these; the tokens of a pair are those of
    both answers, each with the prompt. `identical` pairs do not differ within max_length and are left out; `good` counts
    the labels that are true, and `detail` is what the kind of row says of what was kept. `ends` are the tokens that end answers,
    with how often they are learnt, without such as also stand inside of answers; `notices` are what was noticed of rows, by the
    text that tells of it.
    """

    name: str
    split: str
    format: str = ""
    ends_turns: bool = False
    guessed: bool = False
    note: str = ""
    weight: float = 1.0
    splits: bool = False
    rows: int = 0
    bad: int = 0
    bad_rows: list[BadRow] = field(default_factory=list)
    alike: bool = True
    kept: int = 0
    pieces: int = 0
    split_rows: int = 0
    idle: int = 0
    lost: int = 0
    truncated: int = 0
    truncated_kept: int = 0
    dropped: int = 0
    untrained: int = 0
    untrained_rows: list[str] = field(default_factory=list)
    identical: int = 0
    identical_rows: list[str] = field(default_factory=list)
    good: int = 0
    detail: str = ""
    tokens: int = 0
    trained_tokens: int = 0
    terminators: int = 0
    straddling: int = 0
    ends: dict[str, int] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    notices: dict[str, Notice] = field(default_factory=dict)
    fingerprint: str = ""
    seconds: float = 0.0

    @property
    def lost_share(self) -> float:
        """The share of all tokens that are lost for their rows' length, 0 to 1."""
        return self.lost / (self.lost + self.tokens) if self.lost else 0.0

    def add_bad(self, where: str, reason: str, hint: str = "") -> None:
        """Count a bad row and list it while there is room."""
        self.bad += 1
        if len(self.bad_rows) < LISTED_BAD_ROWS:
            self.bad_rows.append(BadRow(where, clipped(reason), hint))
        self.alike = self.alike and _PARTICULAR.sub("", clipped(reason)) == _PARTICULAR.sub("", self.bad_rows[0].reason)

    def add_notice(self, text: str, where: str, example: str, *, warns: bool) -> None:
        """Count what was noticed of a row."""
        self.notices.setdefault(text, Notice(0, where, example, warns)).rows += 1

    def leave_out(self, fault: str, where: str) -> None:
        """Count a sample that is left out, and list it while there is room; `fault` is untrained or identical."""
        setattr(self, fault, getattr(self, fault) + 1)
        listed: list[str] = getattr(self, f"{fault}_rows")
        if len(listed) < LISTED_BAD_ROWS:
            listed.append(where)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SourceReport:
        """Rebuild what `dataclasses.asdict` gave."""
        notices = {text: Notice(**notice) for text, notice in data["notices"].items()}
        return cls(**{**data, "bad_rows": [BadRow(**row) for row in data["bad_rows"]], "notices": notices})


@dataclass(slots=True)
class SplitReport:
    """One split as it is trained on: samples (after weights), rows of the data set (packs when packed), tokens in them.

    `documents` are the different rows of the sources that they were made of: fewer where rows were split, more where joined. A
    pair, a labelled answer or a prompt is a sample; `longest` of a pair is the longer answer with its prompt.
    """

    samples: int = 0
    rows: int = 0
    documents: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    longest: int = 0
    packs: int = 0
    efficiency: float | None = None


@dataclass(slots=True)
class DataReport:
    """The whole account; `sources` lists the train sources first, then the eval sources.

    `unit` is what is counted, in the plural, and empty for samples; `learns` says whether tokens are
    learnt; `columns` are the further ones that are kept.
    """

    sources: list[SourceReport] = field(default_factory=list)
    train: SplitReport = field(default_factory=SplitReport)
    eval: SplitReport | None = None
    max_length: int = 0
    layout: str = "padded"
    unit: str = ""
    learns: bool = True
    columns: list[dict[str, Any]] = field(default_factory=list)
    fingerprint: str = ""
    cache_hit: bool = False
    cache_path: str | None = None
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)

    @property
    def bad(self) -> int:
        """How many rows of all sources could not be read."""
        return sum(source.bad for source in self.sources)

    @property
    def ends(self) -> list[str]:
        """The tokens that end the answers of the training data."""
        return list(dict.fromkeys(token for source in self.sources if source.split == "train" for token in source.ends))

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> DataReport:
        """Rebuild what `to_dict` gave; raises KeyError or TypeError when it is something else."""
        known = {item.name for item in fields(cls)}
        if set(data) != known:
            raise KeyError("not a data report of this version")
        evaluated = SplitReport(**data["eval"]) if data["eval"] else None
        sources = [SourceReport.from_dict(source) for source in data["sources"]]
        return cls(**{**data, "sources": sources, "train": SplitReport(**data["train"]), "eval": evaluated})
