"""What a format is: the way from a row of a source to a sample of one kind of row, in one object.

The core's formats have a file each beside this one. Whoever brings another names it in the entry-point group `longline.formats`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from longline.data.notes import Notes

if TYPE_CHECKING:
    from longline.config.sections import ColumnsSection, ToolArguments, TrainOn
    from longline.data.kinds import Kind
    from longline.data.values import Row, Sample


@dataclass(frozen=True, slots=True)
class Opened:
    """What a format is told of a source before it reads its rows.

    `path` is what messages call it; `found` are the columns of its first rows, `names` what the config calls them otherwise;
    `roles` are role names beyond the known ones. `padded`: keys that a mapping lacks come as null. `has_template`: the tokenizer
    can render chats; `vocabulary` is the number of its tokens. `tool_arguments` says what may stand for the arguments of a call;
    `notes` take what is noticed of the row at hand.
    """

    path: str
    found: Collection[str]
    names: ColumnsSection
    roles: Mapping[str, str]
    train_on: TrainOn
    padded: bool
    has_template: bool
    vocabulary: int
    tool_arguments: ToolArguments = "strict"
    notes: Notes = field(default_factory=Notes)


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads the rows of one source: `sample` makes a sample of a row, and raises RowError for one that is broken.

    `note` says in the report how they were read, told how many samples are plain text and how many a chat template wrote.
    """

    sample: Callable[[Row], Sample]
    note: Callable[[int, int], str] = lambda plain, chats: ""


@dataclass(frozen=True, slots=True)
class Format:
    """A format. `open` gives the reader of a source, or raises DataError.

    `needs` tells people which columns it looks for; `fits(found, names)` whether they are there, so that `auto` may mean it, and
    `certain` that they mean nothing else: a source with other formats' columns is then said to be of this one. `train_on` is
    what may be learnt, the default first. `needs_template`: without a chat template it reads nothing. `adds_eos`: texts that are
    not chats end with the end-of-sequence token where `data.add_eos` asks for it. `ends_turns`: a source in which no
    end-of-turn token is learnt is a mistake. `splits`: a text is a document, and one that is too long is split where the config
    does not say otherwise.
    """

    name: str
    kind: Kind
    needs: str
    train_on: tuple[TrainOn, ...]
    fits: Callable[[Collection[str], ColumnsSection], bool]
    open: Callable[[Opened], Reader]
    certain: bool = False
    needs_template: bool = False
    adds_eos: bool = True
    ends_turns: bool = False
    splits: bool = False
