"""The JSON schema (draft 2020-12) of a config file, for editors: our sections, the libraries' fields, plugins' options.

It describes what may be written, so the short forms of `data.train`, `rewards` and `plugins` are in it, and `${NAME}` wherever a
number or a word is expected, and the text form of numbers such as 5e-5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic.errors import PydanticInvalidForJsonSchema

from longline.config import doors, fields
from longline.config.sections import PLUGIN_WORDS, Config, PluginEntry

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pydantic import BaseModel

    from longline.config.fields import LibraryField
    from longline.methods.base import Method

_REFERENCE = {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*\}", "description": "A value from the environment."}
_REF = {"$ref": "#/$defs/Reference"}
_EXPONENT = {
    "type": "string",
    "pattern": r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$",
    "description": "A number such as 5e-5, which editors that read YAML 1.1 take for a text.",
}


def build_schema(option_models: Mapping[str, type[BaseModel]], methods: Mapping[str, Method]) -> dict[str, Any]:
    """The schema of a config whose plugins may be any of `option_models` (plugin name to its options model).

    What `trainer` may hold depends on `method`, which may be any of `methods` (by name).
    """
    schema = Config.model_json_schema()
    definitions = schema["$defs"]
    del definitions["PluginEntry"]
    properties = schema["properties"]
    for name in ("train", "eval", "keep"):
        _one_or_more(definitions["DataSection"]["properties"][name])
    definitions["SourceSection"]["properties"]["format"]["examples"] = ["auto", *sorted(doors.offers("longline.formats"))]
    _one_or_more(properties["rewards"])
    _trainers(schema, definitions, methods)
    adapter = definitions["AdapterSection"]
    extra = _library(fields.adapter_fields(), fields.REFUSED_ADAPTER_FIELDS)["properties"]
    adapter["properties"] = {**extra, **adapter["properties"]}
    adapter["additionalProperties"] = False
    quantization = definitions["ModelSection"]["properties"]["quantization"]
    quantization["anyOf"] = [_library(fields.quantization_fields(), ()), {"type": "null"}]
    properties["plugins"] = {"description": properties["plugins"]["description"], **_plugins(option_models, definitions)}
    allowed: dict[str, Any] = _with_references(schema)
    allowed["$defs"] |= {"Reference": _REFERENCE, "Exponent": _EXPONENT}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **allowed, "title": "Longline config"}


def _trainers(schema: dict[str, Any], definitions: dict[str, Any], methods: Mapping[str, Method]) -> None:
    """The trainer's fields of each method; those that are the same as the default's refer to them: there are a hundred."""
    properties = schema["properties"]
    usual = properties["method"]["default"]
    properties["method"] = {**properties["method"], "enum": list(methods)}
    own = {name: _library(method.fields(), method.refused) for name, method in methods.items()}
    common = dict(own[usual]["properties"])
    schema["allOf"] = []
    for method, trainer in own.items():
        given: dict[str, Any] = {"properties": {"method": {"const": method}}}
        if method != usual:
            given["required"] = ["method"]
            trainer["properties"] = {
                name: {"$ref": f"#/$defs/trainer.{usual}/properties/{name}"} if common.get(name) == field else field
                for name, field in trainer["properties"].items()
            }
        definitions[f"trainer.{method}"] = trainer
        schema["allOf"].append({"if": given, "then": {"properties": {"trainer": _or_null(f"trainer.{method}")}}})
    described = schema["properties"]["trainer"].get("description", "")
    schema["properties"]["trainer"] = _nullable({"type": "object", "description": described})


def _or_null(definition: str) -> dict[str, Any]:
    return {"anyOf": [{"$ref": f"#/$defs/{definition}"}, {"type": "null"}]}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """A section whose lines are all commented out reads as null, and is taken for empty."""
    outer: dict[str, Any] = {key: schema.pop(key) for key in ("description", "default") if key in schema}
    return {"anyOf": [schema, {"type": "null"}], **outer}


def _one_or_more(schema: dict[str, Any]) -> None:
    """One path or name, one section, or a list of both."""
    items = [{"type": "string"}, schema.pop("items")]
    array = {"type": "array", "items": {"anyOf": items}}
    if "minItems" in schema:
        array["minItems"] = schema.pop("minItems")
    schema.pop("type")
    schema["anyOf"] = [*items, array]


def _library(known: Mapping[str, LibraryField], refused: Iterable[str]) -> dict[str, Any]:
    """The fields of a library's class as an object."""
    properties = {}
    for name, field in known.items():
        if name in refused:
            continue
        schema = field.annotation.schema()
        if not isinstance(field.default, fields.Unknown):
            schema["default"] = field.default
        if field.help:
            schema["description"] = " ".join(field.help.replace("%%", "%").split())
        properties[name] = schema
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _plugins(option_models: Mapping[str, type[BaseModel]], definitions: dict[str, Any]) -> dict[str, Any]:
    """A list of names and of `name: options`, or a mapping of names to options."""
    options = {}
    for name, model in option_models.items():
        definitions[f"plugin.{name}"] = _options(name, model, definitions)
        options[name] = {"anyOf": [{"$ref": f"#/$defs/plugin.{name}"}, {"type": "null"}]}
    mapping = {"type": "object", "properties": options, "additionalProperties": False}
    names: list[Any] = [{"enum": list(option_models)}] if option_models else []
    return {"anyOf": [{"type": "array", "items": {"anyOf": [*names, mapping]}}, mapping, *names, {"type": "null"}]}


def _options(name: str, model: type[BaseModel], definitions: dict[str, Any]) -> dict[str, Any]:
    """A plugin's options, with the words that every plugin has; its own definitions move under its name."""
    try:
        schema = model.model_json_schema(ref_template=f"#/$defs/plugin.{name}.{{model}}")
    except PydanticInvalidForJsonSchema:
        return {"type": "object", "description": "This plugin's options have no JSON schema."}
    for key, definition in schema.pop("$defs", {}).items():
        definitions[f"plugin.{name}.{key}"] = definition
    words = PluginEntry.model_json_schema()["properties"]
    schema["properties"] = {**schema.get("properties", {}), **{word: words[word] for word in PLUGIN_WORDS}}
    if model.model_config.get("extra") != "allow":
        schema["additionalProperties"] = False
    return schema


def _with_references(schema: Any) -> Any:
    """The same schema, in which a number, a boolean or a word may also be given as `${NAME}`."""
    if isinstance(schema, list):
        return [_with_references(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: value if key in {"default", "enum", "required"} else _with_references(value) for key, value in schema.items()}
    if isinstance(schema.get("type"), str) and schema["type"] in {"integer", "number", "boolean"}:
        return _or_reference(found, *([{"$ref": "#/$defs/Exponent"}] if schema["type"] == "number" else []))
    if not isinstance(schema.get("enum"), list):
        return found
    return _or_reference(found, *([{"const": False}] if "no" in schema["enum"] else []))  # what YAML 1.1 makes of no


def _or_reference(schema: dict[str, Any], *more: dict[str, Any]) -> dict[str, Any]:
    outer: dict[str, Any] = {key: schema.pop(key) for key in ("title", "description", "default") if key in schema}
    return {"anyOf": [schema, *more, _REF], **outer}
