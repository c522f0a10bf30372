"""What Liger replaces for the whole process: found by comparing before and after, and put back when the run ends.

Liger patches a model's modules one by one, which ends with the model. But it also replaces names in transformers' modules
(`modeling_llama.apply_rotary_pos_emb`, `modeling_llama.LlamaRMSNorm`), methods of classes, `torch.nn.functional.cross_entropy`, and
entries of dictionaries that all models share (`ACT2FN["relu2"]`).
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

_ABSENT = object()


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """A dictionary of a module, which only models read that are built later."""

    path: str
    values: dict[Any, Any]

    def all(self) -> dict[Any, Any]:
        """What is in it; not by its own methods, for transformers' ACT2FN makes an instance of what it is asked for."""
        return dict(dict.items(self.values))


@dataclass(frozen=True, slots=True)
class Replaced:
    """A name of a module, class or dictionary that holds something of Liger's now, and what it held before."""

    holder: Any
    name: str
    before: Any
    now: Any

    @property
    def path(self) -> str:
        """How messages name it."""
        if isinstance(self.holder, Entries):
            return f"{self.holder.path}[{self.name!r}]"
        return f"{getattr(self.holder, '__module__', None) or self.holder.__name__}.{self._owner}{self.name}"

    @property
    def _owner(self) -> str:
        return f"{self.holder.__qualname__}." if isinstance(self.holder, type) else ""

    def put_back(self) -> None:
        """Make it what it was."""
        if isinstance(self.holder, Entries):
            self.holder.values.pop(self.name) if self.before is _ABSENT else self.holder.values.update({self.name: self.before})
        elif self.before is _ABSENT:
            delattr(self.holder, self.name)
        else:
            setattr(self.holder, self.name, self.before)


def is_ligers(value: Any) -> bool:
    """Whether a function, method, class or instance comes from liger-kernel."""
    value = value.func if isinstance(value, functools.partial) else getattr(value, "__func__", value)
    return str(getattr(value, "__module__", "")).partition(".")[0] == "liger_kernel"


@dataclass(slots=True)
class ProcessPatches:
    """The replacements of one run. `look` before Liger acts, `found` after; `undo` at the end."""

    replaced: list[Replaced] = field(default_factory=list)
    _before: list[tuple[Any, dict[str, Any]]] = field(default_factory=list)

    def look(self) -> None:
        """Keep what everything holds now; modules that are imported later are not seen."""
        self._before = [(holder, _held(holder)) for holder in _holders()]

    def found(self) -> list[Replaced]:
        """What has become Liger's since `look`; from now on `undo` puts it back."""
        new = [
            Replaced(holder, name, before.get(name, _ABSENT), now)
            for holder, before in self._before
            for name, now in _held(holder).items()
            if before.get(name, _ABSENT) is not now and is_ligers(now)
        ]
        self.replaced += new
        return new

    def put_back(self, some: list[Replaced]) -> None:
        """Put back only these."""
        for item in reversed(some):
            item.put_back()
        self.replaced = [item for item in self.replaced if item not in some]

    def undo(self) -> None:
        """Put everything back, the last first."""
        self.put_back(list(self.replaced))
        self._before = []


def _held(holder: Any) -> dict[Any, Any]:
    return holder.all() if isinstance(holder, Entries) else dict(vars(holder))


def _holders() -> Iterator[Any]:
    """The modules of transformers that are imported, their dictionaries, the classes that their models define, and torch's layers
    and functions.
    """
    yield sys.modules["torch.nn"]  # for Gemma 3 and PaliGemma it is torch's own CrossEntropyLoss that Liger replaces
    yield sys.modules["torch.nn.functional"]
    seen: set[int] = set()
    for name, module in list(sys.modules.items()):
        if not name.startswith("transformers.") or not isinstance(module, ModuleType):
            continue
        yield module
        for attribute, value in list(vars(module).items()):
            if isinstance(value, dict) and id(value) not in seen and not attribute.startswith("__"):
                seen.add(id(value))
                yield Entries(f"{name}.{attribute}", value)
            elif ".models." in name and isinstance(value, type) and value.__module__ == name:
                yield value
