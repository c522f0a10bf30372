"""Undocumented names of other libraries stand in the `upstream.py` or `upstream/` of a distribution, and nowhere else in it."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers import Trainer

import longline.trainers
from longline.upstream import ASSUMPTIONS

ROOT = Path(__file__).parents[1]
LIBRARIES = frozenset(
    "accelerate cut_cross_entropy datasets liger_kernel peft swanboard swanlab transformers triton trl".split()  # noqa: SIM905
)
DOCUMENTED = frozenset(
    {
        *(LIBRARIES - {"liger_kernel", "swanboard", "triton"}),  # of these three no name that we use is documented
        "accelerate.utils",
        "cut_cross_entropy.linear_cross_entropy",  # a function, and the file that it is in
        "swanlab.exceptions",
        "transformers.trainer_utils",
        "trl.experimental.cpo",
        "trl.experimental.orpo",
    }
)
"""The modules whose pages in the libraries' references describe what we import from them."""
ELSEWHERE = frozenset({"_base", "_current_frames", "_dump_snapshot", "_exit", "_record_memory_history", "_saved_result"})
"""Private by their names, and of no library of these: torch's, whose pages name all but `_saved_result`, and of os and sys."""
BY_NAME = frozenset({"delattr", "getattr", "hasattr", "setattr"})


def undocumented(source: str, inherited: frozenset[str] = frozenset()) -> list[str]:
    """`line: what` for each import of an undocumented module or private name, and each private name that is not the file's own.

    Those in `inherited` are right on `self`: another file of the distribution defines them.
    """
    tree = ast.parse(source)
    own = ELSEWHERE | set(_own(tree))
    found = [(node.lineno, text) for node in ast.walk(tree) for text in _imports(node)]
    found += [(node.lineno, name) for node in ast.walk(tree) for name in _private(node, inherited) if name not in own]
    return [f"{line}: {text}" for line, text in sorted(found)]


def _registered() -> Iterator[str]:
    """The last part of what the register is about: these may be overridden, and the overridden called."""
    yield from (assumption.about.rpartition(".")[2] for assumption in ASSUMPTIONS)


def _own(tree: ast.Module) -> Iterator[str]:
    """Names that a file defines: functions, classes, fields, slots, and what it assigns to `self` or `cls`."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) in ("self", "cls"):
            yield node.attr


def _imports(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in LIBRARIES:
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            if node.module not in DOCUMENTED or alias.name.startswith("_") or (_is_module(whole) and whole not in DOCUMENTED):
                yield whole
    elif isinstance(node, ast.Import):
        yield from (
            alias.name for alias in node.names if alias.name.partition(".")[0] in LIBRARIES and alias.name not in DOCUMENTED
        )
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in LIBRARIES:
        whole = f"{node.value.id}.{node.attr}"
        if _is_module(whole) and whole not in DOCUMENTED:
            yield whole


def _is_module(name: str) -> bool:
    """Whether it is a file or folder of an installed package."""
    package, _, rest = name.partition(".")
    spec = find_spec(package)
    places = [Path(folder, *rest.split(".")) for folder in (spec.submodule_search_locations or ())] if spec else []
    return any(place.is_dir() or place.with_suffix(".py").is_file() for place in places)


def _private(node: ast.AST, inherited: frozenset[str]) -> Iterator[str]:
    """A private attribute, written with a dot, or as text for getattr and its like or for `in vars(...)`."""
    texts: list[ast.expr] = []
    if isinstance(node, ast.Attribute):
        texts = [] if node.attr in inherited and ast.unparse(node.value) == "self" else [ast.Constant(node.attr)]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in BY_NAME:
        texts = node.args[1:2]
    elif isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.In, ast.NotIn)):
        texts = [node.left] if "vars(" in ast.unparse(node.comparators[0]) else []
    for item in texts:
        if (
            isinstance(item, ast.Constant)
            and isinstance(item.value, str)
            and item.value.startswith("_")
            and item.value[1:2] != "_"
        ):
            yield item.value


SOURCES = sorted({*ROOT.glob("core/src/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py")})


@cache
def _kept(distribution: Path) -> frozenset[str]:
    """What the classes of a distribution keep in `self`, less what the register says is a library's."""
    files = (path for path in SOURCES if path.is_relative_to(distribution))
    return frozenset(name for path in files for name in _own(ast.parse(path.read_text(encoding="utf-8")))) - {*_registered()}


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if "upstream" not in (path.stem, path.parent.name)], ids=lambda path: path.stem
)
def test_no_other_file_touches_an_undocumented_name(path):
    distribution = next(parent for parent in path.parents if parent.name == "src")
    assert undocumented(path.read_text(encoding="utf-8"), _kept(distribution)) == [], path


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("from trl.trainer.utils import add_fused_lm_head", "trl.trainer.utils.add_fused_lm_head"),
        ("from transformers import _LazyModule", "transformers._LazyModule"),
        ("from transformers import modeling_utils", "transformers.modeling_utils"),
        ("import datasets.table", "datasets.table"),
        ("import transformers\ntransformers.modeling_utils.PreTrainedModel", "transformers.modeling_utils"),
        ("model.config._experts_implementation", "_experts_implementation"),
        ("model._tp_plan = None", "_tp_plan"),
        ("self.trainer._metrics = {}", "_metrics"),
        ("getattr(model, '_tp_plan', None)", "_tp_plan"),
        ("'_hf_hook' in vars(model)", "_hf_hook"),
    ],
)
def test_the_rule_finds(line, told):
    assert [text.partition(": ")[2] for text in undocumented(line)] == [told]


@pytest.mark.parametrize(
    "line",
    ["from transformers import Trainer", "class A:\n def f(self):\n  self._a = 1\n  return other._a", "os._exit(0)"],
)
def test_the_rule_lets_pass(line):
    assert undocumented(line) == []


DOCUMENTED_METHODS = frozenset(
    """
    training_step compute_loss prediction_step evaluate evaluation_loop log create_optimizer create_scheduler create_model_card
    cpo_loss odds_ratio_loss get_eval_dataloader
    """.split()  # noqa: SIM905
)


def _overrides() -> Iterator[tuple[str, str]]:
    """The trainers of the core with each name that they and a library's class have."""
    names = [f"longline.trainers.{module.name}" for module in pkgutil.iter_modules(longline.trainers.__path__)]
    modules = {name: importlib.import_module(name) for name in names}  # all of them, before any is asked for its subclasses
    for name, module in modules.items():
        for cls in vars(module).values():
            if isinstance(cls, type) and cls.__module__ == name and issubclass(cls, Trainer):
                yield from ((cls.__name__, item) for item in vars(cls) if item[:2] != "__" and _is_theirs(cls, item))


def _is_theirs(cls: type, name: str) -> bool:
    """Whether a class of one of the libraries, in any trainer that has `cls` in front, has the name too."""
    below = [cls, *_subclasses(cls)]
    return any(name in vars(base) for item in below for base in item.__mro__ if base.__module__.partition(".")[0] in LIBRARIES)


def _subclasses(cls: type) -> Iterator[type]:
    for item in cls.__subclasses__():
        yield item
        yield from _subclasses(item)


def test_what_our_trainers_override_is_documented_or_registered():
    found = dict.fromkeys(_overrides())
    assert ("LonglineTrainer", "_save_checkpoint") in found
    assert ("AnsweringTrainer", "_calculate_rewards") in found
    allowed = DOCUMENTED_METHODS | set(_registered())
    assert [f"{cls}.{name}" for cls, name in found if name not in allowed] == []
