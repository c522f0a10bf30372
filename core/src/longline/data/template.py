"""Renders a chat template so that every character of the text is known to belong to one message, or to none.

The template is parsed, and each `for` loop of it gets three extra outputs: a mark before, a mark at the start of the body that
names the message at hand, and a mark after. What a template captures to change it later is left alone. The rendered text
without the marks must be what `apply_chat_template` gives, which is checked. A `{% generation %}` block is marked in the
same way.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import jinja2
import jinja2.ext
import jinja2.sandbox
from jinja2 import nodes
from jinja2.visitor import NodeTransformer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jinja2.parser import Parser
    from transformers import PreTrainedTokenizerBase

    from longline.data.values import Message, Span

CHECK_FIRST, CHECK_EVERY = 64, 16
REASONING = ("reasoning_content", "thinking", "reasoning")
"""The keys under which a message may have what was thought before it."""

_OWNER = "longline_owner_mark"
_NONCE = secrets.token_hex(6)
_PUSH, _POP, _GENERATE, _END_GENERATE = "push", "pop", "gen", "endgen"
# Characters for private use around a word that is drawn anew in each process: no text of a data set is taken for a mark.
_BEGIN, _END = f"\ue0f0{_NONCE}:", "\ue0f1"


class TemplateError(Exception):
    """The chat template refuses a conversation, or what it writes cannot be told apart; the message is for people."""


def _mark(name: str | int) -> str:
    return f"{_BEGIN}{name}{_END}"


def _output(name: str) -> nodes.Output:
    return nodes.Output([nodes.Const(_mark(name))])


class _Generation(jinja2.ext.Extension):
    """`{% generation %}`: writes marks around its body, in a scope of its own as transformers has it."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own declaration

    def parse(self, parser: Parser) -> list[nodes.Node]:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        scope = nodes.Scope([_output(_GENERATE), *body, _output(_END_GENERATE)])
        return [scope.set_lineno(lineno)]


# One rendering says who wrote what. Rendering prefixes and subtracting them goes wrong for templates that look at later
# messages, and tokenising pieces gives other tokens than tokenising the whole.
class _Instrument(NodeTransformer):
    """Adds marks to every loop whose output goes straight to the text."""

    def visit_For(self, node: nodes.For) -> Any:  # noqa: N802 - jinja2's visitor names
        self.generic_visit(node)
        # A loop over pairs, such as `for key, value in ...`, goes over no messages.
        if isinstance(node.target, nodes.Name):
            owner = nodes.Filter(nodes.Name(node.target.name, "load"), _OWNER, [], [], None, None)
            node.body.insert(0, nodes.Output([owner]))
        return [_output(_PUSH), node, _output(_POP)]

    def _leave(self, node: nodes.Node) -> nodes.Node:
        """What is captured into a variable or returned by a macro stays as it is."""
        return node

    visit_Macro = visit_CallBlock = visit_FilterBlock = visit_AssignBlock = _leave  # noqa: N815


def _raise(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


# As transformers has it: jinja2's own filter escapes HTML.
def _tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _environment() -> jinja2.Environment:
    """The environment that transformers documents for chat templates."""
    extensions: list[Any] = [_Generation, jinja2.ext.loopcontrols]
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    return environment


@dataclass(slots=True)
class Rendering:
    """A conversation as text; `regions[i]` are the spans that message i wrote, `generated` those of generation blocks."""

    text: str
    regions: dict[int, list[Span]] = field(default_factory=dict)
    generated: list[Span] = field(default_factory=list)


def _read_marks(marked: str) -> Rendering:
    """Split marked text into the text and its spans."""
    first, *pieces = marked.split(_BEGIN)
    texts, owners, generating = [first], [-1], []
    position, result = len(first), Rendering("")
    for piece in pieces:
        name, _, text = piece.partition(_END)
        if name == _PUSH:
            owners.append(owners[-1])
        elif name == _POP:
            owners.pop()
        elif name == _GENERATE:
            generating.append(position)
        elif name == _END_GENERATE:
            result.generated.append((generating.pop(), position))
        else:
            owners[-1] = int(name)
        if text and owners[-1] >= 0:
            spans = result.regions.setdefault(owners[-1], [])
            if spans and spans[-1][1] == position:
                spans[-1] = (spans[-1][0], position + len(text))
            else:
                spans.append((position, position + len(text)))
        texts.append(text)
        position += len(text)
    result.text = "".join(texts)
    return result


class ChatTemplate:
    """A tokenizer's chat template, rendered with and without marks.

    Raises TemplateError when the tokenizer has none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            raise TemplateError("the tokenizer has no chat template")
        self.tokenizer = tokenizer
        self._variables = dict(tokenizer.special_tokens_map)
        self._environment = _environment()
        self._environment.filters[_OWNER] = self._owner
        self._numbers: dict[int, str] = {}
        self._seen: dict[tuple[Any, ...], int] = {}
        self._compiled: dict[str, jinja2.Template] = {}

    def source(self, tools: Any = None) -> str:
        """The Jinja text used with or without tools."""
        source: str = self.tokenizer.get_chat_template(None, tools)
        return source

    def _marked(self, tools: Any) -> jinja2.Template:
        """The instrumented template."""
        source = self.source(tools)
        if source not in self._compiled:
            tree = _Instrument().visit(self._environment.parse(source))
            template = self._compiled[source] = self._environment.from_string(tree)
            # jinja2 copies them for every rendering, and that of a ChainMap is slow.
            template.globals = dict(template.globals)
        return self._compiled[source]

    def _owner(self, value: Any) -> str:
        """The mark of a message; nothing for whatever else a loop goes over. A filter, since the sandbox looks at every call."""
        return self._numbers.get(id(value), "")

    def render(self, messages: Sequence[Message], tools: Any = None, *, add_generation_prompt: bool = False) -> Rendering:
        """The text of a conversation and who wrote what. Raises TemplateError when the template refuses it."""
        messages = [_aliased(message) for message in messages]
        # By identity, since two messages of a conversation may be equal.
        self._numbers = {id(message): _mark(number) for number, message in enumerate(messages)}
        variables = {**self._variables, "add_generation_prompt": add_generation_prompt}
        try:
            marked = self._marked(tools).render(messages=messages, tools=tools, documents=None, **variables)
        except Exception as error:
            raise TemplateError(f"the chat template refuses it: {error}") from error
        return _read_marks(marked)

    def checked(self, messages: Sequence[Message], tools: Any = None) -> Rendering:
        """`render`, compared with what transformers renders.

        Marks are written beside a template's own output, never into what it captures, so they can't change it; what could
        differ is the environment. The first conversations of each kind are compared, and of the rest one in CHECK_EVERY.
        """
        rendering = self.render(messages, tools)
        kind = (len(messages), tools is None, *(message["role"] for message in messages[:8]), *map(len, messages[:8]))
        seen = self._seen[kind] = self._seen.get(kind, -1) + 1
        if seen < CHECK_FIRST or seen % CHECK_EVERY == 0:
            expected = self.tokenizer.apply_chat_template(list(messages), tools=tools, tokenize=False)
            if rendering.text != expected:
                raise TemplateError(
                    "transformers renders this conversation differently, so no message can be told from another"
                )
        return rendering


def _aliased(message: Mapping[str, Any]) -> Message:
    """As transformers hands a message to a template: no None values, reasoning under each of its names."""
    plain = {key: value for key, value in message.items() if value is not None}
    reasoning = next((plain[key] for key in REASONING if key in plain), None)
    return plain if reasoning is None else {"thinking": reasoning, **plain, "reasoning_content": reasoning}
