"""Loading a config: places, overrides, the environment, and every mistake in one report."""

from __future__ import annotations

import copy
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from longline.config.explain import models_in
from longline.config.loader import LoadedConfig, load_config
from longline.config.sections import Config
from longline.errors import ConfigError

MINIMAL = "model: {path: owner/name}\ndata: {train: owner/rows}\noutput_dir: runs/x\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that messages hold short names."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(text: str, *overrides: str, **environ: str) -> LoadedConfig:
    Path("c.yaml").write_text(dedent(text), encoding="utf-8")
    return load_config(Path("c.yaml"), overrides, environ)


def mistakes(text: str, *overrides: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text, *overrides, **environ)
    return [str(problem) for problem in caught.value.problems]


def test_a_minimal_config_and_its_defaults() -> None:
    loaded = load(MINIMAL)
    assert loaded.config.model.path == "owner/name"
    assert [source.path for source in loaded.config.data.train] == ["owner/rows"]
    assert loaded.config.method == "sft"
    assert loaded.config.adapter is None
    assert loaded.config.output_dir == Path("runs/x")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        (".5", 0.5),
        ("5.", 5.0),
        (".inf", float("inf")),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("+3", 3),
        ("true", True),
        ("False", False),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("~", None),
        ("null", None),
        ("", None),
        ("2024-01-02", "2024-01-02"),
        ("12:30:45", "12:30:45"),
        ("1_000", "1_000"),
        ("'1'", "1"),
        ('"true"', "true"),
        ("!!str 5", "5"),
        ("!!int '5'", 5),
        ("[1, a]", [1, "a"]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
    ],
)
def test_what_plain_values_mean(text: str, value: Any) -> None:
    read = load(
        f"model:\n  path: owner/name\n  overrides:\n    x: {text}\ndata: {{train: a/b}}\noutput_dir: o\n"
    ).config.model.overrides["x"]
    assert read == value
    assert type(copy.deepcopy(read)) is type(value)


def test_keys_are_text() -> None:
    text = "model: {path: a/b, overrides: {1: a, true: b, null: c, on: d}}\ndata: {train: a/b}\noutput_dir: o\n"
    assert load(text).config.model.overrides == {"1": "a", "true": "b", "null": "c", "on": "d"}


def test_anchors_and_merge_keys() -> None:
    text = """\
        model: {path: a/b}
        data:
          train:
            - &first {path: a/one, format: chat, limit: 5}
            - {<<: *first, path: a/two}
            - {<<: [{limit: 7}, *first], path: a/three}
        output_dir: o
        """
    sources = load(text).config.data.train
    assert [(source.path, source.format, source.limit) for source in sources] == [
        ("a/one", "chat", 5),
        ("a/two", "chat", 5),
        ("a/three", "chat", 7),
    ]


@pytest.mark.parametrize(
    ("train", "paths"),
    [
        ("a/one", ["a/one"]),
        ("{path: a/one}", ["a/one"]),
        ("[a/one]", ["a/one"]),
        ("[a/one, {path: a/two}]", ["a/one", "a/two"]),
    ],
)
def test_the_short_forms_of_sources(train: str, paths: list[str]) -> None:
    loaded = load(f"model: {{path: a/b}}\ndata: {{train: {train}}}\noutput_dir: o\n")
    assert [source.path for source in loaded.config.data.train] == paths
    assert loaded.where("data", "train", 0, "path").startswith("c.yaml:2:")


@pytest.mark.parametrize(
    "plugins",
    [
        "[one, two: {x: 1, on_error: raise}]",
        "{one: , two: {x: 1, on_error: raise}}",
        "[one: {}, {two: {x: 1, on_error: raise}}]",
    ],
)
def test_the_forms_of_plugins(plugins: str) -> None:
    plugins = plugins.replace("two: {x: 1, on_error: raise}]", "{two: {x: 1, on_error: raise}}]")
    entries = load(f"{MINIMAL}plugins: {plugins}\n").config.plugins
    assert [(entry.name, entry.options, entry.on_error) for entry in entries] == [
        ("one", {}, "continue"),
        ("two", {"x": 1}, "raise"),
    ]


def test_one_plugin_by_its_name_alone() -> None:
    assert [entry.name for entry in load(f"{MINIMAL}plugins: one\n").config.plugins] == ["one"]


def test_sections_whose_lines_are_commented_out_are_empty() -> None:
    text = MINIMAL + "trainer:\n  # learning_rate: 1\nplugins:\nadapter:\n"
    loaded = load(text)
    assert loaded.config.trainer == {}
    assert loaded.config.plugins == []
    assert loaded.config.adapter is None


