"""The options: what is refused before any work, where, and what the README says of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from longline.cli import run_cli
from longline_completions.config import CompletionsConfig
from longline_completions.plugin import CompletionsPlugin


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Run `longline check` on a config with these lines under `completions:` and return exit status and output."""

    def run(*lines: str) -> tuple[int, str]:
        (tmp_path / "rows.jsonl").write_text("{}\n")
        head = f"method: dpo\nmodel: {{path: owner/name}}\ndata: {{train: {tmp_path}/rows.jsonl}}\noutput_dir: {tmp_path}/run\n"
        path = tmp_path / "c.yaml"
        path.write_text(f"{head}plugins:\n  completions:\n" + "".join(f"    {line}\n" for line in lines))
        code = run_cli(["check", str(path)])
        output = capsys.readouterr()
        return code, (output.out + output.err).replace(f"{path}:", "c.yaml:")

    return run


def test_the_defaults_are_those_that_are_promised():
    config = CompletionsConfig()
    assert (config.every, config.max_rows, config.max_bytes, config.columns, config.sample) == (
        100,
        128,
        16 * 2**20,
        None,
        "last",
    )


@pytest.mark.parametrize(("text", "size"), [("512KiB", 2**19), ("1 MB", 10**6), ("2GiB", 2**31), (5000, 5000)])
def test_sizes_as_a_person_writes_them(text, size):
    assert CompletionsConfig(max_bytes=text).max_bytes == size


def test_a_good_config(check):
    code, told = check("every: 50", "max_rows: 16", "max_bytes: 4MiB", "columns: [prompt, margin]", "sample: random")
    assert code == 0, told


def test_every_mistake_at_once_with_its_place(check):
    code, told = check(
        "every: 0", "max_rows: none", "max_bytes: 4 XB", "columns: [prompt, prompt]", "sample: wurst", "max_row: 3"
    )
    assert code == 2
    assert "c.yaml:7:12: plugins.completions.every: must be at least 1, got 0" in told
    assert "plugins.completions.max_rows" in told
    assert "could not interpret byte unit: XB" in told
    assert "plugins.completions.columns: names 'prompt' twice" in told
    assert "did you mean `worst`?" in told
    assert "did you mean `max_rows`?" in told
    assert told.count("c.yaml:") == 6


@pytest.mark.parametrize(
    ("line", "told"),
    [("max_bytes: 100", "must be at least 4096"), ("columns: []", "must not be empty; leave it out to keep all columns")],
)
def test_limits(check, line, told):
    code, said = check(line)
    assert code == 2
    assert told in said


def test_the_schema_has_every_option_with_its_description(capsys):
    assert run_cli(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    text = json.dumps(schema)
    for name, field in CompletionsConfig.model_fields.items():
        assert f'"{name}"' in text
        assert json.dumps(" ".join((field.description or "").split()))[1:-1] in " ".join(text.split()) or field.description


def test_plugins_show_tells_the_options(capsys):
    assert run_cli(["plugins", "show", "completions"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in CompletionsConfig.model_fields)


def test_it_is_well_behaved(assert_well_behaved, preference_rows):
    assert_well_behaved(CompletionsPlugin, {"every": 3}, method="dpo", data={"train": [{"path": str(preference_rows)}]})


# --- the README -----------------------------------------------------------------------------------------------------------------

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_readme_tells_every_option_of_plugin_and_command():
    from longline_completions.cli import command

    table = README.partition("## Options")[2].partition("\n\n##")[0]
    told = {line.split("`")[1] for line in table.splitlines() if line.startswith("| `")}
    assert told == set(CompletionsConfig.model_fields)
    shown = README.partition("## Looking at them")[2].partition("\n\n## ")[0]
    options = [name for parameter in command.params for name in parameter.opts if name.startswith("--") and name != "--help"]
    assert [name for name in options if f"`{name}" not in shown] == []


def test_the_examples_of_the_readme_run(tmp_path, capsys):
    """The code that reads files, on files."""
    from longline import Table
    from longline_completions.store import Facts, Store

    folder = tmp_path / "runs" / "demo"
    folder.mkdir(parents=True)
    table = Table("completions", ("step", "prompt", "margin"), ((1, "a", -0.5), (1, "b", 0.5)), 1)
    Store(folder / "completions").write(table, Facts("id", "dpo", "margin", "last", 2))
    blocks = [block.partition("\n")[2] for block in README.split("```")[1::2] if block.startswith("python\n")]
    reading = [block for block in blocks if "runs/demo" in block]
    assert reading
    for block in reading:
        exec(block.replace("runs/demo", str(folder)), {})
    plugin = [block for block in blocks if "on_table" in block]
    assert plugin
    namespace: dict = {}
    exec(plugin[0], namespace)
    from longline.plugins import PluginConfig

    namespace["WriteTables"](PluginConfig()).on_table(table=table)
    assert "b" in capsys.readouterr().out
