"""The format: a question and a list of answers, the best first, become a ranking."""

from __future__ import annotations

from typing import TYPE_CHECKING

from longline.data.formats import Format, Opened, Reader
from longline.data.values import Conversation, RowError, Sample
from longline_toy.kind import RANKING as KIND

if TYPE_CHECKING:
    from collections.abc import Collection

    from longline.config.sections import ColumnsSection
    from longline.data.values import Row

ANSWERS = "answers"


def _open(opened: Opened) -> Reader:
    """What reads the rows of one source."""
    column = opened.names.question or "question"

    def sample(row: Row) -> Sample:
        question, answers = row.get(column), row.get(ANSWERS)
        if not isinstance(question, str) or not question.strip():
            raise RowError(f"the field {column!r} is missing or no text (found: {', '.join(map(str, row)) or 'none'})")
        if (
            not isinstance(answers, list)
            or len(answers) < 2
            or not all(isinstance(one, str) and one.strip() for one in answers)
        ):
            raise RowError(f"the field {ANSWERS!r} must be a list of two texts or more, the best first")
        return Sample(tuple(_turns(question, answer) for answer in answers))

    return Reader(sample)


def _turns(question: str, answer: str) -> Conversation:
    """The question, and one answer to it that is learnt."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Conversation(messages, [False, True])


def _fits(found: Collection[str], names: ColumnsSection) -> bool:
    """Whether the columns are those of rankings."""
    return ANSWERS in found and (names.question or "question") in found


RANKING = Format(
    name="ranking",
    kind=KIND,
    needs="question, and answers: a list of texts, the best first",
    train_on=("completion",),
    fits=_fits,
    open=_open,
    certain=True,
    needs_template=True,
)
