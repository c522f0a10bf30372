"""A row of any supported format into what is tokenised: a conversation, text with learnt spans, or ready token ids."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from longline.data.chat import MESSAGE_COLUMNS, ChatReader, RowError, text_field
from longline.data.masks import Conversation, Piece
from longline.data.preference import Asked, Labelled, Pair, PreferenceReader
from longline.data.shapes import Shape, fits, resolve
from longline.errors import DataError

if TYPE_CHECKING:
    from longline.config.sections import ColumnsSection, SourceSection, TrainOn
    from longline.data.prepared import Layout

Row = Mapping[str, Any]
PREFERENCE_FORMATS: dict[Layout, str] = {"pairs": "preference", "labelled": "unpaired", "prompts": "prompts"}
"""The one format of each layout that is not for sft."""
METHODS = {"preference": "dpo, orpo, cpo, simpo and reward", "unpaired": "kto", "prompts": "grpo and rloo"}
"""Which methods train on a format that is not for sft."""

NEEDS = {
    "chat": "messages (or conversations): a list of messages",
    "alpaca": "instruction and output",
    "prompt_completion": "prompt and completion",
    "completion": "text",
    "segments": "segments: a list of {text, train}",
    "tokenized": "input_ids",
    "preference": "chosen and rejected, and prompt or question unless both begin with it",
    "unpaired": "prompt or question, completion and label; or messages and label",
    "prompts": "prompt, question or messages",
}
"""What each format looks for, for people."""

DEFAULT_TRAIN_ON: dict[str, TrainOn] = {
    "chat": "assistant",
    "alpaca": "assistant",
    "prompt_completion": "completion",
    "completion": "all",
    "segments": "completion",
    "tokenized": "completion",
    "preference": "completion",
    "unpaired": "completion",
    "prompts": "completion",
}

ALLOWED_TRAIN_ON: dict[str, tuple[TrainOn, ...]] = {
    "chat": ("assistant", "last_assistant", "completion", "all"),
    "alpaca": ("assistant", "last_assistant", "completion", "all"),
    "prompt_completion": ("completion", "all"),
    "completion": ("all",),
    "segments": ("completion", "all"),
    "tokenized": ("completion", "all"),
    "preference": ("completion",),
    "unpaired": ("completion",),
    "prompts": ("completion",),
}

ALPACA_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
ALPACA_PLAIN = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A row that came as token ids; `labels` None means all are learnt."""

    ids: list[int]
    labels: list[int] | None


Sample = Conversation | Piece | TokenRow | Pair | Labelled | Asked
Converter = Callable[[Row], Sample]


def allowed(layout: Layout) -> list[str]:
    """The formats that a layout can use."""
    return [PREFERENCE_FORMATS[layout]] if layout in PREFERENCE_FORMATS else [name for name in NEEDS if name not in METHODS]


def refuse_unusable(format_: str, layout: Layout, source: str) -> None:
    """Raise DataError for a format that the method can't train on."""
    usable = allowed(layout)
    if format_ not in usable:
        raise DataError(
            f"{source}: the format {format_!r} is for {METHODS.get(format_, 'sft')}, "
            f"and {METHODS.get(usable[0], 'sft')} can use {' or '.join(usable)} only",
            hint=f"change `method:`, or give rows as {_needs(usable)}",
        )


def _needs(formats: Iterable[str]) -> str:
    return "; ".join(f"{name} needs {NEEDS[name]}" for name in formats)


