"""The JSON schema accepts what the loader accepts and refuses what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import jsonschema
import pytest
import yaml
from pydantic import BaseModel, SecretStr

from longline.cli import run_cli
from longline.config.document import parse
from longline.config.loader import load_config
from longline.config.method import find, names
from longline.config.schema import build_schema

METHODS = {name: find(name) for name in names()}
REPOSITORY = Path(__file__).parents[2]


class Inner(BaseModel):
    """A nested model of a plugin."""

    deep: int = 1


class Options(BaseModel):
    """Options of a plugin."""

    mode: Literal["local", "cloud"] = "local"
    key: SecretStr | None = None
    inner: Inner = Inner()


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = build_schema({"one": Options, "two": Inner}, METHODS)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def errors(validator: jsonschema.Draft202012Validator, **changes: Any) -> list[str]:
    config: dict[str, Any] = {"model": {"path": "a/b"}, "data": {"train": "a/b"}, "output_dir": "o", **changes}
    return [error.json_path for error in validator.iter_errors(config)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"data": {"train": ["a", {"path": "b", "limit": 5}], "eval": {"path": "c"}}},
        {"trainer": {"learning_rate": 1e-4, "max_steps": "${STEPS}", "save_strategy": "epoch", "optim": "adamw_torch"}},
        {"trainer": {"learning_rate": "5e-5", "weight_decay": "-.5E+2", "warmup_steps": "1.e-2", "save_strategy": False}},
        {"trainer": None, "plugins": None, "adapter": None},
        {"adapter": {"r": 4, "lora_alpha": 8, "target_modules": ["q"], "init_lora_weights": "pissa_niter_4"}},
        {"model": {"path": "a", "quantization": {"load_in_4bit": True}, "token": "${HF_TOKEN}", "dtype": "${DTYPE}"}},
        {"plugins": ["one", {"two": {"deep": 3}}]},
        {"plugins": {"one": {"mode": "cloud", "inner": {"deep": 2}, "on_error": "raise"}, "two": None}},
        {"plugins": "one"},
        {"early_stopping": {"patience": 2}},
    ],
)
def test_what_is_valid(validator: jsonschema.Draft202012Validator, changes: dict[str, Any]) -> None:
    assert errors(validator, **changes) == []


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"modle": 1}, "$"),
        ({"method": "nothing"}, "$.method"),
        ({"data": {"train": []}}, "$.data.train"),
        ({"data": {"train": [{"path": "a", "wieght": 1}]}}, "$.data.train"),
        ({"trainer": {"lerning_rate": 1}}, "$.trainer"),
        ({"trainer": {"learning_rate": "fast"}}, "$.trainer"),
        ({"trainer": {"learning_rate": "5e"}}, "$.trainer"),
        ({"trainer": {"learning_rate": "5e-5 a step"}}, "$.trainer"),
        ({"trainer": {"max_steps": "5e3"}}, "$.trainer"),
        ({"trainer": {"bf16": "5e3"}}, "$.trainer"),
        ({"trainer": {"output_dir": "x"}}, "$.trainer"),
        ({"adapter": {"lora_alfa": 1}}, "$.adapter"),
        ({"model": {"path": "a", "quantization": {"load": True}}}, "$.model.quantization"),
        ({"plugins": ["three"]}, "$.plugins"),
        ({"plugins": {"one": {"mode": "elsewhere"}}}, "$.plugins"),
        ({"plugins": {"one": {"nothing": 1}}}, "$.plugins"),
        ({"plugins": {"one": {"on_error": "stop"}}}, "$.plugins"),
    ],
)
def test_what_is_not(validator: jsonschema.Draft202012Validator, changes: dict[str, Any], place: str) -> None:
    assert errors(validator, **changes) == [place]


def test_fields_have_type_default_and_description(validator: jsonschema.Draft202012Validator) -> None:
    trainer = validator.schema["$defs"]["trainer.sft"]["properties"]
    rate = trainer["learning_rate"]
    assert rate["default"] == 5e-5
    assert rate["description"] == "The initial learning rate for the optimizer."
    assert rate["anyOf"][0] == {"type": "number"}
    assert "cosine" in trainer["lr_scheduler_type"]["anyOf"][0]["enum"]
    assert "description" in validator.schema["$defs"]["DataSection"]["properties"]["max_length"]


def test_the_trainers_fields_depend_on_the_method(validator: jsonschema.Draft202012Validator) -> None:
    assert errors(validator, method="dpo", trainer={"beta": 0.2, "learning_rate": 1e-5}) == []
    assert errors(validator, method="dpo", trainer={"num_generations": 2}) == ["$.trainer"]
    assert errors(validator, method="dpo", trainer={"max_length": 2}) == ["$.trainer"]
    assert errors(validator, method="grpo", trainer={"num_generations": 2}) == []
    assert errors(validator, trainer={"beta": 0.2}) == ["$.trainer"]
    assert errors(validator, method="sft", trainer={"beta": 0.2}) == ["$.trainer"]


def test_without_plugins_none_is_allowed() -> None:
    validator = jsonschema.Draft202012Validator(build_schema({}, METHODS))
    assert errors(validator, plugins=[]) == []
    assert errors(validator, plugins=["one"]) == ["$.plugins"]


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)


def test_the_starter_and_the_examples_are_valid(tmp_path: Path) -> None:
    starters = [tmp_path / f"{method}.yaml" for method in METHODS]
    for path in starters:
        assert run_cli(["new", str(path), "--method", path.stem]) == 0
        assert load_config(path, ["data.train=somebody/rows"]).config.method == path.stem
    examples = [path for path in REPOSITORY.glob("examples/**/*.yaml") if "output_dir" in path.read_text(encoding="utf-8")]
    validator = jsonschema.Draft202012Validator(build_schema({}, METHODS))
    for path in [*starters, *examples]:
        node = parse(path.read_text(encoding="utf-8"), str(path))
        assert node is not None
        config = {**node.plain(), "plugins": []}  # which plugins are installed is another matter
        assert [error.message for error in validator.iter_errors(config)] == [], path
        # as an editor reads it: `1e-4` is a text for YAML 1.1
        config = {**yaml.safe_load(path.read_text(encoding="utf-8")), "plugins": []}
        assert [error.message for error in validator.iter_errors(config)] == [], path
