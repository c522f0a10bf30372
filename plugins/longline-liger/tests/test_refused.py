"""What is refused before a run, on a machine without CUDA: each with its place, status 3, a reason and a remedy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from longline.cli import run_cli
from longline_liger import release
from longline_liger.config import LOSSES

EXAMPLES = Path(__file__).parents[3] / "examples" / "liger"


@pytest.mark.parametrize("command", ["check", "train"])
@pytest.mark.parametrize(
    ("options", "more", "where", "what", "remedy"),
    [
        (
            {"fused_linear_cross_entropy": True},
            {"method": "dpo"},
            "plugins.liger.fused_linear_cross_entropy: ",
            "fused_linear_cross_entropy cannot be applied: dpo takes its loss in trl",
            "remove fused_linear_cross_entropy from plugins.liger",
        ),
        (
            {"cross_entropy": True},
            {"method": "grpo", "rewards": ["reasoning_gym"]},
            "plugins.liger.cross_entropy: ",
            "cross_entropy cannot be applied: grpo",
            "",
        ),
        (
            {"rope": True},
            {"trainer": {"torch_compile": True}},
            "trainer.torch_compile: liger: ",
            "beside trainer.torch_compile are not shown to be right",
            "",
        ),
        (
            {},
            {"trainer": {"label_smoothing_factor": 0.1}},
            "trainer.label_smoothing_factor: liger: ",
            "label_smoothing_factor takes the loss from the logits",
            "",
        ),
        (
            {"rope": True},
            {"trainer": {"use_cpu": True}},
            "trainer.use_cpu: liger: ",
            "trainer.use_cpu keeps the model off it",
            "remove use_cpu",
        ),
        (
            {name: False for name in release.offered() if name not in ("use_token_scaling", "swiglu", "geglu")}
            | {"glu_activation": False},
            {},
            "plugins.liger: ",
            "the options leave no kernel to apply",
            "name those that you want",
        ),
    ],
)
def test_refused_before_a_run(run_config, preference_rows, tmp_path, capsys, command, options, more, where, what, remedy):
    if "method" in more:
        more = {**more, "data": {"train": [{"path": str(preference_rows)}]}}
    assert run_cli([command, str(run_config(plugins=[{"liger": options}], **more))]) == 3
    line = next(line for line in capsys.readouterr().err.splitlines() if what in line)
    assert where in line
    assert remedy in line
    assert not (tmp_path / "run").exists()


def test_for_another_method_kernels_of_layers_may_be_left_over(run_config, preference_rows, capsys):
    """Of Liger's advice without the kernels of layers nothing is left for dpo; with one of them there is."""
    data = {"train": [{"path": str(preference_rows)}]}
    layers = [name for name in release.offered() if name not in (*LOSSES, "use_token_scaling")]
    for spared in ([], ["rope"]):
        options = {name: False for name in layers if name not in spared}
        run_cli(["check", str(run_config(method="dpo", data=data, plugins=[{"liger": options}]))])
        assert ("leave no kernel" in capsys.readouterr().err) == (not spared)


def elsewhere(config, command="train", **environ):
    """A command in a process that sees no GPU."""
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    words = [sys.executable, "-m", "longline", command, str(config)]
    environ = {**kept, "CUDA_VISIBLE_DEVICES": "", **environ}
    return subprocess.run(words, env=environ, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", ["check", "plan", "train"])
def test_no_cuda(run_config, command):
    config = run_config(plugins=[{"liger": {"rms_norm": True}}], model={"path": "nobody/nothing"}, trainer={"use_cpu": None})
    done = elsewhere(config, command)
    assert done.returncode == 3
    assert "Liger's kernels need CUDA, and there is none on this machine" in done.stderr
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
    """As far as a machine without a GPU can tell: for the interpreter, whose arithmetic is float32."""
    monkeypatch.chdir(EXAMPLES.parents[1])
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    plain = ["--set", "trainer.bf16=false"]
    assert run_cli(["check", str(EXAMPLES / "config.yaml"), *plain]) == 0
    without_loss = ["--set", "plugins.liger.fused_linear_cross_entropy=false", "--set", "plugins.cce={}"]
    assert run_cli(["check", str(EXAMPLES / "config.yaml"), *plain, *without_loss]) == 0, capsys.readouterr().err
