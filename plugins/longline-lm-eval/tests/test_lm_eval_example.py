"""The example in examples/lm-eval runs as it is, on a tiny model; and the plugin is what a plugin has to be."""

from __future__ import annotations

import json
from pathlib import Path

from longline.cli import run_cli
from longline_lm_eval.plugin import LmEvalPlugin


def test_the_example_runs(tiny_model_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(Path(__file__).parents[3])
    run = tmp_path / "run"
    paths = {"model.path": tiny_model_dir, "output_dir": run, "data.cache_dir": tmp_path / "cache"}
    less = {"trainer.use_cpu": "true", "trainer.max_steps": 4, "trainer.save_steps": 2, "plugins.lm-eval.limit": 5}
    given = [word for name, value in {**paths, **less}.items() for word in ("--set", f"{name}={value}")]
    assert run_cli(["train", "examples/lm-eval/config.yaml", *given, "--set", "plugins.lm-eval.every=2"]) == 0
    assert "reminder_day   0       5     acc" in capsys.readouterr().out
    for which in ("checkpoint-2", "model"):
        found = json.loads((run / "lm_eval" / which / "results.json").read_text())
        assert found["results"].keys() == {"reminder_json", "reminder_day", "reminders"}
        assert found["chat_template_sha"]


def test_it_is_well_behaved(assert_well_behaved, tasks):
    options = {"tasks": ["fish_text"], "include_path": str(tasks), "every": 2}
    assert_well_behaved(LmEvalPlugin, options, ignore=["lm_eval/"], trainer={"save_strategy": "steps", "save_steps": 1})
