"""Which trainer arguments an optimizer and a scheduler read: by following the source of transformers for their names.

transformers takes `optim_args` with any optimizer, betas with SGD and a warmup with a constant rate, and does nothing with them.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from typing import TYPE_CHECKING, Any

from longline.config.fields import fields_of, find_class, module_of
from longline.upstream.transformers import ADAM, OPTIMIZERS, SCHEDULERS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ANY = "*"
"""Stands for every key."""
_GIVEN = frozenset({"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"})
"""What a scheduler is handed beside `lr_scheduler_kwargs`."""


@cache
def by_optimizer(name: str) -> tuple[frozenset[str], frozenset[str]] | None:
    """The fields of `trainer` that an optimizer reads, and the keys of its `optim_args`; None where nobody can tell."""
    functions, tables, members = _source(*OPTIMIZERS)
    handler = functions.get(_entry(tables, OPTIMIZERS[1], members, name))
    if handler is None:
        return None
    path = _Path(functions, {**members, "ctx.args.optim": name, "ctx.optim_args": True}, {})
    path.follow(handler.body)
    fields = {part.removeprefix("ctx.args.") for part in path.seen if part.startswith("ctx.args.")}
    keys = {part.removeprefix("ctx.optim_args.") for part in path.seen if part.startswith("ctx.optim_args.")}
    return frozenset(fields | set(ADAM) if "ctx.adam_kwargs" in path.seen else fields), frozenset(keys)


@cache
def by_scheduler(name: str) -> tuple[bool, frozenset[str]] | None:
    """Whether a scheduler warms up, and the keys of its `lr_scheduler_kwargs`; None where nobody can tell."""
    functions, tables, members = _source(*SCHEDULERS)
    schedule, chooser = functions.get(_entry(tables, SCHEDULERS[1], members, name)), functions.get(SCHEDULERS[3])
    if schedule is None or chooser is None:
        return None
    options = [argument.arg for argument in chooser.args.args]
    path = _Path(functions, {**members, "name": name, "optimizer": None}, {option: {option} for option in options})
    path.follow(chooser.body)
    taken = {argument.arg for argument in (*schedule.args.args, *schedule.args.kwonlyargs)} | _handed_on(schedule)
    return "num_warmup_steps" in path.seen, frozenset(taken - _GIVEN if "scheduler_specific_kwargs" in path.seen else ())


def _handed_on(schedule: ast.FunctionDef) -> set[str]:
    """The arguments of the class that a schedule hands its `**kwargs` on to."""
    if schedule.args.kwarg is None:
        return set()
    calls = [
        node for node in ast.walk(schedule) if isinstance(node, ast.Call) and any(word.arg is None for word in node.keywords)
    ]
    return {name for call in calls for name in fields_of(f"{SCHEDULERS[0]}:{ast.unparse(call.func)}")} or {ANY}


@cache
def fsdp_keys() -> frozenset[str]:
    """The keys of `fsdp_config` that are read; empty where nobody can tell. Each may also begin with `fsdp_`."""
    tree, _ = module_of("transformers.training_args")
    found = set()
    for node in ast.walk(tree) if tree else ():
        place, key = None, None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            place, key = node.func.value, node.args[0]
        elif isinstance(node, ast.Subscript):
            place, key = node.value, node.slice
        elif isinstance(node, ast.Compare):
            place, key = node.comparators[0], node.left
        if place and isinstance(key, ast.Constant) and ast.unparse(place) in ("self.fsdp_config", "fsdp_config"):
            found.add(str(key.value))
    return frozenset(found)


# --- the source -----------------------------------------------------------------------------------------------------------------


@cache
def _source(
    module: str, table: str, enum: str, *_: str
) -> tuple[dict[str, ast.FunctionDef], dict[str, ast.expr], dict[str, str]]:
    """The functions and assigned values of a module, and the values of an enumeration that it imports, as `Class.MEMBER`."""
    tree, path = module_of(module)
    if tree is None or path is None:
        return {}, {}, {}
    found = find_class(path, enum)
    assigned = [item for item in found[0].body if isinstance(item, ast.Assign)] if found else []
    members = {f"{enum}.{ast.unparse(item.targets[0])}": ast.literal_eval(item.value) for item in assigned}
    tables = {
        ast.unparse(target): item.value
        for item in tree.body
        if isinstance(item, (ast.Assign, ast.AnnAssign)) and item.value is not None
        for target in (item.targets if isinstance(item, ast.Assign) else [item.target])
    }
    return {item.name: item for item in tree.body if isinstance(item, ast.FunctionDef)}, tables, members


def _entry(tables: Mapping[str, ast.expr], table: str, members: Mapping[str, str], name: str) -> str:
    """What a table has for an enumeration's value: the name of a function, or nothing."""
    found = {}
    content = tables.get(table)
    for key, value in zip(content.keys, content.values, strict=True) if isinstance(content, ast.Dict) else ():
        if key is not None:
            found[members.get(ast.unparse(key))] = ast.unparse(value)
        elif isinstance(value, ast.Call):  # **dict.fromkeys(A_LIST, function)
            listed = tables.get(ast.unparse(value.args[0]))
            keys = listed.elts if isinstance(listed, ast.List) else []
            found |= {members.get(ast.unparse(item)): ast.unparse(value.args[1]) for item in keys}
    return found.get(name, "")


