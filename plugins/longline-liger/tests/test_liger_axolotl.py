"""A config of axolotl with Liger's kernels, by `longline convert`."""

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


LISTED = "plugins: [axolotl.integrations.liger.LigerPlugin]\n"


def test_the_kernels_that_are_on(convert):
    plugins, told = convert(
        LISTED + "liger_rope: true\nliger_rms_norm: true\nliger_glu_activation: true\nliger_layer_norm: true\n"
        "liger_fused_linear_cross_entropy: true\nliger_cross_entropy: false\n"
    )
    assert plugins == {"liger": {"rope": True, "rms_norm": True, "glu_activation": True, "fused_linear_cross_entropy": True}}
    assert "liger_layer_norm: true; left out" in told
    assert "no equal" not in told


def test_without_kernels_there_is_no_plugin(convert):
    plugins, told = convert(LISTED + "liger_rope: false\nliger_rms_norm_gated: true\n")
    assert plugins is None
    assert "no kernel is asked for" in told
    assert "liger_rms_norm_gated: true; nearest: the kernels" in told


def test_the_older_name_of_a_kernel(convert):
    assert convert(LISTED + "liger_swiglu: true\n")[0] == {"liger": {"glu_activation": True}}
