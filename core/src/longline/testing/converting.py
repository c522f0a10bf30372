"""A config of axolotl's by `longline convert`, for plugins that translate keys of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LEAST = "base_model: acme/m\ndatasets: [{path: acme/d, type: chat_template}]\nlearning_rate: 1e-4\n"


@pytest.fixture
def convert_axolotl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], tuple[Any, str]]:
    """Return a function that adds lines to the least of a config, converts it, and loads the outcome with its plugins.

    `plugins, report = convert_axolotl("liger_rope: true\\n")`; `plugins` is what the new config has under `plugins:`, or None. The
    working directory is a folder of the test's own, where the outcome is out.yaml.
    """
    import yaml

    from longline.cli import run_cli
    from longline.config.loader import load_config
    from longline.plugins import load_plugins

    monkeypatch.chdir(tmp_path)

    def convert(lines: str) -> tuple[Any, str]:
        Path("a.yaml").write_text(LEAST + lines, encoding="utf-8")
        status = run_cli(["convert", "axolotl", "a.yaml"])
        told = capsys.readouterr()
        if status:
            raise AssertionError(told.err)
        Path("out.yaml").write_text(told.out, encoding="utf-8")
        load_plugins(load_config("out.yaml", environ={}))
        return yaml.safe_load(told.out).get("plugins"), told.err

    return convert