class _Path:
    """The way through a function where some expressions are known; what it uses on it gathers in `seen`.

    `known` are the values of expressions by their text; `uses` what each variable was made from.
    """

    def __init__(self, functions: Mapping[str, ast.FunctionDef], known: dict[str, Any], uses: dict[str, set[str]]) -> None:
        self.functions, self.known, self.uses = functions, known, uses
        self.loops: dict[str, list[str]] = {}
        self.seen: set[str] = set()

    def follow(self, body: Sequence[ast.stmt]) -> bool:
        """Follow statements; True where they end the function."""
        return any(self._step(item) for item in body)

    def _step(self, item: ast.stmt) -> bool:
        if isinstance(item, ast.If):
            return self._branch(item)
        if isinstance(item, ast.For):
            values = item.iter.elts if isinstance(item.iter, ast.Tuple) else []
            self.loops[ast.unparse(item.target)] = [value.value for value in values if isinstance(value, ast.Constant)]  # type: ignore[misc]
        if isinstance(item, (ast.For, ast.Try)):
            return self.follow(item.body)
        if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name):
            name, text = item.targets[0].id, ast.unparse(item.value)
            self.uses[name] = self._used(item.value)
            if isinstance(item.value, ast.Constant) or text in self.known:
                self.known[name] = item.value.value if isinstance(item.value, ast.Constant) else self.known[text]
        elif not isinstance(item, (ast.FunctionDef, ast.Raise)):
            self.seen |= self._used(item)
        return isinstance(item, (ast.Return, ast.Raise))

    def _branch(self, item: ast.If) -> bool:
        truth = self._truth(item.test)
        if truth is not None:
            return self.follow(item.body if truth else item.orelse)
        before = dict(self.uses)
        ended = self.follow(item.body)
        one, self.uses = self.uses, before
        both = self.follow(item.orelse) and ended
        if not ended:
            self.uses = {name: self.uses.get(name, set()) | one.get(name, set()) for name in {*self.uses, *one}}
        return both

    def _truth(self, test: ast.expr) -> bool | None:
        """What a condition comes to, or None."""
        if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
            parts = [self._truth(part) for part in test.values]
            return False if False in parts else (True if all(parts) else None)
        if not isinstance(test, ast.Compare):
            value = self.known.get(ast.unparse(test))
            return value if isinstance(value, bool) else None
        left, right = (self._value(side) for side in (test.left, test.comparators[0]))
        if left is self or right is self:
            return None
        within = isinstance(test.ops[0], (ast.In, ast.NotIn))
        if within and not isinstance(right, str):
            return None
        same = left in right if within else left == right
        return same is not isinstance(test.ops[0], (ast.NotIn, ast.NotEq, ast.IsNot))

    def _value(self, side: ast.expr) -> Any:
        """A value that is known; the path itself stands for one that is not."""
        return side.value if isinstance(side, ast.Constant) else self.known.get(ast.unparse(side), self)

    def _used(self, node: ast.AST) -> set[str]:
        """The attributes of `ctx`, keys of its `optim_args`, and what variables were made from, in an expression."""
        keys = self._keys(node)
        if keys is not None:
            defaults = node.args[1:] if isinstance(node, ast.Call) else []
            return {f"ctx.optim_args.{key}" for key in keys}.union(*map(self._used, defaults))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in self.functions:
            return self._called(node)
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            if text == "ctx.optim_args":
                return {f"{text}.{ANY}"}
            if re.fullmatch(r"ctx[.\w]+", text):
                return {text}
        if isinstance(node, ast.Name):
            return self.uses.get(node.id, set())
        return {part for child in ast.iter_child_nodes(node) for part in self._used(child)}

    def _keys(self, node: ast.AST) -> list[str] | None:
        """The keys of `optim_args` that `.get(key)`, `.pop(key)`, `[key]` or `key in` ask for."""
        key: ast.expr | None = None
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("ctx.optim_args.get", "ctx.optim_args.pop"):
            key = node.args[0]
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "ctx.optim_args":
            key = node.slice
        elif isinstance(node, ast.Compare) and ast.unparse(node.comparators[0]) == "ctx.optim_args":
            key = node.left
        if key is None:
            return None
        return [str(key.value)] if isinstance(key, ast.Constant) else self.loops.get(ast.unparse(key), [ANY])

    def _called(self, node: ast.Call) -> set[str]:
        """What a function of the same module is handed, and reads of the arguments where it is handed them whole."""
        function = self.functions[ast.unparse(node.func)]
        found = {part for child in node.args + [word.value for word in node.keywords] for part in self._used(child)}
        for argument, parameter in zip(node.args, function.args.args, strict=False):
            if ast.unparse(argument) == "ctx.args":
                parts = (part for part in ast.walk(function) if isinstance(part, ast.Attribute))
                found |= {f"ctx.args.{part.attr}" for part in parts if ast.unparse(part.value) == parameter.arg}
        return found
