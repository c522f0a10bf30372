"""Options: what is wrong is refused before any work, with the place in the file."""

from __future__ import annotations

import json

import pytest

from longline.cli import run_cli

WRONG = [
    ("steps: {start: 0, count: 5}", "plugins.profiling.steps.start"),
    ("steps: {start: 3, count: 0}", "plugins.profiling.steps.count"),
    ("steps: {count: 3}", "plugins.profiling.steps.start"),
    ("steps: {start: 1, stop: 3}", "stop"),
    ("steps: {start: 1, ranks: some}", "plugins.profiling.steps.ranks"),
    ("min_duration_ms: -1", "plugins.profiling.min_duration_ms"),
    ("log_interval: 0", "plugins.profiling.log_interval"),
    ("peak_tflops: 0", "plugins.profiling.peak_tflops"),
    ("methods: ['a b']", "plugins.profiling.methods"),
    ("enable: false", "enabled"),
]


@pytest.mark.parametrize(("line", "named"), WRONG, ids=[line for line, _ in WRONG])
def test_a_wrong_option_is_refused_with_its_place(line, named, run_config, capsys):
    config = run_config(plugins=None)
    config.write_text(config.read_text() + f"plugins:\n  profiling:\n    {line}\n")
    number = len(config.read_text().splitlines())
    assert run_cli(["check", str(config)]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert f"{config}:{number}:" in error


def test_every_option_is_described_in_the_schema(capsys):
    assert run_cli(["schema"]) == 0
    text = capsys.readouterr().out
    schema = json.loads(text)
    models = {name: model for name, model in schema["$defs"].items() if name.startswith("plugin.profiling")}
    assert len(models) == 2
    for model in models.values():
        assert all(option.get("description") for option in model["properties"].values())


def test_the_commands_are_listed(capsys):
    assert run_cli(["--help"]) == 0
    assert "profile" in capsys.readouterr().out
    assert run_cli(["profile", "--help"]) == 0
    text = capsys.readouterr().out
    assert "show" in text
    assert "analyze" in text
