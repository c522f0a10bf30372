"""A secret of the config reaches no file, no line on the terminal and no log."""

from __future__ import annotations

import logging

import pytest
from pydantic import SecretStr

from longline import Plugin, PluginConfig, hookimpl
from longline.config.loader import load_config
from longline.plugins import LoadedPlugin
from longline.run import train

TOKEN = "hf_TopSecretToken123456"
KEY = "key-0987654321-abcdef"


class Options(PluginConfig):
    api_key: SecretStr
    where: str = "here"


class Careless(Plugin):
    """Lets its key slip out wherever it can."""

    Config = Options

    @hookimpl
    def on_log(self, run, step):
        raise ConnectionError(f"refused: https://user:{self.config.api_key.get_secret_value()}@tracker (token {TOKEN})")

    @hookimpl
    def post_trainer_create(self, run):
        run.alert("careless", f"my key is {self.config.api_key.get_secret_value()}", "info")


def test_no_secret_gets_out(run_config, monkeypatch, capfd, caplog):
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    config = run_config(
        model={"token": "${MY_TOKEN}"},
        adapter={"type": "lora", "r": 2},
        trainer={"max_steps": 3, "save_steps": 2, "save_strategy": "steps"},
    )
    options = Options(api_key=SecretStr(KEY))
    with caplog.at_level(logging.DEBUG, "longline"):
        result = train(load_config(config), plugins=[LoadedPlugin.of(Careless(options), "careless")])
    assert result.status == "completed"
    files = [path for path in result.output_dir.rglob("*") if path.is_file()]
    assert {"run.json", "config.yaml", "log.jsonl", "README.md"} <= {path.name for path in files}
    for path in files:
        content = path.read_bytes()
        assert TOKEN.encode() not in content, path
        assert KEY.encode() not in content, path
    told = capfd.readouterr()
    text = told.out + told.err + caplog.text
    assert "my key is" in text
    assert "ConnectionError: refused" in text
    assert TOKEN not in text
    assert KEY not in text
    assert "${MY_TOKEN}" in (result.output_dir / "config.yaml").read_text()


def test_a_failure_that_names_a_secret_is_told_without_it(run_config, monkeypatch, capfd):
    from longline.cli import run_cli

    monkeypatch.setenv("MY_TOKEN", TOKEN)
    config = run_config(model={"token": "${MY_TOKEN}"}, output_dir=f"/proc/{TOKEN}/run")
    assert run_cli(["train", str(config)]) == 2
    told = capfd.readouterr()
    assert "cannot write the run folder" in told.err
    assert TOKEN not in told.out + told.err


@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_a_crash_is_told_without_secrets_also_with_its_traceback(run_config, monkeypatch, capfd, debug):
    from longline.cli import run_cli

    monkeypatch.setenv("MY_TOKEN", TOKEN)
    monkeypatch.delenv("LONGLINE_DEBUG", raising=False)
    config = run_config(model={"token": "${MY_TOKEN}", "tokenizer": {"pad_token": TOKEN}})
    assert run_cli(["train", str(config), *debug]) == 2
    told = capfd.readouterr()
    assert "is not in the vocabulary" in told.err
    assert TOKEN not in told.out + told.err
