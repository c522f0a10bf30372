"""Two real ranks over gloo, DDP and FSDP2: the losses of one process without the plugin. And torch.compile of the trainer."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from longline.cli import run_cli

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
KINDS = {
    "ddp": {},
    "fsdp": {"trainer": {"fsdp": True}},
    "fsdp with lora on the head": {
        "trainer": {"fsdp": True},
        "adapter": {"type": "lora", "r": 4, "target_modules": ["q_proj", "lm_head"]},
    },
    "ddp with lora": {"adapter": {"type": "lora", "r": 4, "target_modules": ["q_proj"]}},
}


def events(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_have_the_losses_of_one_without_the_plugin(kind, run_config, chat_rows, tmp_path):
    data = {"eval": [{"path": str(chat_rows), "format": "chat", "limit": 4}]}
    alone = {**KINDS[kind], "trainer": {"eval_strategy": "steps", "eval_steps": 3, "per_device_train_batch_size": 4}}
    assert run_cli(["train", str(run_config(**alone, data=data, output_dir=str(tmp_path / "one")))]) == 0
    trainer = {**alone["trainer"], "per_device_train_batch_size": 2, **KINDS[kind].get("trainer", {})}
    options = {**KINDS[kind], "trainer": trainer, "data": data, "plugins": [{"cce": {"chunk_tokens": 9}}]}
    config = run_config(**options, output_dir=str(tmp_path / "two"))
    command = [sys.executable, "-m", "longline", "train", str(config), "--nproc", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("cce, the loss at the output head") == 1
    one, two = events(tmp_path / "one"), events(tmp_path / "two")
    for metric in ("loss", "grad_norm", "eval_loss"):
        expected, found = ([event[metric] for event in log if metric in event] for log in (one, two))
        assert expected
        assert found == pytest.approx(expected, rel=1e-3 if metric == "grad_norm" else 2e-5), metric


def test_a_refusal_on_two_ranks_ends_both(run_config):
    config = run_config(plugins=[{"cce": {"impl": "cce"}}])
    command = [sys.executable, "-m", "longline", "train", str(config), "--nproc", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT, check=False)
    assert done.returncode == 3
    assert "its kernels need CUDA, and this run is on cpu" in done.stderr
    assert "Traceback" not in done.stderr


def test_torch_compile_of_the_trainer_has_the_same_losses(run_longline, tmp_path):
    plain = run_longline(trainer={"max_steps": 2}, output_dir=str(tmp_path / "plain"))
    ours = run_longline(
        trainer={"max_steps": 2, "torch_compile": True},
        plugins=[{"cce": {"chunk_tokens": 50}}],
        output_dir=str(tmp_path / "ours"),
    )
    expected, found = ([event["loss"] for event in run.log if "loss" in event] for run in (plain, ours))
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_library_through_torch_compile_has_the_same_losses(run_longline, tmp_path):
    pytest.importorskip("cut_cross_entropy")
    plain = run_longline(trainer={"max_steps": 2}, output_dir=str(tmp_path / "plain"))
    ours = run_longline(
        trainer={"max_steps": 2}, plugins=[{"cce": {"impl": "torch_compile"}}], output_dir=str(tmp_path / "ours")
    )
    expected, found = ([event["loss"] for event in run.log if "loss" in event] for run in (plain, ours))
    assert found == pytest.approx(expected, rel=1e-4)
