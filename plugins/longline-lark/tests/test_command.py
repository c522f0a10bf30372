"""`longline lark test`, as a person runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from longline.cli import run_cli

SECRET = "s3cr3t-of-the-bot"


@pytest.fixture
def config(tmp_path: Path, lark) -> Path:
    path = tmp_path / "c.yaml"
    text = "model: {path: owner/name}\ndata: {train: not-there.jsonl}\noutput_dir: run\nplugins:\n"
    path.write_text(f"{text}  lark: {{webhook_url: '{lark.url}', secret: {SECRET}, language: zh, project: fish}}\n")
    return path


def test_with_the_environment_alone(lark, monkeypatch, capsys):
    monkeypatch.setenv("LARK_WEBHOOK_URL", lark.url)
    monkeypatch.setenv("LARK_SECRET", SECRET)
    assert run_cli(["lark", "test"]) == 0
    assert capsys.readouterr().out == "delivered to 127.0.0.1: look into the group\n"
    assert lark.titles == ["Longline: test message"]


def test_with_the_options_of_a_config_whose_data_is_elsewhere(lark, config):
    assert run_cli(["lark", "test", str(config)]) == 0
    assert lark.titles == ["Longline: 测试消息"]
    assert lark.facts() == {"项目": "fish"}


def test_set_reaches_the_options(lark, config, capsys):
    assert run_cli(["lark", "test", str(config), "--set", "plugins.lark.secret=another-secret"]) == 3
    told = capsys.readouterr().err
    assert "not delivered: Lark refused the message (HTTP 200, code 19021: sign match fail" in told
    assert "hint: the signature does not match: copy the secret again" in told
    assert "another-secret" not in told
    assert lark.titles == []


def test_without_a_secret_it_warns(lark, monkeypatch, capsys):
    lark.secret = None
    monkeypatch.setenv("LARK_WEBHOOK_URL", lark.url)
    assert run_cli(["lark", "test"]) == 0
    told = capsys.readouterr().err
    assert "warning: no secret is set" in told
    assert "export LARK_SECRET" in told


def test_without_a_webhook(capsys):
    assert run_cli(["lark", "test"]) == 3
    assert "export LARK_WEBHOOK_URL=" in capsys.readouterr().err


def test_nobody_answers(dead_url, monkeypatch, capsys):
    monkeypatch.setenv("LARK_WEBHOOK_URL", dead_url)
    assert run_cli(["lark", "test"]) == 3
    assert "not delivered: 127.0.0.1 cannot be reached" in capsys.readouterr().err


def test_a_config_without_lark_and_one_that_is_wrong(tmp_path, config, capsys):
    other = tmp_path / "other.yaml"
    other.write_text("model: {path: owner/name}\ndata: {train: x.jsonl}\noutput_dir: run\n")
    assert run_cli(["lark", "test", str(other)]) == 2
    assert "does not name the plugin lark" in capsys.readouterr().err
    assert run_cli(["lark", "test", str(config), "--set", "plugins.lark.timeout=0"]) == 2
    assert "--set plugins.lark.timeout: must be greater than 0" in capsys.readouterr().err
    assert run_cli(["lark", "test", "--set", "plugins.lark.timeout=1"]) == 2
    assert "--set changes a config" in capsys.readouterr().err
