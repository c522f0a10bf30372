"""Two real ranks over gloo: together they have the numbers of one, and a fault of one of them keeps nobody waiting."""

from __future__ import annotations

import json

import pytest

RANKS = {"ddp": ({}, {}), "main alone": ({}, {"ranks": "main"}), "fsdp": ({"fsdp": "full_shard"}, {})}


def numbers(folder, which="model"):
    found = json.loads((folder / "lm_eval" / which / "results.json").read_text())
    values = {(name, key): value for name, inner in found["results"].items() for key, value in inner.items()}
    return {key: value for key, value in values.items() if isinstance(value, float)}


@pytest.mark.parametrize("kind", RANKS)
def test_two_ranks_have_the_numbers_of_one(kind, run_process, run_longline, tasks, broken, tmp_path):
    """The broken task fails on the second rank alone; lone has fewer rows than there are ranks."""
    more, options = RANKS[kind]
    lone = (
        (tasks / "fish_choice.yaml")
        .read_text()
        .replace("task: fish_choice", "task: lone")
        .replace("fish_choice.jsonl", "lone.jsonl")
    )
    (tasks / "lone.yaml").write_text(lone)
    (tasks / "lone.jsonl").write_text((tasks / "fish_choice.jsonl").read_text().splitlines()[0] + "\n")
    plugins = [
        {
            "lm-eval": {
                "tasks": [broken, "lone", "fish", "fish_text"],
                "include_path": str(tasks),
                "log_samples": True,
                **options,
            }
        }
    ]
    trainer = {"max_steps": 2, **more}
    # the rows of two ranks with 1 each are those of one rank with 2
    one = run_longline(plugins=plugins, trainer={"max_steps": 2}, output_dir=str(tmp_path / "one"))
    two = run_process(
        plugins=plugins, ranks=2, trainer={**trainer, "per_device_train_batch_size": 1}, output_dir=str(tmp_path / "two")
    )
    assert two.code == 0, two.text
    assert numbers(two.output_dir) == pytest.approx(numbers(one.output_dir), rel=1e-4, abs=1e-9)
    hashes = [json.loads((run.output_dir / "lm_eval/model/results.json").read_text())["task_hashes"] for run in (one, two)]
    assert hashes[0] == hashes[1], "rows in the same order"
    assert two.out.count("lm-eval of model") == 1
    assert "lm-eval on broken: " in two.text
    assert "ZeroDivisionError: no hooks" in two.text
    assert len([event for event in two.log if "lm_eval/fish_text/bits_per_byte" in event]) == 1
