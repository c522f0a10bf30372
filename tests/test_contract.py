"""What authors were promised stays: hooks with their arguments, and public names, as of the first version of this contract.

tests/contract/0.json holds it; 0 is the first number of the versions that keep it. A minor version may add; the file is written
again when it is released: LONGLINE_UPDATE_CONTRACT=1. What is taken away asks for a new number.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest

from longline import __version__
from longline.hookspecs import hook_facts

ROOT = Path(__file__).parents[1]
PROMISED = ROOT / "tests" / "contract" / f"{__version__.partition('.')[0]}.json"
BROKEN = "authors were promised it: keep it, or give longline's version a new first number"


@pytest.fixture(scope="module")
def promised() -> dict[str, Any]:
    if os.environ.get("LONGLINE_UPDATE_CONTRACT") == "1":
        PROMISED.write_text(json.dumps(now(), indent=1) + "\n", encoding="utf-8")
    return json.loads(PROMISED.read_text(encoding="utf-8"))


def now() -> dict[str, Any]:
    """The contract as the code has it."""
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec
    assert spec.loader
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    hooks = {
        name: {"kind": facts.kind, "ranks": facts.ranks, "arguments": sorted(facts.arguments)}
        for name, facts in hook_facts().items()
    }
    return {
        "hooks": hooks,
        "names": {item["name"]: sorted(generate.public_of(item["name"])) for item in generate.PUBLIC["module"]},
    }


def test_every_hook_is_there_with_its_arguments(promised: dict[str, Any]):
    facts = hook_facts()
    assert len(promised["hooks"]) > 30
    for name, was in promised["hooks"].items():
        assert name in facts, BROKEN
        assert (facts[name].kind, facts[name].ranks) == (was["kind"], was["ranks"]), f"{name}: {BROKEN}"
        assert set(was["arguments"]) <= set(facts[name].arguments), f"{name}: {BROKEN}"


def test_every_public_name_is_there(promised: dict[str, Any]):
    assert "longline" in promised["names"]
    for module, names in promised["names"].items():
        found = importlib.import_module(module)
        assert [name for name in names if not hasattr(found, name)] == [], f"{module}: {BROKEN}"