def guess(columns: Iterable[str], names: ColumnsSection, source: str, layout: Layout = "padded") -> str:
    """The format that the columns of a source mean, of those that `layout` can use.

    Raises DataError when none or several fit.
    """
    found = set(columns)
    if layout in PREFERENCE_FORMATS:
        return _guess_preference(found, names, source, PREFERENCE_FORMATS[layout])

    def has(*wanted: str) -> bool:
        return all((getattr(names, name, None) or name) in found for name in wanted)

    messages = (names.messages,) if names.messages else MESSAGE_COLUMNS
    fit = {
        "chat": any(name in found for name in messages),
        "alpaca": has("instruction", "output"),
        "prompt_completion": has("prompt", "completion"),
        "completion": has("text"),
        "segments": has("segments"),
        "tokenized": has("input_ids"),
    }
    fitting = [name for name, meant in fit.items() if meant]
    if len(fitting) == 1:
        return fitting[0]
    needs = _needs(fitting or fit)
    if not fitting and (other := next((name for name in METHODS if _is(name, names, found)), None)):
        raise DataError(
            f"{source}: the columns {', '.join(sorted(found))} are those of {other!r}, which is for {METHODS[other]}, not for sft",
            hint="change `method:`, or set `format:` and `columns:` of this source",
        )
    what = f"can be read as {' or '.join(fitting)}" if fitting else "fit no format"
    raise DataError(
        f"{source}: the columns {', '.join(sorted(found)) or '(none)'} {what}: {needs}",
        hint="set `format:` of this source, and `columns:` where names differ",
    )


def _is(format_: str, names: ColumnsSection, found: Collection[str]) -> bool:
    """Whether columns can only be meant for this format; any column may be that of a prompt."""
    return format_ != "prompts" and fits(format_, names, found)


def _guess_preference(found: set[str], names: ColumnsSection, source: str, format_: str) -> str:
    if fits(format_, names, found):
        return format_
    raise DataError(
        f"{source}: the columns {', '.join(sorted(found)) or '(none)'} can't be used by {METHODS[format_]}: {_needs([format_])}",
        hint="map the names with `columns:` of this source, or change `method:`",
    )


def resolve_train_on(section: SourceSection, wanted: TrainOn | None, format_: str) -> TrainOn:
    """What is learnt of a source: its own `train_on`, else that of `data`, else the format's default."""
    train_on = section.train_on or wanted or DEFAULT_TRAIN_ON[format_]
    if train_on not in ALLOWED_TRAIN_ON[format_]:
        raise DataError(
            f"{section.path}: train_on {train_on!r} means nothing for the format {format_!r}",
            hint=f"give this source its own `train_on`: {' or '.join(ALLOWED_TRAIN_ON[format_])}",
        )
    return train_on


def converter(
    section: SourceSection,
    format_: str,
    train_on: TrainOn,
    *,
    has_template: bool,
    padded: bool,
    vocabulary: int,
    shape: Shape | None = None,
) -> Converter:
    """The function that turns a row of this source into a sample; it raises RowError for a row that is broken.

    `has_template` says whether the tokenizer can render chats; `padded` that missing keys of a mapping come as null;
    `vocabulary` is the number of its tokens; `shape` is that of the formats which have one (`shape_of`).
    """
    names = section.columns
    if shape is not None:
        reader = PreferenceReader(
            shape,
            ChatReader(names.model_copy(update={"system": shape.system}), section.roles, needs_answer=False, padded=padded),
        )
        readers: dict[str, Converter] = {"preference": reader.pair, "unpaired": reader.labelled, "prompts": reader.asked}
        return readers[format_]
    chat = ChatReader(names, section.roles, needs_answer=train_on != "all", padded=padded)
    if format_ == "chat":
        return chat.read
    if format_ == "alpaca":
        return lambda row: _alpaca(row, names, chat if has_template else None, train_on)
    if format_ == "prompt_completion":
        return lambda row: _prompt_completion(row, names, chat, train_on)
    if format_ == "completion":
        return lambda row: _whole(text_field(row, names.text or "text"))
    if format_ == "segments":
        return lambda row: _segments(row, names, train_on)
    return lambda row: _tokenized(row, names, train_on, vocabulary)


def shape_of(format_: str, names: ColumnsSection, columns: Iterable[str], source: str) -> Shape | None:
    """The columns that a format of METHODS reads; None for the others. Raises DataError where two could be meant."""
    return resolve(format_, names, set(columns), source) if format_ in METHODS else None


def _whole(text: str) -> Piece:
    return Piece(text, [(0, len(text))])


