"""Pydantic's findings in the words and places of the config that a person wrote."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, SecretStr

from longline.config.document import Keys, Node, dotted
from longline.config.secrets import looks_secret
from longline.config.sections import SHORT_FORMS
from longline.errors import Problem
from longline.errors import nearest as closest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_EXPECTED = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "dict": "keys with values",
    "mapping": "keys with values",
    "model": "keys with values",
    "path": "a path",
    "url": "a url",
}
_RELATION = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
    "multiple_of": ("a multiple of", "multiple_of"),
}


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """`did you mean ...?` with the valid name most like `name`, or None when nothing is near."""
    found = closest(name, valid)
    return f"did you mean `{found}`?" if found else None


def shown(node: Node, *, secret: bool = False) -> str:
    """A value as a message may show it: short, as written, a secret and what came from the environment never."""
    if node.template is not None:
        return f"the value of {node.template}"
    if secret:
        return "a secret of another type"
    value = node.plain()
    if value is None:
        return "nothing"
    if isinstance(value, (dict, list)):
        return "keys with values" if isinstance(value, dict) else "a list"
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, (str, bool)) else str(value)
    return text if len(text) <= 60 else f"{text[:56]}..."


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The pydantic models that an annotation mentions: in a union, a list, an Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def model_at(model: type[BaseModel], keys: Keys) -> type[BaseModel] | None:
    """The model that describes the place `keys` inside `model`, or None when it is no section."""
    for key in keys:
        if isinstance(key, int):
            continue
        info = model.model_fields.get(key)
        below = next(models_in(info.annotation), None) if info else None
        if below is None:
            return None
        model = below
    return model


def explain(error: ValidationError, root: Node, prefix: Keys, model: type[BaseModel]) -> list[Problem]:
    """Problems with places, one for each value that is wrong; `prefix` is where `model` stands in the tree `root`."""
    found: dict[tuple[Keys, str], list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False, include_input=False):
        keys = _keys(detail, root, prefix)
        missing = detail["type"] in {"missing", "extra_forbidden"}
        found.setdefault((keys, detail["type"] if missing else ""), []).append(detail)
    return [_problem(keys, details, root, prefix, model) for (keys, _), details in found.items()]


def explain_values(error: ValidationError) -> str:
    """The same as one line, for values that stand in no file."""
    return "; ".join(f"{dotted(tuple(detail['loc']))}: {_sentence([detail], 'another value')}" for detail in error.errors())


def _keys(detail: ErrorDetails, root: Node, prefix: Keys) -> Keys:
    """The keys that an error means, without pydantic's own marks of union members and validators."""
    keys: Keys = prefix
    node: Node | None = root.find(prefix)
    last = len(detail["loc"]) - 1
    for index, part in enumerate(detail["loc"]):
        if node and isinstance(node.value, dict) and isinstance(part, int):
            part = list(node.value)[part] if part < len(node.value) else part
        below = node.child(part) if node else None
        if below is not None:
            keys, node = (*keys, part), below
        elif index == last and detail["type"] == "missing":
            keys = (*keys, part)
    return keys


def _problem(keys: Keys, details: list[ErrorDetails], root: Node, prefix: Keys, model: type[BaseModel]) -> Problem:
    node = root.nearest(keys)
    kind = details[0]["type"]
    name = str(keys[-1]) if keys else ""
    if kind == "missing":
        return Problem("is missing", dotted(keys), str(node.key), _meaning(keys[len(prefix) :], model))
    if kind == "extra_forbidden":
        section = model_at(model, keys[len(prefix) : -1]) or model
        return Problem("unknown key", dotted(keys), str(node.key), unknown_hint(name, section))
    options = [word for detail in details if detail["type"] == "literal_error" for word in _options(detail)]
    if options and isinstance(node.value, (str, bool, int)):
        text = f"{shown(node, secret=looks_secret(name))} is not one of {', '.join(options)}"
        return Problem(text, dotted(keys), str(node.focus), nearest(str(node.value), options))
    if short := _short_form(keys, node):
        return short
    secret = looks_secret(name) or is_secret(keys[len(prefix) :], model)
    text = _sentence(details, shown(node, secret=secret))
    hint = "quote it" if secret and "expected text" in text else None
    return Problem(text, dotted(keys), str(node.focus), hint)


def _short_form(keys: Keys, node: Node) -> Problem | None:
    """What may stand in place of a list, or of an item of it, where text stands for an item; None elsewhere."""
    alone, item = SHORT_FORMS.get(keys), SHORT_FORMS.get(keys[:-1])
    if isinstance(node.value, dict) or not (alone or item) or (alone and isinstance(node.value, list)):
        return None
    text = f"expected a {alone or item}, or {'a list of them' if alone else 'keys with values'}, got {shown(node)}"
    return Problem(
        text, dotted(keys), str(node.focus), None if node.value is None or isinstance(node.value, list) else "quote it"
    )


def unknown_hint(name: str, section: type[BaseModel]) -> str:
    """What to write instead of an unknown key: the nearest valid one, or all of them when they are few."""
    valid = list(section.model_fields)
    close = nearest(name, valid)
    if close:
        return close
    return f"valid keys: {', '.join(valid)}" if valid else "no keys are allowed here"


def _options(detail: ErrorDetails) -> list[str]:
    """The words of a literal error; pydantic gives them as `'a', 'b' or 'c'`."""
    return [word.strip().strip("'") for word in str(detail["ctx"]["expected"]).replace(" or ", ", ").split(", ")]


def _meaning(keys: Keys, model: type[BaseModel]) -> str | None:
    section = model_at(model, keys[:-1])
    info = section.model_fields.get(str(keys[-1])) if section else None
    return info.description.split("\n")[0].rstrip(".") if info and info.description else None


def is_secret(keys: Keys, model: type[BaseModel]) -> bool:
    """Whether the field of a model at these keys is declared a SecretStr."""
    section = model_at(model, keys[:-1])
    info = section.model_fields.get(str(keys[-1])) if section and keys else None
    return info is not None and (info.annotation is SecretStr or SecretStr in get_args(info.annotation))


def _sentence(details: list[ErrorDetails], value: str) -> str:
    kinds = [detail["type"] for detail in details]
    expected = [_EXPECTED[kind.split("_")[0]] for kind in kinds if _is_type_error(kind)]
    if expected and len(expected) == len(kinds):
        return f"expected {' or '.join(dict.fromkeys(expected))}, got {value}"
    detail = next(item for item in details if not _is_type_error(item["type"])) if expected else details[0]
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _RELATION:
        word, key = _RELATION[kind]
        return f"must be {word} {context[key]:g}, got {value}"
    if kind in {"string_too_short", "too_short"}:
        return "must not be empty"
    if kind in {"value_error", "assertion_error"}:
        return str(context.get("error", detail["msg"]))
    return f"{detail['msg'][:1].lower()}{detail['msg'][1:]}, got {value}"


def _is_type_error(kind: str) -> bool:
    head, _, rest = kind.partition("_")
    return head in _EXPECTED and rest in {"type", "parsing", "parsing_size", "from_float", "number", "attributes_type"}