def test_where_says_file_line_and_column() -> None:
    loaded = load(
        """\
        model:
          path: a/b
        data:
          train:
            - a/one
            - path: a/two
              limit: 3
        plugins:
          - one
          - two: {x: {y: 1}}
        output_dir: o
        """,
        "trainer.seed=5",
    )
    places = {
        ("model",): "c.yaml:1:1",
        ("model", "path"): "c.yaml:2:3",
        ("model", "dtype"): "c.yaml:1:1",
        ("data", "train", 0): "c.yaml:5:7",
        ("data", "train", 1, "limit"): "c.yaml:7:7",
        ("plugins", "one"): "c.yaml:9:5",
        ("plugins", "two"): "c.yaml:10:5",
        ("plugins", "two", "x", "y"): "c.yaml:10:15",
        ("trainer", "seed"): "--set trainer.seed",
        ("nonsense", "x"): "c.yaml:1:1",
    }
    assert {keys: loaded.where(*keys) for keys in places} == places


# --- mistakes -----------------------------------------------------------------------------------------------------------------

BROKEN: list[tuple[str, list[str]]] = [
    ("model: {path: a/b}\ndata: {train: a/b}\n", ["c.yaml:1:1: output_dir: is missing (The run folder)"]),
    (
        "method: sft\n",
        [
            "c.yaml:1:1: model: is missing (The model that is tuned)",
            "c.yaml:1:1: data: is missing (The rows, and how they become tokens)",
            "c.yaml:1:1: output_dir: is missing (The run folder)",
        ],
    ),
    (
        "model:\ndata: {train: a/b}\noutput_dir: o\n",
        ["c.yaml:1:1: model.path: is missing (A local folder, a `.gguf` file, or a hub id)"],
    ),
    (MINIMAL + "metod: sft\n", ["c.yaml:4:1: metod: unknown key (did you mean `method`?)"]),
    (MINIMAL + "learning_rate: 1\n", ["c.yaml:4:1: learning_rate: unknown key (`learning_rate` belongs under `trainer`)"]),
    (MINIMAL + "max_length: 1\n", ["c.yaml:4:1: max_length: unknown key (`max_length` belongs under `data`)"]),
    (
        MINIMAL + "method: dpo2\n",
        ["c.yaml:4:9: method: there is no method 'dpo2' (did you mean 'dpo'?)"],
    ),
    (
        "model:\n  path: a/b\n  dtype: bfloat\ndata: {train: a/b}\noutput_dir: o\n",
        ['c.yaml:3:10: model.dtype: "bfloat" is not one of auto, float32, bfloat16, float16 (did you mean `bfloat16`?)'],
    ),
    (
        "model: {path: ''}\ndata: {train: a/b, max_length: 1, packing: 3, eval_fraction: 1}\noutput_dir: [o]\n",
        [
            "c.yaml:1:15: model.path: must not be empty",
            "c.yaml:2:32: data.max_length: must be at least 2, got 1",
            "c.yaml:2:44: data.packing: expected true or false, got 3",
            "c.yaml:2:62: data.eval_fraction: must be less than 1, got 1",
            "c.yaml:3:13: output_dir: expected a path, got a list",
        ],
    ),
    (
        "model: a/b\ndata: [a, b]\noutput_dir: o\ntrainer: 3\n",
        [
            'c.yaml:1:8: model: expected keys with values, got "a/b"',
            "c.yaml:2:7: data: expected keys with values, got a list",
            "c.yaml:4:10: trainer: expected keys with values, got 3",
        ],
    ),
    ("model: {path: a/b}\ndata: {train: []}\noutput_dir: o\n", ["c.yaml:2:15: data.train: must not be empty"]),
    (
        (
            "model: {path: a/b}\ndata:\n  train:\n    - a/one\n    - 5\n"
            "    - {path: a/two, wieght: 2, columns: {mesages: x}}\noutput_dir: o\n"
        ),
        [
            "c.yaml:5:7: data.train.1: expected a path, or keys with values, got 5 (quote it)",
            "c.yaml:6:21: data.train.2.wieght: unknown key (did you mean `weight`?)",
            "c.yaml:6:42: data.train.2.columns.mesages: unknown key (did you mean `messages`?)",
        ],
    ),
    (
        MINIMAL + "adapter:\n  r: 0\n  target_modules: {q: 1}\n",
        [
            "c.yaml:5:6: adapter.r: must be greater than 0, got 0",
            "c.yaml:6:19: adapter.target_modules: expected text or a list, got keys with values",
        ],
    ),
    (
        MINIMAL + "plugins:\n  - 5\n  - one\n  - two: 3\n  - one: {x: 1}\n  - three: {on_error: stop}\n",
        [
            "c.yaml:5:5: plugins: expected plugin names: `[completions]` or `completions: {every: 50}`",
            "c.yaml:7:10: plugins.two: expected its options as keys with values: `two: {...}`",
            "c.yaml:8:5: plugins.one: `one` is given twice; the first is at c.yaml:6:5 (put all its options under one)",
        ],
    ),
    (
        MINIMAL + "plugins: {three: {on_error: stop}}\n",
        ['c.yaml:4:29: plugins.three.on_error: "stop" is not one of continue, raise'],
    ),
    (
        "model: {path: a/b, token: 12345}\ndata: {train: a/b}\noutput_dir: o\n",
        ["c.yaml:1:27: model.token: expected text, got a secret of another type (quote it)"],
    ),
    (
        "model: {path: a/b, token: '**********'}\ndata: {train: a/b}\noutput_dir: o\n",
        [
            (
                "c.yaml:1:27: model.token: ********** is what Longline writes in place of a secret "
                "(put ${NAME} here and the secret into the environment)"
            )
        ],
    ),
]


