"""The example runs as its first lines say."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from longline.cli import run_cli
from longline.testing import __main__ as demo

EXAMPLE = Path(__file__).parents[3] / "examples" / "spectrum" / "half.yaml"


@pytest.mark.skipif(not EXAMPLE.is_file(), reason="the repository is not there")
def test_the_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(EXAMPLE, tmp_path)
    monkeypatch.setattr("sys.argv", ["longline.testing", "demo"])
    demo.main()
    assert run_cli(["plan", "half.yaml"]) == 0
    assert "as the scan will say" in capsys.readouterr().out
    assert run_cli(["train", "half.yaml", "--set", "trainer.use_cpu=true"]) == 0
    before, after = (load_file(Path(folder, "model.safetensors")) for folder in ("demo/model", "runs/spectrum/model"))
    assert {name for name, weight in after.items() if "mlp.up_proj" in name and not weight.equal(before[name])} == {
        "model.layers.0.mlp.up_proj.weight"
    }
