"""A config of axolotl with tables of completions, by `longline convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from longline.cli import run_cli
from longline.config.loader import load_config
from longline.plugins import load_plugins

LEAST = "base_model: acme/m\ndatasets: [{path: acme/d, type: chat_template}]\nlearning_rate: 1e-4\n"


@pytest.fixture
def convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """The `plugins:` of the config that comes of some more lines, which load, and the report."""
    monkeypatch.chdir(tmp_path)

    def of(lines: str) -> tuple[Any, str]:
        Path("a.yaml").write_text(LEAST + lines)
        assert run_cli(["convert", "axolotl", "a.yaml"]) == 0
        told = capsys.readouterr()
        Path("out.yaml").write_text(told.out)
        load_plugins(load_config("out.yaml", environ={}))
        return yaml.safe_load(told.out).get("plugins"), told.err

    return of


def test_a_method_that_compares_gets_tables(convert):
    plugins, told = convert(
        "rl: dpo\nswanlab_log_completions: true\nswanlab_completion_log_interval: 50\nswanlab_completion_max_buffer: 256\n"
    )
    assert plugins == {"completions": {"every": 50, "max_rows": 256}}
    assert "no equal" not in told.replace("datasets.0.type", "")


def test_off_or_sft_gets_none(convert):
    assert convert("rl: dpo\nswanlab_log_completions: false\nswanlab_completion_log_interval: 50\n")[0] is None
    plugins, told = convert("swanlab_log_completions: true\n")
    assert plugins is None
    assert "sft learns rows as they are" in told
