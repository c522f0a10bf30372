"""Which columns of a source hold prompt, answers and label, for the formats of preferences and of prompts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from longline.data.formats.messages import MESSAGE_COLUMNS
from longline.errors import DataError
from longline.methods.rewards import RESERVED

if TYPE_CHECKING:
    from longline.config.sections import ColumnsSection

CHOSEN = ("chosen", "chosen_response")
REJECTED = ("rejected", "rejected_response")
COMPLETION = ("completion", "response")
QUESTION = ("question", "instruction", "query", "input")
SYSTEM = ("system", "system_prompt")


@dataclass(frozen=True, slots=True)
class SourceColumns:
    """The columns of one source. `prompt` None: the answers are whole conversations or texts that begin with it.

    `chat`: text goes through the chat template. `loose`: the prompt column was only found, and whole conversations ignore it.
    `completion` None: the conversation in the prompt column ends with the answer.
    """

    prompt: str | None
    chat: bool
    further: str | None = None
    system: str | None = None
    loose: bool = False
    chosen: str = CHOSEN[0]
    rejected: str = REJECTED[0]
    completion: str | None = COMPLETION[0]
    label: str = "label"


def has(found: Collection[str], mapped: str | None, usual: Sequence[str]) -> bool:
    """Whether a column is there under the name that the config maps it to, else under any usual one."""
    return mapped in found if mapped else any(name in found for name in usual)


def has_messages(names: ColumnsSection, found: Collection[str]) -> bool:
    """Whether a column holds lists of messages."""
    return has(found, names.messages, MESSAGE_COLUMNS)


def prompt_columns(
    names: ColumnsSection, found: Collection[str], source: str, *, asks: bool = False, held: bool = False
) -> SourceColumns:
    """The columns around the prompt. Raises DataError where two could be meant.

    `asks`: a column `prompt` is the prompt, whatever questions stand beside it. `held`: messages that are mapped hold the answer.
    """
    prompt, asked, loose = _prompt(names, found, source, asks=asks, held=held)
    system = names.system or next((name for name in SYSTEM if name in found), None)
    alpaca = prompt == (names.instruction or "instruction") and "input" in found
    further = names.input or ("input" if asked and alpaca else None)
    return SourceColumns(prompt, asked or system is not None, further, system, loose)


def _prompt(
    names: ColumnsSection, found: Collection[str], source: str, *, asks: bool, held: bool
) -> tuple[str | None, bool, bool]:
    """The column of the prompt, whether text in it is a user's question, and whether it was only found."""
    mapped = [name for name in (names.prompt, names.question, names.instruction) if name]
    if len(mapped) > 1:
        raise DataError(f"{source}: columns: {' and '.join(mapped)} are both named as what is asked", hint="name one of them")
    if mapped:
        return mapped[0], names.prompt is None, False
    asked = [name for name in QUESTION if name in found and not (name == "input" and "instruction" in found)]
    if "prompt" in found and (asks or not asked):
        return "prompt", False, False
    usual = [*(["prompt"] if "prompt" in found else []), *asked]
    if len(usual) > 1:
        raise DataError(
            f"{source}: the prompt may be in {' or '.join(usual)}",
            hint=f"say which, such as `columns: {{prompt: {usual[0]}}}` for text as it is, or "
            f"`columns: {{question: {usual[-1]}}}` for the chat template",
        )
    if usual:
        return usual[0], True, False
    messages = (names.messages,) if names.messages else MESSAGE_COLUMNS
    whole = next((name for name in messages if name in found), None)
    return (whole, False, names.messages is None or held) if whole else (None, False, False)


def one_column(mapped: str | None, usual: Sequence[str], found: Collection[str], source: str, what: str) -> str:
    """The column that is mapped, or else the only usual one that is there."""
    there = [name for name in usual if name in found]
    if mapped is None and len(there) > 1:
        raise DataError(f"{source}: {what} may be in {' or '.join(there)}", hint=f"say which with `columns: {{{what}: ...}}`")
    return mapped or (there[0] if there else usual[0])


def refuse_taken(prompt: str | None, found: Collection[str], source: str) -> None:
    """A column that a reward function could not get under its name."""
    taken = sorted(RESERVED & set(found))
    if prompt != "prompt" and "prompt" in found:
        taken.append("prompt")
    if taken:
        raise DataError(
            f"{source}: reward functions get something else under the name of the column {', '.join(taken)}",
            hint="rename it in the data",
        )
