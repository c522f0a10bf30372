"""A config of axolotl with cut cross entropy, by `longline convert`."""

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


LISTED = "plugins: [axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin]\n"


@pytest.mark.parametrize("lines", [LISTED, LISTED + "cut_cross_entropy: true\n", LISTED + "cut_cross_entropy:\n"])
def test_listed_is_on(convert, lines):
    plugins, told = convert(lines)
    assert plugins == {"cce": {}}
    assert "no equal" not in told


def test_off_and_what_the_release_has_not(convert):
    plugins, told = convert(LISTED + "cut_cross_entropy: false\ncut_cross_entropy_accum_c_fp32: true\n")
    assert plugins is None
    assert "cut_cross_entropy_accum_c_fp32: true; nearest: the release" in told


def test_a_method_with_a_loss_of_its_own_keeps_it(convert):
    plugins, told = convert(LISTED + "rl: dpo\n")
    assert plugins is None
    assert "CutCrossEntropyPlugin; nearest: the trainer's own loss: this one is for sft" in told