@pytest.mark.parametrize(("text", "expected"), BROKEN, ids=[expected[0] for _, expected in BROKEN])
def test_mistakes_are_all_told_with_place_and_remedy(text: str, expected: list[str]) -> None:
    assert mistakes(text) == expected


def test_mistakes_of_every_kind_come_in_one_report_sorted_by_place() -> None:
    text = """\
        model: {path: ./nowhere, token: "${UNSET_TOKEN}", dtyp: auto}
        data:
          train: rows.jsonl
          packing: maybe
        trainer:
          learning_rate: fast
          sed: 5
        adapter: {lora_alfa: 3}
        output_dir: o
        """
    assert mistakes(text, "data.max_length=lots", "nonsense", A="1") == [
        "c.yaml:1:15: model.path: no such folder: ./nowhere",
        (
            "c.yaml:1:33: model.token: the environment variable UNSET_TOKEN is not set "
            "(export UNSET_TOKEN=..., or write $${UNSET_TOKEN} for the text itself)"
        ),
        "c.yaml:1:51: model.dtyp: unknown key (did you mean `dtype`?)",
        "c.yaml:3:10: data.train.0.path: no such file: rows.jsonl",
        'c.yaml:4:12: data.packing: expected true or false, got "maybe"',
        'c.yaml:6:18: trainer.learning_rate: expected a number, got "fast"',
        "c.yaml:7:3: trainer.sed: unknown field (did you mean `seed`?)",
        "c.yaml:8:11: adapter.lora_alfa: unknown field (did you mean `lora_alpha`?)",
        "--set nonsense: expected KEY=VALUE with a dotted KEY (for example --set trainer.learning_rate=1e-4)",
        '--set data.max_length: expected a whole number, got "lots"',
    ]


# --- every field --------------------------------------------------------------------------------------------------------------

VALUES: dict[str, Any] = {
    "data.train.0.format": "prompts",
    "data.eval.0.format": "prompts",
    "data.keep.0.dtype": "float16",
    "method": "sft",
    "model.attn_implementation": "eager",
    "data.train.0.delimiter": ";",
    "data.eval.0.delimiter": ";",
    "data.train.0.encoding": "cp1252",
    "data.eval.0.encoding": "cp1252",
    "data.allow_dropped": ["reasoning"],
    "data.overlap": None,  # for formats that split
    "data.join": None,  # not together with packing
    "data.train.0.roles": {"bot": "assistant"},
    "data.eval.0.roles": {"bot": "assistant"},
    "model.tokenizer.chat_template": "{{ messages }}",
    "model.quantization": None,
    "data.eval_fraction": None,
}


