"""Prompts that the policy answers in training."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from longline.data.formats.answers import AnswerReader
from longline.data.formats.base import Format, Opened, Reader
from longline.data.formats.source_columns import QUESTION, has, has_messages, prompt_columns, refuse_taken
from longline.data.kinds.prompt import PROMPT

if TYPE_CHECKING:
    from longline.config.sections import ColumnsSection


def _open(opened: Opened) -> Reader:
    columns = prompt_columns(opened.names, opened.found, opened.path, asks=True)
    refuse_taken(columns.prompt, opened.found, opened.path)
    reader = AnswerReader.of(opened, replace(columns, prompt=columns.prompt or "prompt"))
    return Reader(reader.asked, reader.note)


def _fits(found: Collection[str], names: ColumnsSection) -> bool:
    return has_messages(names, found) or has(found, names.prompt or names.question or names.instruction, ("prompt", *QUESTION))


PROMPTS = Format(
    "prompts",
    PROMPT,
    "prompt, question or messages",
    ("completion",),
    _fits,
    _open,
    adds_eos=False,  # an answer is to follow
)
