"""From what happened to the interactive card that Lark shows.

Everything in a card is plain text, never Markdown: an error's text may hold anything, `<at id=all></at>` too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Literal

from longline.text import one_line, showable

Kind = Literal["start", "complete", "failed", "interrupted", "info", "warning", "error", "test"]
Payload = dict[str, Any]

COLOURS: dict[Kind, str] = {
    "start": "blue",
    "complete": "green",
    "failed": "red",
    "interrupted": "orange",
    "info": "blue",
    "warning": "orange",
    "error": "red",
    "test": "blue",
}
MAX_BYTES = 19_800
"""Lark takes 20 KB; the rest is for timestamp and signature."""
MAX_TITLE = 200
MAX_FACT = 200
MAX_FACTS = 18
MAX_TEXT = 4000


@dataclass(frozen=True, slots=True)
class Card:
    """One message: `facts` are (name, value) lines, `text` a block under them that loses its middle when it is long."""

    kind: Kind
    title: str
    facts: tuple[tuple[str, str], ...] = ()
    text: str = ""
    footer: str = ""
    link: str | None = None
    link_label: str = "Open"

    def payload(self) -> Payload:
        """Return the body of the request, without a signature; at most MAX_BYTES as JSON."""
        card = self
        while len(encode(card._payload())) > MAX_BYTES:
            if card.text:
                half = len(card.text.encode("utf-8", "replace")) // 2
                card = replace(card, text=shorten(card.text, half, ends=True) if half > MAX_FACT else "")
            else:
                card = replace(card, facts=card.facts[:-1])
        return card._payload()

    def _payload(self) -> Payload:
        elements = [_fact(name, value) for name, value in self.facts[:MAX_FACTS]]
        if self.text:
            elements += [*([{"tag": "hr"}] if self.facts else []), _text(shorten(self.text, MAX_TEXT, ends=True))]
        if self.link:
            behaviors = [{"type": "open_url", "default_url": self.link}]
            text = {"tag": "plain_text", "content": self.link_label}
            elements.append({"tag": "button", "type": "primary", "text": text, "behaviors": behaviors})
        if self.footer:
            elements.append(_text(shorten(self.footer, MAX_FACT), text_size="notation", text_color="grey"))
        title = {"tag": "plain_text", "content": shorten(one_line(self.title), MAX_TITLE)}
        header = {"title": title, "template": COLOURS[self.kind]}
        config = {"update_multi": True, "summary": title}
        card = {"schema": "2.0", "config": config, "header": header, "body": {"elements": elements}}
        return {"msg_type": "interactive", "card": card}


def _text(content: str, **style: str) -> Payload:
    return {"tag": "div", "text": {"tag": "plain_text", "content": content, **style}}


def _fact(name: str, value: str) -> Payload:
    """A name and its value side by side."""
    left = {
        "tag": "column",
        "width": "weighted",
        "weight": 1,
        "elements": [_text(shorten(one_line(name), MAX_FACT), text_color="grey")],
    }
    right = {"tag": "column", "width": "weighted", "weight": 3, "elements": [_text(shorten(value, MAX_FACT))]}
    return {"tag": "column_set", "columns": [left, right]}


def shorten(text: str, limit: int, *, ends: bool = False) -> str:
    """Return at most about `limit` bytes of a text that a card can hold; an ellipsis marks the cut.

    With `ends` the middle is cut out: an error is called by its name at its beginning, and says what to do at its end.
    """
    data = showable(text).strip().encode()
    if len(data) <= limit:
        return data.decode()
    tail = limit - limit // 4 if ends else 0
    first, last = (part.decode("utf-8", "ignore").strip() for part in (data[: limit - tail], data[len(data) - tail :]))
    return f"{first} ... {last}".rstrip()


def encode(payload: Payload) -> bytes:
    """Return the JSON of a payload as it is sent: UTF-8, without spaces."""
    return json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
