"""A loaded config back to YAML: resolved, without secrets, and such that loading it repeats the run."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import longline
from longline.config.document import IMPLICIT_RESOLVERS, Keys, dotted
from longline.config.paths import absolute, holds_module, is_template, looks_local, names_something_here
from longline.config.secrets import MASK, Secrets, is_plain, looks_secret, mask_userinfo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel

    from longline.config.loader import LoadedConfig

_LOCAL = re.compile(r"^(?:data\.(?:train|eval)\.\d+\.path|model\.path|model\.tokenizer\.(?:path|chat_template))$")
_UNTOLD = ("plugins", "rewards", "trainer")
"""Sections with options of which nobody says which are paths."""
_OLDER = yaml.SafeDumper.yaml_implicit_resolvers


class Dumper(yaml.SafeDumper):
    """Quotes what our own loader, or another one of YAML 1.1, would read as something else; writes no anchors."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own name and type
        first: [*_OLDER.get(first, []), *IMPLICIT_RESOLVERS.get(first, [])] for first in {*_OLDER, *IMPLICIT_RESOLVERS}
    }

    def ignore_aliases(self, data: Any) -> bool:
        """Write a value wherever it is: an anchor would stand where a person looks for it."""
        return True


def dump_resolved(loaded: LoadedConfig, plugin_options: Mapping[str, BaseModel] | None = None) -> str:
    """The config as YAML: overrides applied, defaults written out, local paths absolute, no secrets.

    A secret whose value was one `${NAME}` is written as `${NAME}`, so that the file repeats the run; any other is written as
    `**********`, which `load_config` refuses. `plugin_options` are the validated options by plugin name; a plugin that is not
    among them keeps its options as they were given.
    """
    data = resolved(loaded, plugin_options)
    text: str = yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=128)
    return f"# Resolved by longline {longline.__version__}. `longline train` with this file repeats the run.\n{text}"


def resolved(loaded: LoadedConfig, plugin_options: Mapping[str, BaseModel] | None = None) -> dict[str, Any]:
    """What `dump_resolved` writes, as plain dicts, lists and scalars; `$` is escaped where it would be read as a reference."""
    plugin_options = plugin_options or {}
    data = _section(loaded.config)
    data["plugins"] = {}
    for entry in loaded.config.plugins:
        options = plugin_options.get(entry.name)
        written = dict(entry.options) if options is None else _options(options)
        data["plugins"][entry.name] = {**written, **entry.own}
    if not data["plugins"]:
        del data["plugins"]
    for reward in data.get("rewards", ()):
        module, colon, _ = reward["function"].partition(":")
        # `python -m longline` looks into the working directory as well.
        places = [loaded.path.parent, *(Path() for place in sys.path if absolute(place) == absolute(""))]
        home = next((place for place in places if colon and holds_module(place, module)), None)
        if home is not None:
            reward.setdefault("folder", absolute(str(home)))
    known = frozenset(plugin_options)
    cleaned = _Cleaner(loaded, Secrets.of(loaded.config, plugin_options), known).clean(data, ())
    return dict(cleaned)


def _options(options: BaseModel) -> dict[str, Any]:
    """A plugin's options; what its model calls a path becomes absolute."""
    return dict(_rooted(options.model_dump(mode="json", by_alias=True), options.model_dump(by_alias=True)))


def _rooted(dumped: Any, value: Any) -> Any:
    if isinstance(value, Path):
        return absolute(str(value))
    if isinstance(value, dict):
        return {name: _rooted(item, value.get(name)) for name, item in dumped.items()}
    if isinstance(value, (list, tuple)):
        return [_rooted(item, own) for item, own in zip(dumped, value, strict=True)]
    return dumped


def _section(section: BaseModel) -> dict[str, Any]:
    """The fields of a section that say something: empty ones are left out where empty is the default."""
    data: dict[str, Any] = {}
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        dumped = _rooted(section.model_dump(mode="json", include={name})[name], value)
        if hasattr(type(value), "model_fields"):
            dumped = _section(value)
        elif isinstance(value, list) and value and hasattr(type(value[0]), "model_fields"):
            dumped = [_section(item) for item in value]
        empty_by_default = info.default in (None, [], {}) or hasattr(type(info.default), "model_fields")
        if dumped in (None, [], {}) and empty_by_default and not (dumped == {} and info.default is None):
            continue
        data[name] = dumped
    return {**data, **(section.model_extra or {})}


class _Cleaner:
    """Takes secrets out, makes local paths absolute, escapes what would be read as a reference."""

    def __init__(self, loaded: LoadedConfig, secrets: Secrets, known: frozenset[str]) -> None:
        self.loaded = loaded
        self.secrets = secrets
        self.known = known

    def clean(self, value: Any, keys: Keys) -> Any:
        if isinstance(value, dict):
            return {name: self.clean(item, (*keys, name)) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.clean(item, (*keys, index)) for index, item in enumerate(value)]
        return self._text(value, keys) if isinstance(value, str) else value

    def _text(self, text: str, keys: Keys) -> str:
        path = dotted(keys)
        if self._holds_secret(text, keys):
            reference = self.loaded.env_refs.get(path)
            if reference:
                return f"${{{reference}}}"
            template = self._harmless_template(keys)
            return template or (mask_userinfo(self.secrets.mask(text)) if "://" in text else MASK)
        named = _LOCAL.match(path) and not is_template(text) and looks_local(text)
        if named or (keys[0] in _UNTOLD and names_something_here(text)):
            # In a config paths are relative to the working directory; the saved one repeats the run from anywhere.
            text = absolute(text)
        return text.replace("${", "$${")

    def _holds_secret(self, text: str, keys: Keys) -> bool:
        raw = keys[0] == "plugins" and keys[1] not in self.known
        if keys[0] == "plugins" and dotted(keys) in self.loaded.env_refs and (raw or looks_secret(str(keys[-1]))):
            return True  # nobody said what is secret among these options, or it should have been said of this one
        # The names that are judged are those inside raw mappings; of a validated plugin's options its model is the author's word.
        judged = {"plugins": 3 if keys[1:2] and keys[1] in self.known else 2, "trainer": 1}.get(str(keys[0]), len(keys))
        named = any(isinstance(key, str) and looks_secret(key) for key in keys[judged:]) and not is_plain(text)
        return bool(text) and (named or MASK in text or self.secrets.mask(text) != text)

    def _harmless_template(self, keys: Keys) -> str | None:
        """The text as written, when masking finds nothing in it beyond references: `https://${USER}:${KEY}@host/rows.jsonl`."""
        node = self.loaded.root.find(keys)
        template = node.template if node else None
        if template is None or looks_secret(str(keys[-1])):
            return None
        rest = re.sub(r"\$\{[^}]*\}(?::\$\{[^}]*\})?@", "", template)
        return template if mask_userinfo(rest) == rest and self.secrets.mask(rest) == rest else None
