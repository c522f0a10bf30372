"""What must never be shown: the secrets of a config, and how text is rid of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from pydantic import BaseModel, SecretStr

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from longline.config.sections import Config

MASK = "**********"
"""What stands where a secret was; a config that holds it is refused, because it cannot repeat a run."""

SHORTEST = 4
"""Shorter secrets are not searched for in free text: they would turn up inside ordinary words."""

_NAME = re.compile(
    r"(?:^|_)(?:token|secret|password|passwd|passphrase|api_?key|access_?key|private_?key|webhook|credentials?)(?:$|_)"
)
_NOT = re.compile(
    r"(?:pad|eos|bos|unk|mask|sep|cls|add|max|min|num|new|special|stop)_tokens?|tokens?_(?:per|id|ids|count|type)|tokens$"
)
# An option called mask_token was saved as stars, and the run folder then refused its own config.
_PLAIN = re.compile(r"<[^<>]*>|\[[^\[\]]*\]|true|false|none|null|auto|yes|no|on|off", re.IGNORECASE)
# Begins at the mark and not at the scheme: a search for the scheme starts anew at every letter of a long run of letters.
_USERINFO = re.compile(r"(?<=[a-zA-Z0-9+.-])://(?P<user>[^/\s@:?#]*)(?P<password>:[^/\s@?#]*)?@")


def looks_secret(name: str) -> bool:
    """Whether a key is named like a secret: token, api_key, password, webhook; not pad_token or max_tokens."""
    lower = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().replace("-", "_")
    return bool(_NAME.search(lower)) and not _NOT.search(lower)


def is_plain(value: str) -> bool:
    """Whether a value cannot be a secret, whatever its key is called: nothing, a word such as `auto`, `[MASK]` or `<|end|>`."""
    return not value or bool(_PLAIN.fullmatch(value))


def mask_userinfo(text: str) -> str:
    """The text with `user:password@` or `token@` of every url in it masked."""
    return _USERINFO.sub(f"://{MASK}@", text)


def userinfo(text: str) -> Iterator[str]:
    """The secret parts of urls in a text: the password, or the user where it stands alone as a token does."""
    for match in _USERINFO.finditer(text):
        password = (match["password"] or "").removeprefix(":")
        yield password or match["user"]


class Secrets:
    """The secret values of a config and of its plugins' options, to be kept out of everything that is written or sent.

    A value is secret when its field is a `SecretStr`, when it stands as user or password in a url, or when a raw mapping
    (`trainer`, options that no plugin's model has validated) has it under a name such as `token` or `api_key` and it may be one.
    """

    def __init__(self) -> None:
        self._values: set[str] = set()
        self._longest_first: tuple[str, ...] | None = None

    @classmethod
    def collect(cls, *sources: Any) -> Secrets:
        """The secrets of these sources: a Config, a plugin's options model, mappings or lists of them."""
        secrets = cls()
        for source in sources:
            secrets.add(source)
        return secrets

    @classmethod
    def of(cls, config: Config, options: Mapping[str, BaseModel]) -> Secrets:
        """The secrets of a config; what a plugin's validated options say of theirs is the last word on what the config gives it."""
        sections = [getattr(config, name) for name in type(config).model_fields if name != "plugins"]
        raw = [entry.options for entry in config.plugins if entry.name not in options]
        return cls.collect(*sections, *raw, *options.values())

    def add(self, source: Any) -> None:
        """Collect from a model, a mapping, a list or a single value; nested to any depth."""
        self._values.update(value for value in _collect(source, secret=False) if value)
        self._longest_first = None

    def __contains__(self, value: object) -> bool:
        return value in self._values

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Secrets({len(self._values)} values)"

    def mask(self, text: str) -> str:
        """The text with every known secret masked, also where it is url- or JSON-escaped; urls lose their userinfo."""
        if self._longest_first is None:  # made once: a table has thousands of texts
            # The longest first: where one secret is part of another, a rest of the longer one would stay.
            self._longest_first = tuple(sorted(set(self._forms()), key=len, reverse=True))
        for value in self._longest_first:
            text = text.replace(value, MASK)
        return mask_userinfo(text)

    def _forms(self) -> Iterable[str]:
        for value in self._values:
            if len(value) >= SHORTEST:
                yield from {
                    value,
                    quote(value, safe=""),
                    quote(value),
                    unquote(value),
                    json.dumps(value)[1:-1],
                    repr(value)[1:-1],
                }


def _collect(source: Any, *, secret: bool) -> Iterator[str]:
    if isinstance(source, SecretStr):
        yield source.get_secret_value()
    elif isinstance(source, BaseModel):
        for name in type(source).model_fields:
            # A declared plain field is what its author says it is; only names inside raw mappings are judged.
            yield from _collect(getattr(source, name), secret=False)
        yield from _collect(source.model_extra or {}, secret=False)
    elif isinstance(source, Mapping):
        for name, value in source.items():
            yield from _collect(value, secret=secret or looks_secret(str(name)))
    elif isinstance(source, (list, tuple, set, frozenset)):
        for value in source:
            yield from _collect(value, secret=secret)
    elif isinstance(source, str):
        yield from [source] if secret and not is_plain(source) else userinfo(source)
