"""Nothing but a method knows its name, and nothing but a kind of row its own: whoever wants to know something asks the object."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from longline.methods import names

ROOT = Path(__file__).resolve().parent.parent
OWN = ("core/src/longline/methods", "core/src/longline/data/kinds", "core/src/longline/data/formats")
"""Where methods, kinds and formats are, which may say what they are called."""
KINDS = frozenset({"sample", "pair", "pairs", "labelled", "prompts", "padded"})
"""What kinds of rows are and were called; `prompt` is also a column."""


def shipped() -> list[Path]:
    """What is shipped."""
    folders = [ROOT / "core" / "src", *sorted((ROOT / "plugins").glob("*/src")), *sorted((ROOT / "examples").glob("*/src"))]
    return [path for folder in folders for path in sorted(folder.rglob("*.py"))]


def checked() -> list[Path]:
    """Tests and their helpers."""
    folders = [ROOT / "core" / "tests", ROOT / "tests", *sorted((ROOT / "plugins").glob("*/tests"))]
    return [path for folder in folders for path in sorted(folder.rglob("*.py"))]


def words_of(node: ast.expr) -> set[str]:
    """The texts of a constant, or of a collection that is written out."""
    parts = node.elts if isinstance(node, (ast.Tuple, ast.List, ast.Set)) else [node]
    return {part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)}


def compared(tree: ast.Module) -> list[tuple[int, set[str]]]:
    """Lines that compare something with texts, and those texts; what an assertion expects is not meant."""
    expected = {id(part) for node in ast.walk(tree) if isinstance(node, ast.Assert) for part in ast.walk(node.test)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and id(node) not in expected:
            found.append((node.lineno, set.union(*(words_of(part) for part in (node.left, *node.comparators)))))
        elif isinstance(node, ast.MatchValue):
            found.append((node.value.lineno, words_of(node.value)))
    return found


def tables(tree: ast.Module) -> list[tuple[int, set[str]]]:
    """Lines that list several texts and nothing else, as keys or as elements, and those texts."""
    found = []
    for node in ast.walk(tree):
        keys = [key for key in node.keys if key] if isinstance(node, ast.Dict) else getattr(node, "elts", [])
        words = [words_of(key) for key in keys]
        if isinstance(node, ast.expr) and len(words) > 1 and all(len(word) == 1 for word in words):
            found.append((node.lineno, set.union(*words)))
    return found


def violations(paths: list[Path], forbidden: frozenset[str], *, whole: bool) -> list[str]:
    """`file:line: words` for each comparison with a forbidden word, and with `whole` for each table of nothing else."""
    found = []
    for path in paths:
        place = path.relative_to(ROOT).as_posix()
        if place.startswith(OWN):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        lines = [(line, words & forbidden) for line, words in compared(tree)]
        lines += [(line, words) for line, words in tables(tree) if whole and words <= forbidden]
        found += [f"{place}:{line}: {', '.join(sorted(words))}" for line, words in lines if words]
    return found


def test_nothing_shipped_compares_a_methods_name_or_keeps_a_table_of_them() -> None:
    assert violations(shipped(), frozenset(names()), whole=True) == []


def test_no_test_branches_by_a_methods_name() -> None:
    assert violations(checked(), frozenset(names()), whole=False) == []


def test_nothing_shipped_compares_a_kinds_name() -> None:
    assert violations(shipped(), KINDS, whole=True) == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("if method == 'dpo': pass", True),
        ("if run.config.method not in ('grpo', 'rloo'): pass", True),
        ("match method:\n    case 'kto' | 'dpo':\n        pass", True),
        ("WITH = {'dpo': 1, 'kto': 2}", True),
        ("ONES = ('dpo', 'kto')", True),
        ("assert told.method == 'dpo'", False),
        ("run(method='dpo')", False),
        ("SHOWN = {'dpo': 1, 'loss': 2}", False),
    ],
)
def test_what_is_found(code: str, found: bool) -> None:
    tree, known = ast.parse(code), set(names())
    hits = [words & known for _, words in compared(tree)] + [words for _, words in tables(tree) if words <= known]
    assert any(hits) is found
