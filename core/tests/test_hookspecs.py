"""The contract itself: kinds follow names, every hook is documented, called, and answered by something that ships."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import typing
from pathlib import Path

import pytest

from longline import hookspecs
from longline.hookspecs import hook_facts

SOURCE = Path(hookspecs.__file__).parent
ROOT = Path(__file__).parents[2]
FACTS = hook_facts()
KINDS = {"pre": "shape", "post": "shape", "provide": "provide", "on": "observe"}
EVERY_HOOK = pytest.mark.parametrize("name", FACTS)


def shipped() -> list[ast.Module]:
    """The sources of everything in the tree that raises or answers hooks: core, plugins, examples; not the test kit."""
    folders = [SOURCE, *(ROOT / "examples").glob("*/src"), *(ROOT / "plugins").glob("*/src")]
    files = [path for folder in folders for path in sorted(folder.rglob("*.py")) if "testing" not in path.parts]
    return [ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in files]


def hooks_called() -> set[str]:
    """The hooks that are raised: `<anything>.hook.<name>(...)`."""
    calls = [node.func for tree in shipped() for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {call.attr for call in calls if isinstance(call, ast.Attribute) and ast.unparse(call.value).endswith(".hook")}


def hooks_answered() -> set[str]:
    """The hooks that a function marked with `@hookimpl` answers."""
    functions = [node for tree in shipped() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {function.name for function in functions if any("hookimpl" in ast.unparse(mark) for mark in function.decorator_list)}


def test_every_marked_function_of_the_module_is_a_hook():
    marked = [name for name, value in vars(hookspecs).items() if inspect.isfunction(value) and hasattr(value, "longline_spec")]
    assert list(FACTS) == marked
    assert len(FACTS) >= 20


@EVERY_HOOK
def test_the_kind_follows_from_the_name(name: str):
    prefix = name.partition("_")[0]
    assert FACTS[name].kind == KINDS[prefix]
    options = getattr(hookspecs, name).longline_spec
    assert options["firstresult"] == (prefix == "provide")


@EVERY_HOOK
def test_it_is_documented(name: str):
    function = getattr(hookspecs, name)
    assert len((inspect.getdoc(function) or "").split()) >= 2
    assert len(FACTS[name].when.split()) >= 3
    assert FACTS[name].ranks in ("all", "main")


@EVERY_HOOK
def test_it_gets_the_run_first_and_its_annotations_are_real(name: str):
    function = getattr(hookspecs, name)
    assert FACTS[name].arguments[0] == "run"
    assert FACTS[name].arguments == tuple(inspect.signature(function).parameters)
    hints = typing.get_type_hints(function, globalns={**vars(hookspecs), **checked_names()})
    assert set(hints) == {*FACTS[name].arguments, "return"}
    if FACTS[name].kind == "provide":
        assert type(None) in typing.get_args(hints["return"])
    else:
        assert hints["return"] is type(None)


def checked_names() -> dict[str, object]:
    """What hookspecs imports for type checkers only, imported for real."""
    tree = ast.parse(Path(hookspecs.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    names: dict[str, object] = {}
    for node in block.body:
        if isinstance(node, ast.Import):
            names |= {alias.name: importlib.import_module(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            names |= {alias.name: getattr(module, alias.name) for alias in node.names}
    return names


def test_every_hook_is_called_by_something_that_ships():
    assert set(FACTS) - hooks_called() == set()


def test_every_hook_is_answered_by_something_that_ships():
    assert set(FACTS) - hooks_answered() == set()


def test_nothing_calls_or_answers_a_hook_that_is_not_specified():
    assert hooks_called() <= set(FACTS)
    assert hooks_answered() <= set(FACTS)


def test_lifecycle_hooks_are_fired_by_the_run_and_trainer_events_by_the_trainers():
    """Events that anyone may raise are free, hooks of a stage are fired by the stages; everything else has one home."""
    homes = {path.relative_to(SOURCE).as_posix(): path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")}
    free = {"on_alert", "on_table", "on_timing"}
    stage = {name for name, facts in FACTS.items() if facts.kind != "observe" and not facts.repeated}
    events = {"on_log", "on_fact"}
    homes_of = {"run.py": set(FACTS), "stages.py": stage, "plugins/run.py": events, "inference/target.py": {"post_model_load"}}
    homes_of |= {name: {"pre_save", "post_save"} for name in ("cli/merge.py", "saving/final.py")}
    for name, text in homes.items():
        fired = set(re.findall(r"\bhook\.([a-z_]+)\(", text)) & set(FACTS) - free
        allowed = set(FACTS) if name.startswith("trainers/") else homes_of.get(name, set())
        assert fired <= allowed, f"{name} fires {sorted(fired - allowed)}"
