"""A config of axolotl with Lark, by `longline convert`."""

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


def test_the_plugin_comes_without_its_secrets(convert):
    url = "https://open.feishu.cn/open-apis/bot/v2/hook/0123456789"
    plugins, told = convert(f"swanlab_lark_webhook_url: {url}\nswanlab_lark_secret: s3cr3t-sign  # of the bot\n")
    assert plugins == {"lark": {}}
    assert "export LARK_WEBHOOK_URL" in told
    assert "export LARK_SECRET" in told
    assert "0123456789" not in told + Path("out.yaml").read_text()
    assert "s3cr3t" not in told + Path("out.yaml").read_text()


def test_without_a_webhook_there_is_no_plugin(convert):
    assert convert("swanlab_lark_webhook_url:\nswanlab_lark_secret: null\n")[0] is None