def _after(prompt: str, completion: str, train_on: TrainOn) -> Piece:
    """A prompt and what is learnt of it."""
    start = 0 if train_on == "all" else len(prompt)
    return Piece(prompt + completion, [(start, len(prompt) + len(completion))])


def _alpaca(row: Row, names: ColumnsSection, chat: ChatReader | None, train_on: TrainOn) -> Sample:
    """Through the chat template if there is one, else by the prompt that the Alpaca authors published."""
    instruction = text_field(row, names.instruction or "instruction")
    output = text_field(row, names.output or "output")
    key = names.input or "input"
    further = text_field(row, key, empty=True) if row.get(key) is not None else ""
    if chat is None:
        pattern = ALPACA_INPUT if further.strip() else ALPACA_PLAIN
        return _after(pattern.format(instruction=instruction, input=further), output, train_on)
    asked = f"{instruction}\n\n{further}" if further.strip() else instruction
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": output}]
    return chat.build(messages, row)


def _prompt_completion(row: Row, names: ColumnsSection, chat: ChatReader, train_on: TrainOn) -> Sample:
    """Both as text, or both as lists of messages."""
    first, second = names.prompt or "prompt", names.completion or "completion"
    prompt, completion = row.get(first), row.get(second)
    if isinstance(prompt, list) or isinstance(completion, list):
        if not isinstance(prompt, list) or not isinstance(completion, list):
            raise RowError(f"{first!r} and {second!r} must both be text or both be lists of messages")
        conversation = chat.build([*prompt, *completion], row)
        if train_on == "all":
            return conversation
        given = [False] * len(prompt) + [message["role"] == "assistant" for message in conversation.messages[len(prompt) :]]
        flags = [flag if own is None else own for own, flag in zip(conversation.overrides[-len(given) :], given, strict=True)]
        leading = [False] * (len(conversation.messages) - len(given))
        return Conversation(conversation.messages, [*leading, *flags], conversation.tools)
    return _after(text_field(row, first, empty=True), text_field(row, second), train_on)


def _segments(row: Row, names: ColumnsSection, train_on: TrainOn) -> Piece:
    """Pieces one after another, each learnt or not as it says."""
    key, text_key, flag_key = names.segments or "segments", names.text or "text", names.train or "train"
    parts = row.get(key)
    if not isinstance(parts, list) or not parts:
        raise RowError(f"the field {key!r} must be a list of pieces that is not empty")
    text, spans = "", []
    for number, part in enumerate(parts, start=1):
        if not isinstance(part, Mapping):
            raise RowError(f"piece {number} is a {type(part).__name__}, not a mapping")
        piece = text_field(part, text_key, empty=True)
        flag = part.get(flag_key)
        if not isinstance(flag, bool):
            raise RowError(f"piece {number}: {flag_key!r} must be true or false")
        if piece and (flag or train_on == "all"):
            spans.append((len(text), len(text) + len(piece)))
        text += piece
    if not text.strip():
        raise RowError("all pieces are empty")
    return Piece(text, spans)


def _tokenized(row: Row, names: ColumnsSection, train_on: TrainOn, vocabulary: int) -> TokenRow:
    """Ready ids and labels."""
    ids = _integers(row, names.input_ids or "input_ids", 0)
    if max(ids) >= vocabulary:
        raise RowError(f"the token id {max(ids)} is not in the vocabulary of {vocabulary}")
    key = names.labels or "labels"
    if row.get(key) is None or train_on == "all":
        return TokenRow(ids, None)
    labels = _integers(row, key, -100)
    if len(labels) != len(ids):
        raise RowError(f"{len(ids)} token ids, but {len(labels)} labels")
    return TokenRow(ids, labels)


def _integers(row: Row, key: str, least: int) -> list[int]:
    value = row.get(key)
    if not isinstance(value, list) or not value:
        raise RowError(f"the field {key!r} must be a list of integers that is not empty")
    if not all(type(item) is int and least <= item < 2**31 for item in value):
        raise RowError(f"the field {key!r} holds something that is no token id")
    return value
