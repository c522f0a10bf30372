"""Mappings and lists that cannot be changed, at any depth: what a loaded config holds, since all stages and plugins share it.

They are subclasses of dict and list, so isinstance, json, yaml, pydantic and `{**value}` take them as such. `copy.copy` makes a
plain one with frozen values, `copy.deepcopy` a plain one throughout: that is for libraries, which keep or change what they get.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, NoReturn, TypeVar

import yaml
from pydantic import BaseModel

_Model = TypeVar("_Model", bound=BaseModel)


def _refuse(self: Any, *_: Any, **__: Any) -> NoReturn:
    raise TypeError("a config cannot be changed, every stage and plugin reads the same one: take a copy.deepcopy of the value")


# Sections were fixed and what they held was not: one plugin that changed a mapping changed it for all, and in the saved
# config.
class FrozenDict(dict[Any, Any]):
    """A dict that refuses to be changed, with a TypeError."""

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __copy__(self) -> dict[Any, Any]:
        return dict(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[Any, Any]:
        return {deepcopy(key, memo): deepcopy(value, memo) for key, value in self.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenDict, (dict(self),)


class FrozenList(list[Any]):
    """A list that refuses to be changed, with a TypeError."""

    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = extend = insert = pop = remove = clear = sort = reverse = _refuse

    def __copy__(self) -> list[Any]:
        return list(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> list[Any]:
        return [deepcopy(value, memo) for value in self]

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenList, (list(self),)


for dumper in (yaml.SafeDumper, yaml.Dumper):  # they know a subclass only when they are told
    dumper.add_representer(FrozenDict, yaml.SafeDumper.represent_dict)
    dumper.add_representer(FrozenList, yaml.SafeDumper.represent_list)


def frozen(value: Any) -> Any:
    """The value with every mapping and list in it frozen; models are frozen in place, whatever else it holds stays as it is."""
    if isinstance(value, BaseModel):
        return freeze(value)
    if isinstance(value, dict):
        return FrozenDict({key: frozen(item) for key, item in value.items()})
    if isinstance(value, list):
        return FrozenList(frozen(item) for item in value)
    return tuple(frozen(item) for item in value) if type(value) is tuple else value


def freeze(model: _Model) -> _Model:
    """Freeze the values of a model in place, those of its extra fields too; whether fields can be set is its own `frozen`."""
    values = vars(model)
    values.update({name: frozen(value) for name, value in values.items()})
    if model.__pydantic_extra__ is not None:
        object.__setattr__(model, "__pydantic_extra__", frozen(model.__pydantic_extra__))
    return model