def _all_fields(model: Any = Config, prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted path and a valid value that is not the default, for every field of every section."""
    found: list[tuple[str, Any]] = []
    for name, info in model.model_fields.items():
        path = f"{prefix}{name}"
        below = next(models_in(info.annotation), None)
        if path == "plugins":
            found.append((path, {"one": {"on_error": "raise"}}))
        elif below is not None:
            found += _all_fields(below, f"{path}.0." if name in {"train", "eval", "rewards", "keep"} else f"{path}.")
        else:
            found.append((path, VALUES.get(path, _value(info.annotation))))
    return found


def _value(annotation: Any) -> Any:
    text = str(annotation)
    if "Literal" in text:
        return text.partition("Literal[")[2].split(",")[-1].split("]")[0].strip(" '")
    for mark, value in (("bool", True), ("dict", {}), ("list", ["x"]), ("int", 7), ("float", 0.5)):
        if mark in text:
            return value
    return "some/text"


def test_every_field_can_be_given_and_has_its_place() -> None:
    rewards = [path for path, _ in _all_fields() if path.startswith("rewards.")]  # only with methods that draw answers
    assert rewards
    given = [(path, value) for path, value in _all_fields() if value is not None and path not in rewards]
    assert len(given) > 60
    loaded = load(MINIMAL, *[f"{path}={_yaml(value)}" for path, value in given])
    for path, value in given:
        if path == "plugins":
            continue
        assert loaded.where(*[int(key) if key.isdecimal() else key for key in path.split(".")]) == f"--set {path}"
        assert (
            _at(loaded.config, path) == (Path(value) if path in {"output_dir", "data.cache_dir"} else value)
            or path == "model.token"
        )


@pytest.mark.parametrize(
    "path", [path for path, _ in _all_fields() if path not in {"plugins", "model.overrides", "trainer", "rewards.0.options"}]
)
def test_a_wrong_value_of_any_field_is_told_at_its_own_place(path: str) -> None:
    text, indent = "", 0
    for key in path.split("."):
        text += f"{' ' * indent}- " if key == "0" else f"{'' if text.endswith('- ') else ' ' * indent}{key}:\n"
        indent += 2
    required = [
        "model.path=a/b",
        "data.train.0.path=a/b",
        "output_dir=o",
        *(["data.eval.0.path=a/b"] if "eval.0" in path else []),
        *(["data.keep.0.name=a"] if "keep." in path else []),
        *(["rewards.0.function=a"] if path.startswith("rewards.") else []),
    ]
    found = mistakes(f"{text[:-1]} {{zz: [[]]}}\n", *[item for item in required if not item.startswith(f"{path}=")])
    line = text.count("\n")
    assert any(item.startswith(f"c.yaml:{line}:") and f": {path}" in item for item in found), found
    assert all(f": {path}" in item for item in found)


def _yaml(value: Any) -> str:
    import json

    return json.dumps(value)


def _at(config: Any, path: str) -> Any:
    for key in path.split("."):
        config = config[int(key)] if key.isdecimal() else getattr(config, key)
    return config


# --- overrides ----------------------------------------------------------------------------------------------------------------


def test_overrides_reach_sections_lists_and_plugins() -> None:
    text = MINIMAL.replace("train: owner/rows", "train: [a/one, a/two]") + "plugins: [one, {two: {x: 1}}]\n"
    loaded = load(
        text,
        "trainer.learning_rate=1e-4",
        "data.train.0.limit=5",
        "data.train.2=a/three",
        "plugins.two.mode=local",
        "plugins.one.on_error=raise",
        "adapter={r: 4}",
        "adapter.lora_alpha=8",
        "model.path='12'",
        "output_dir=a=b",
        "trainer.seed=1",
        "trainer.seed=2",
    )
    config = loaded.config
    assert config.trainer == {"learning_rate": 1e-4, "seed": 2}
    assert [(source.path, source.limit) for source in config.data.train] == [("a/one", 5), ("a/two", None), ("a/three", None)]
    assert [(entry.name, entry.options, entry.on_error) for entry in config.plugins] == [
        ("one", {}, "raise"),
        ("two", {"x": 1, "mode": "local"}, "continue"),
    ]
    assert config.adapter is not None
    assert (config.adapter.r, config.adapter.model_extra) == (4, {"lora_alpha": 8})
    assert (config.model.path, config.output_dir) == ("12", Path("a=b"))


def test_an_override_may_replace_the_list_of_plugins() -> None:
    assert [entry.name for entry in load(f"{MINIMAL}plugins: [one, two]\n", "plugins=[three]").config.plugins] == ["three"]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "trainer.seed",
            "--set trainer.seed: expected KEY=VALUE with a dotted KEY (for example --set trainer.learning_rate=1e-4)",
        ),
        ("=5", "--set =5: expected KEY=VALUE with a dotted KEY (for example --set trainer.learning_rate=1e-4)"),
        ("a..b=5", "--set a..b=5: expected KEY=VALUE with a dotted KEY (for example --set trainer.learning_rate=1e-4)"),
        ("model.path.x=5", "--set model.path.x: model.path: is a single value and has no keys"),
        ("data.train.x=5", "--set data.train.x: data.train: is a list of 1; `x` is no index of it (0 to 0, or 1 to add one)"),
        ("data.train.3=5", "--set data.train.3: data.train: is a list of 1; `3` is no index of it (0 to 0, or 1 to add one)"),
        ("trainer.sed=5", "--set trainer.sed: unknown field (did you mean `seed`?)"),
        (
            "trainer.seed=!!python/name:os.system",
            "--set trainer.seed: the YAML tag `!!python/name:os.system` is not allowed (a config holds plain values only)",
        ),
        (
            "trainer.seed={a: 1, a: 2}",
            "--set trainer.seed: `a` is given twice; the first is at --set trainer.seed (keep one of them)",
        ),
    ],
)
def test_a_wrong_override_is_told_by_its_key(override: str, expected: str) -> None:
    assert mistakes(MINIMAL, override) == [expected]


def test_an_override_that_is_no_yaml() -> None:
    (text,) = mistakes(MINIMAL, "trainer.seed=[1,")
    assert text.startswith("--set trainer.seed: not valid YAML:")


# --- the environment ----------------------------------------------------------------------------------------------------------


def test_references_to_the_environment() -> None:
    text = """\
        model: {path: "${WHO}/name", token: "${HF_TOKEN}", overrides: {a: "$${HOME} ${WHO} $WHO"}}
        data: {train: "${ROWS}", max_length: "${LENGTH}", packing: "${PACK}"}
        trainer: {max_steps: "${LENGTH}", learning_rate: "${RATE}", bf16: "${PACK}", run_nam: x}
        plugins: {one: {key: "${HF_TOKEN}"}}
        output_dir: o
        """.replace(", run_nam: x", "")
    environ = {"WHO": "me", "HF_TOKEN": "s3cret", "ROWS": "a/rows", "LENGTH": "64", "PACK": "true", "RATE": "1e-3"}
    loaded = load(text, "output_dir=${WHO}", **environ)
    config = loaded.config
    assert config.model.path == "me/name"
    assert config.model.token is not None
    assert config.model.token.get_secret_value() == "s3cret"
    assert config.model.overrides == {"a": "${HOME} me $WHO"}
    assert (config.data.max_length, config.data.packing) == (64, True)
    assert config.trainer == {"max_steps": 64, "learning_rate": 1e-3, "bf16": True}
    assert config.plugins[0].options == {"key": "s3cret"}
    assert config.output_dir == Path("me")
    assert loaded.env_refs == {
        "model.token": "HF_TOKEN",
        "data.train.0.path": "ROWS",
        "data.max_length": "LENGTH",
        "data.packing": "PACK",
        "trainer.max_steps": "LENGTH",
        "trainer.learning_rate": "RATE",
        "trainer.bf16": "PACK",
        "plugins.one.key": "HF_TOKEN",
        "output_dir": "WHO",
    }


def test_what_came_from_the_environment_is_never_shown_in_a_message() -> None:
    text = MINIMAL + 'trainer: {max_steps: "${STEPS}"}\nnonfinite_loss: "${STEPS}"\n'
    assert mistakes(text, "data.max_length=${STEPS}", STEPS="s3cret") == [
        "c.yaml:4:22: trainer.max_steps: expected a whole number, got the value of ${STEPS}",
        "c.yaml:5:17: nonfinite_loss: the value of ${STEPS} is not one of stop, continue",
        "--set data.max_length: expected a whole number, got the value of ${STEPS}",
    ]


def test_a_value_from_the_environment_is_not_read_for_references_again() -> None:
    assert load(MINIMAL, "model.revision=${A}", A="${B}", B="x").config.model.revision == "${B}"


@pytest.mark.parametrize("reference", ["${}", "${a b}", "${A", "${A-default}"])
def test_a_reference_that_names_nothing(reference: str) -> None:
    (text,) = mistakes(MINIMAL, f"model.revision='{reference}'", A="x")
    assert text == f"--set model.revision: `{reference}` names no environment variable (write $${{ for the text ${{)"


def test_the_environment_is_the_process_own_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGLINE_TEST_NAME", "a/model")
    Path("c.yaml").write_text(MINIMAL.replace("owner/name", '"${LONGLINE_TEST_NAME}"'), encoding="utf-8")
    assert load_config(Path("c.yaml")).config.model.path == "a/model"
