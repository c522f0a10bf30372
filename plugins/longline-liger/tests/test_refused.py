"""What is refused before a model is loaded, on a machine without CUDA: each with status 3, a reason and a remedy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from longline.cli import run_cli

EXAMPLES = Path(__file__).parents[3] / "examples" / "liger"


@pytest.mark.parametrize(
    ("options", "more", "what", "remedy"),
    [
        (
            {"fused_linear_cross_entropy": True},
            {"method": "dpo"},
            "fused_linear_cross_entropy cannot be applied: dpo takes its loss in trl",
            "remove fused_linear_cross_entropy from plugins.liger",
        ),
        (
            {"cross_entropy": True},
            {"method": "grpo", "rewards": ["reasoning_gym"]},
            "cross_entropy cannot be applied: grpo",
            "",
        ),
        ({"rope": True}, {"trainer": {"torch_compile": True}}, "beside trainer.torch_compile are not shown to be right", ""),
        ({}, {"trainer": {"label_smoothing_factor": 0.1}}, "label_smoothing_factor takes the loss from the logits", ""),
    ],
)
def test_refused_before_anything_is_loaded(run_config, preference_rows, capsys, options, more, what, remedy):
    if "method" in more:
        more = {**more, "data": {"train": [{"path": str(preference_rows)}]}}
    assert run_cli(["train", str(run_config(plugins=[{"liger": options}], **more))]) == 3
    said = capsys.readouterr()
    assert what in said.err
    assert remedy in said.err
    assert "prepared in" not in said.out  # no data was read, and no model


def elsewhere(config, **environ):
    """`longline train` in a process that sees no GPU."""
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    words = [sys.executable, "-m", "longline", "train", str(config)]
    environ = {**kept, "CUDA_VISIBLE_DEVICES": "", **environ}
    return subprocess.run(words, env=environ, capture_output=True, text=True, check=False)


def test_no_cuda(run_config, tmp_path):
    done = elsewhere(run_config(plugins=[{"liger": {"rms_norm": True}}], model={"path": "nobody/nothing"}))
    assert done.returncode == 3
    assert "Liger's kernels need CUDA, and torch finds none on this machine" in done.stderr
    assert "train on a machine with an NVIDIA GPU, or remove liger from plugins:" in done.stderr


def test_a_liger_that_cannot_be_imported(run_config, tmp_path):
    broken = tmp_path / "broken" / "liger_kernel"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('no triton here')")
    config = run_config(plugins=[{"liger": {"rms_norm": True}}])
    done = elsewhere(config, PYTHONPATH=str(broken.parent), TRITON_INTERPRET="1")
    assert done.returncode == 3
    assert "liger-kernel 0.8" in done.stderr
    assert "cannot be imported: ImportError: no triton here" in done.stderr
    assert "pip install --force-reinstall liger-kernel triton" in done.stderr


@pytest.mark.parametrize("command", ["check", "plan", "train"])
def test_two_losses_are_refused_before_any_work(command, capsys, monkeypatch):
    monkeypatch.chdir(EXAMPLES.parents[1])
    assert run_cli([command, str(EXAMPLES / "both.yaml")]) == 3
    said = capsys.readouterr().err
    assert "plugin 'cce' (longline-cce 0.1.0) and plugin 'liger' (longline-liger 0.1.0) both claim 'loss'" in said
    assert "remove 'cce' or 'liger' from plugins:" in said
    assert "or set the options of 'liger' so that it leaves 'loss' alone" in said


def test_the_example_is_right(capsys, monkeypatch):
    monkeypatch.chdir(EXAMPLES.parents[1])
    assert run_cli(["check", str(EXAMPLES / "config.yaml")]) == 0
    without_loss = ["--set", "plugins.liger.fused_linear_cross_entropy=false", "--set", "plugins.cce={}"]
    assert run_cli(["check", str(EXAMPLES / "config.yaml"), *without_loss]) == 0, capsys.readouterr().err
