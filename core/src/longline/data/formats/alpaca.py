"""Instructions with their answers, as Stanford Alpaca has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from longline.config.sections import ColumnsSection
from longline.data.formats.base import Format, Opened, Reader
from longline.data.formats.messages import ChatReader, text_field
from longline.data.formats.source_columns import has
from longline.data.formats.texts import behind
from longline.data.kinds.sample import SAMPLE
from longline.data.values import Sample

if TYPE_CHECKING:
    from longline.data.values import Row

ALPACA_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
ALPACA_PLAIN = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)


def _open(opened: Opened) -> Reader:
    """Through the chat template if there is one, else by the prompt that the Alpaca authors published."""
    # The messages are made here, and have the usual keys whatever `columns` calls those of others.
    names = ColumnsSection(system=opened.names.system, tools=opened.names.tools)
    chat, templated = ChatReader(opened, names, needs_answer=False), opened.has_template
    note = "through the chat template" if templated else "with the Alpaca prompt: no chat template"
    return Reader(lambda row: _sample(row, opened, chat), lambda plain, chats: note)


def _sample(row: Row, opened: Opened, chat: ChatReader) -> Sample:
    names = opened.names
    instruction = text_field(row, names.instruction or "instruction")
    output = text_field(row, names.output or "output")
    key = names.input or "input"
    further = text_field(row, key, empty=True) if row.get(key) is not None else ""
    if not opened.has_template:
        chat.beside_text(row)
        pattern = ALPACA_INPUT if further.strip() else ALPACA_PLAIN
        return Sample((behind(pattern.format(instruction=instruction, input=further), output, opened.train_on),))
    asked = f"{instruction}\n\n{further}" if further.strip() else instruction
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": output}]
    return Sample((chat.build(messages, row),))


ALPACA = Format(
    "alpaca",
    SAMPLE,
    "instruction and output",
    ("assistant", "last_assistant", "completion", "all"),
    lambda found, names: has(found, names.instruction, ("instruction",)) and has(found, names.output, ("output",)),
    _open,
)
