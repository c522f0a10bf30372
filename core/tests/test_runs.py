"""`longline runs`: real runs of several methods, listed, filtered, shown, compared and deleted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from longline.cli import run_cli
from longline.record import Record
from longline.testing import chat, merged, preferences


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_model_dir) -> Path:
    """Three finished runs, one of them below a folder, and one that failed in its first step."""
    folder = tmp_path_factory.mktemp("runs")
    for name, rows in (("chat", chat(24)), ("pairs", preferences(24))):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = {
        "model": {"path": str(tiny_model_dir), "dtype": "float32"},
        "data": {"train": str(folder / "chat.jsonl"), "eval": str(folder / "chat.jsonl"), "max_length": 128},
        "trainer": {
            "max_steps": 4,
            "per_device_train_batch_size": 2,
            "logging_steps": 1,
            "eval_strategy": "steps",
            "eval_steps": 2,
            "learning_rate": 0.01,
            "save_strategy": "no",
            "use_cpu": True,
        },
    }
    pairs = {"train": str(folder / "pairs.jsonl"), "eval": str(folder / "pairs.jsonl")}
    made = {
        "slow": {"trainer": {"learning_rate": 1e-5}},
        "deep/saved": {
            "adapter": {"type": "lora", "r": 4},
            "trainer": {"save_strategy": "steps", "save_steps": 2, "max_steps": 5},
        },
        "pairs": {"method": "dpo", "adapter": {"type": "lora", "r": 4}, "data": pairs},
        "broke": {"trainer": {"learning_rate": 1e30}},
    }
    for name, overrides in made.items():
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(merged(base, {**overrides, "output_dir": str(folder / name)})))
        assert run_cli(["train", str(config)]) == (1 if name == "broke" else 0)
    return folder


@pytest.fixture
def said(runs, capsys, monkeypatch):
    """Run a command in the folder of runs and return its exit status, its lines and what it said beside them."""
    monkeypatch.chdir(runs)

    def call(*words: str) -> tuple[int, list[str], str]:
        status = run_cli(["runs", *words])
        out, err = capsys.readouterr()
        return status, out.splitlines(), err

    return call


def names(lines: list[str]) -> list[str]:
    return [line.split()[0] for line in lines[1:]]


def test_the_newest_is_first_and_a_broken_manifest_is_left_out(said, runs):
    (runs / "torn").mkdir()
    (runs / "torn" / "run.json").write_text("{")
    try:
        status, lines, err = said(".")
        assert status == 0
        assert "left out: torn/run.json cannot be read" in err
    finally:
        shutil.rmtree(runs / "torn")
    assert lines[0].split() == ["run", "status", "method", "steps", "loss", "eval_loss", "seconds", "started"]
    assert names(lines) == ["broke", "pairs", "deep/saved", "slow"]
    assert lines[2].split()[1:4] == ["completed", "dpo", "4"]
    assert f"{Record.of(runs / 'pairs').metrics['eval_loss']:.4f}" in lines[2]


def test_sorted_by_any_value_those_without_it_last(said, runs):
    by_loss = sorted(("slow", "deep/saved", "pairs"), key=lambda name: Record.of(runs / name).metrics["eval_loss"])
    assert names(said(".", "--sort", "eval_loss")[1]) == [*by_loss, "broke"]
    assert names(said(".", "--sort", "-eval_loss")[1]) == [*by_loss[::-1], "broke"]
    assert names(said(".", "--sort", "method", "--sort", "-trainer.learning_rate")[1]) == [
        "pairs",
        "broke",
        "deep/saved",
        "slow",
    ]


@pytest.mark.parametrize(
    ("condition", "left"),
    [
        ("method=dpo", {"pairs"}),
        ("status != completed", {"broke"}),
        ("trainer.learning_rate<=1e-5", {"slow"}),
        ("trainer.learning_rate > 0.001", {"broke", "pairs", "deep/saved"}),
        ("adapter.type=lora", {"pairs", "deep/saved"}),
        ("adapter!=null", {"pairs", "deep/saved"}),
        ("run~SAV", {"deep/saved"}),
        ("eval_loss<1e9", {"pairs", "deep/saved", "slow"}),
        ("eval_loss<a", set()),
        ("plan.dtype=float32", {"broke", "pairs", "deep/saved", "slow"}),
    ],
)
def test_conditions(said, condition, left):
    status, lines, err = said(".", "--where", condition)
    assert (status, set(names(lines))) == (0, left)
    assert (f"{len(left)} of 4 runs" in err) == (len(left) < 4)


def test_columns_of_choice(said):
    status, lines, _ = said(".", "--columns", "run,trainer.learning_rate,size", "--where", "method=dpo")
    assert status == 0
    assert lines[0].split() == ["run", "trainer.learning_rate", "size"]
    assert lines[1].split()[:2] == ["pairs", "0.01"]
    assert said(".", "--columns", "+plan.device")[1][0].split()[-2:] == ["started", "plan.device"]


@pytest.mark.parametrize("words", [("--sort", "eval_los"), ("--where", "eval_los<1"), ("--columns", "eval_los")])
def test_a_name_that_no_run_has_gets_the_nearest(said, words):
    status, _, err = said(".", *words)
    assert status == 2
    assert "none of these runs has 'eval_los'" in err
    assert "did you mean 'eval_loss'?" in err


def test_what_is_no_condition(said):
    status, _, err = said(".", "--where", "eval_loss")
    assert status == 2
    assert "'eval_loss' is no condition" in err


def test_as_json_one_run_a_line(said, runs):
    rows = [json.loads(line) for line in said(".", "--json", "--sort", "steps", "--where", "method=sft")[1]]
    assert [row["path"] for row in rows] == ["slow", "deep/saved", "broke"] or rows[0]["path"] == "broke"
    assert rows[-1]["summary"] == json.loads((runs / rows[-1]["path"] / "run.json").read_text())["summary"]


def test_nothing_there(said, tmp_path):
    status, _, err = said(str(tmp_path))
    assert (status, f"no run below {tmp_path}" in err) == (2, True)
    assert said(str(tmp_path / "nowhere"))[0] == 2


def test_a_run_on_a_screen(said, runs):
    status, lines, _ = said("show", "deep/saved")
    text = "\n".join(lines)
    record = Record.of(runs / "deep/saved")
    losses = [event["loss"] for event in record.log if "loss" in event]
    assert status == 0
    assert f"{losses[0]:.4f} to {losses[-1]:.4f}, least {min(losses):.4f} at step" in text
    assert "5 of 5 steps" in text
    assert "checkpoint-4" in text
    assert "longline merge deep/saved" in text
    assert "rows to evaluate on are trained on" in text


def test_a_run_that_failed_says_why_and_what_can_be_done(said):
    status, lines, _ = said("show", "broke")
    text = "\n".join(lines)
    assert status == 0
    assert "failed, exit status 1" in text
    assert "loss" in next(line for line in lines if line.startswith("error"))
    assert "longline train broke --overwrite" in text
    assert "longline generate" not in text


def test_what_differs_between_runs_and_what_came_of_each(said, runs):
    status, lines, _ = said("compare", "slow", "deep/saved", "--json")
    found = json.loads(lines[0])
    assert (status, found["runs"]) == (0, ["slow", "deep/saved"])
    assert found["config"]["trainer.learning_rate"] == [1e-5, 0.01]
    assert found["config"]["adapter.r"] == [None, 4]
    assert not {"method", "output_dir", "trainer.logging_steps"} & found["config"].keys()
    assert found["results"]["eval_loss"] == [Record.of(runs / name).metrics["eval_loss"] for name in ("slow", "deep/saved")]
    table = said("compare", "slow", "deep/saved")[1]
    assert next(line.split()[1:] for line in table if line.startswith("trainer.learning_rate")) == ["1e-05", "0.01"]


def test_one_run_alone_is_not_compared(said):
    assert said("compare", "slow")[0] == 2
    assert "is not a run folder" in said("compare", "slow", "nowhere")[2]


def test_rm_deletes_what_longline_wrote_and_nothing_else(said, runs, tmp_path):
    for name in ("whole", "mixed"):
        shutil.copytree(runs / "deep/saved", tmp_path / name)
    (tmp_path / "mixed" / "notes.txt").write_text("mine")
    whole, mixed = str(tmp_path / "whole"), str(tmp_path / "mixed")
    assert said("rm", whole, mixed)[0] != 0  # nobody answers, so nothing is deleted
    assert (tmp_path / "whole" / "model").is_dir()
    status, lines, _ = said("rm", mixed, "--checkpoints", "--yes")
    assert status == 0
    assert "checkpoint-2, checkpoint-4, checkpoint-5" in lines[0]
    assert Record.of(tmp_path / "mixed").sizes.keys() == {"run.json", "config.yaml", "log.jsonl", "model"}
    status, lines, _ = said("rm", whole, mixed, "--yes")
    assert status == 0
    assert "notes.txt in it is not Longline's" in lines[-1]
    assert not (tmp_path / "whole").exists()
    assert [path.name for path in (tmp_path / "mixed").iterdir() if path.name != ".lock"] == ["notes.txt"]


def test_rm_of_a_run_that_goes_on_or_of_no_run(said, runs, tmp_path):
    from filelock import FileLock

    shutil.copytree(runs / "slow", tmp_path / "busy")
    with FileLock(tmp_path / "busy" / ".lock"):
        status, _, err = said("rm", str(tmp_path / "busy"), "--yes")
    assert (status, "in use by another run" in err) == (2, True)
    assert (tmp_path / "busy" / "model").is_dir()
    status, _, err = said("rm", str(tmp_path), "--yes")
    assert (status, "is not a run folder" in err) == (2, True)
