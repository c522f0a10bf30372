"""Real methods on a tiny model, through the real entry point: what the trainer used is what tables, files and command show."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from longline.cli import run_cli
from longline.testing import HookRecorder

LONGLINE = [sys.executable, "-m", "longline"]


@pytest.fixture
def prefer(run_config, tmp_path):
    """Return a function that writes a config of a method on rows of its own."""

    def write(method: str = "dpo", **more) -> Path:
        rows = [
            {"prompt": f"How many hooks for {index}?", "chosen": f"Take {index}.", "rejected": "I don't know."}
            for index in range(32)
        ]
        make = {"kto": lambda n, row: {"prompt": row["prompt"], "completion": row["chosen"], "label": n % 2 == 0}}
        make["grpo"] = lambda _, row: {"prompt": row["prompt"]}
        rows = [{**make.get(method, lambda _, row: row)(n, row), "source": f"page {n}"} for n, row in enumerate(rows)]
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        trainer = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, **more.pop("trainer", {})}
        data = {"train": [{"path": str(path)}], **more.pop("data", {})}
        plugins = {"completions": more.pop("options", {}), **more.pop("beside", {})}
        return run_config(method=method, data=data, trainer=trainer, plugins=plugins, **more)

    return write


def files(folder: Path) -> dict[str, pd.DataFrame]:
    return {path.name: pd.read_parquet(path) for path in sorted((folder / "completions").glob("step-*.parquet"))}


def test_dpo_shows_what_the_trainer_logged(prefer, run_longline, kit, capsys):
    """The mean margin of a step's rows is the margin in the log, which trl computed by itself."""
    shown = kit.Shown()
    outcome = run_longline(prefer(options={"every": 2}), plugins=[shown])
    found = files(outcome.output_dir)
    assert {name: frame["step"].tolist() for name, frame in found.items()} == {
        "step-000002.parquet": [1] * 8 + [2] * 8,
        "step-000004.parquet": [3] * 8 + [4] * 8,
        "step-000005.parquet": [5] * 8,
    }
    frame = pd.concat(found.values())
    assert [len(table.rows) for table in shown.tables] == [16, 16, 8]
    for event in outcome.log:
        if "rewards/margins" in event:
            mean = frame[frame["step"] == event["step"]]["margin"].mean()
            assert mean == pytest.approx(event["rewards/margins"], abs=1e-5)
    assert set(frame["rejected"]) == {"I don't know."}
    capsys.readouterr()
    assert run_cli(["completions", str(outcome.output_dir), "--worst", "--limit", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["margin"] == pytest.approx(frame["margin"].min())


@pytest.mark.parametrize("sample", ["worst", "best"])
def test_kto_has_labels_and_is_sampled_by_its_reward(prefer, run_longline, sample):
    options = {"every": 5, "max_rows": 3, "sample": sample}
    everything = files(run_longline(prefer("kto", trainer={"learning_rate": 1e-2})).output_dir)
    outcome = run_longline(prefer("kto", options=options, trainer={"learning_rate": 1e-2}), overwrite=True)
    (rows,) = everything.values()
    (kept,) = files(outcome.output_dir).values()
    assert str(kept["label"].dtype) == "bool"
    expected = rows["reward"].sort_values(ascending=sample == "worst").tolist()[:3]
    assert kept["reward"].tolist() == pytest.approx(expected)


def test_grpo_has_a_column_for_each_reward_function(prefer, run_longline, tmp_path, capsys):
    (tmp_path / "scoring.py").write_text(
        "def length(completions, **_):\n    return [float(len(text)) for text in completions]\n"
        "def even(completions, **_):\n    return [1.0 if len(text) % 2 else None for text in completions]\n"
    )
    rewards = [{"function": "scoring:length", "weight": 0.5}, {"function": "scoring:even"}]
    trainer = {"num_generations": 4, "max_completion_length": 8, "max_steps": 2}
    outcome = run_longline(prefer("grpo", rewards=rewards, trainer=trainer))
    (frame,) = files(outcome.output_dir).values()
    assert list(frame) == ["step", "prompt", "completion", "length", "even", "reward", "advantage"]
    assert frame["length"].tolist() == [len(text) for text in frame["completion"]]
    assert frame["even"].isna().any() == any(len(text) % 2 == 0 for text in frame["completion"])
    assert run_cli(["completions", str(outcome.output_dir), "--best", "--limit", "3"]) == 0


SCORING = "def length(completions, **_):\n    return [float(len(text)) for text in completions]\n"


BRINGS = """
from longline import Plugin, RewardFunction, hookimpl

class Brings(Plugin):
    @hookimpl
    def provide_reward_functions(self):
        return [RewardFunction("weight", lambda completions, **_: [1.0 for _ in completions])]
"""


@pytest.mark.parametrize(
    ("method", "more", "column", "told", "meant"),
    [
        ("dpo", {}, "reward_choosen", "the rows of dpo have no 'reward_choosen'", "did you mean 'reward_chosen'?"),
        ("kto", {}, "margin", "the rows of kto have no 'margin'", "there are prompt, completion, label, reward"),
        ("grpo", {"rewards": "scoring:length"}, "lenght", "the rows of grpo have no 'lenght'", "did you mean 'length'?"),
        ("dpo", {"data": {"keep": "source"}}, "sorce", "the rows of dpo have no 'sorce'", "did you mean 'source'?"),
    ],
)
def test_a_column_that_the_method_does_not_have(prefer, tmp_path, capsys, method, more, column, told, meant):
    config = prefer(method, options={"columns": ["prompt", column]}, **more)
    for command in ("check", "plan", "train"):
        assert run_cli([command, str(config)]) == 3
        said = capsys.readouterr().err
        assert f"plugins.completions.columns: {told}" in said
        assert meant in said
    assert not (tmp_path / "run").exists()


def test_columns_of_reward_functions_and_of_the_data_are_known(prefer, run_longline, tmp_path):
    (tmp_path / "scoring.py").write_text(SCORING)
    trainer = {"num_generations": 4, "max_completion_length": 8, "max_steps": 1}
    options = {"columns": ["source", "length"]}
    config = prefer("grpo", rewards="scoring:length", trainer=trainer, options=options, data={"keep": "source"})
    (frame,) = files(run_longline(config).output_dir).values()
    assert list(frame) == ["step", "source", "length"]
    assert set(frame["source"]) <= {f"page {index}" for index in range(32)}


@pytest.mark.parametrize(("column", "status"), [("weight", 0), ("wieght", 3)])
def test_what_another_plugin_brings_is_looked_at_before_training(prefer, tmp_path, column, status):
    """Its reward functions are known in the run alone: check passes both columns, and training starts with the right one."""
    site = tmp_path / "site"
    info = site / "longline_brings-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "brings.py").write_text(BRINGS)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: longline-brings\nVersion: 1.0\n\n")
    (info / "entry_points.txt").write_text("[longline]\nbrings = brings:Brings\n")
    trainer = {"num_generations": 4, "max_completion_length": 8, "max_steps": 1}
    config = prefer("grpo", trainer=trainer, options={"columns": ["prompt", column]}, beside={"brings": {}})

    def longline(command):
        environ = {**os.environ, "PYTHONPATH": str(site)}
        return subprocess.run([*LONGLINE, command, str(config)], env=environ, capture_output=True, text=True, check=False)

    assert longline("check").returncode == 0
    done = longline("train")
    assert done.returncode == status, done.stderr
    if status:
        assert "columns: the rows of grpo have no 'wieght'" in done.stderr
        assert "did you mean 'weight'?" in done.stderr
        assert not (tmp_path / "run" / "log.jsonl").exists()
    else:
        (frame,) = files(tmp_path / "run").values()
        assert set(frame["weight"]) == {1.0}


@pytest.mark.parametrize("sample", ["worst", "best"])
def test_sft_compares_nothing(run_config, tmp_path, capsys, sample):
    config = run_config(plugins={"completions": {"sample": sample}})
    for command in ("check", "plan", "train"):
        assert run_cli([command, str(config)]) == 3
        said = capsys.readouterr().err
        assert "method: completions: method sft compares no completions" in said
        assert "remove completions from plugins:" in said
    assert not (tmp_path / "run").exists()


def test_an_evaluation_brings_no_rows(prefer, run_longline, tmp_path):
    data = {"eval_fraction": 0.5}
    config = prefer(options={"every": 1})
    recorder = HookRecorder()
    text = config.read_text().replace("data:\n", f"data:\n  eval_fraction: {data['eval_fraction']}\n")
    config.write_text(text)
    outcome = run_longline(config, recorder=recorder)
    assert recorder.hooks("on_evaluate")
    assert all(len(frame) <= 8 for frame in files(outcome.output_dir).values())


def test_ctrl_c_to_the_real_command_and_on_again(prefer, tmp_path):
    config, folder = prefer(options={"every": 1_000_000}, trainer={"max_steps": 100_000}), tmp_path / "run"
    process = subprocess.Popen([*LONGLINE, "train", str(config)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 90
    while not (folder / "log.jsonl").is_file() or len((folder / "log.jsonl").read_text().splitlines()) < 3:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    steps = json.loads((folder / "run.json").read_text())["summary"]["steps"]
    ((name, frame),) = files(folder).items()
    assert name == f"step-{steps:06d}.parquet"
    assert frame["step"].tolist()[-1] == steps
    assert len(frame) == min(128, 8 * steps)
    again = [*LONGLINE, "train", str(config), "--resume", "--set", f"trainer.max_steps={steps + 2}"]
    done = subprocess.run(again, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = files(folder)
    assert list(found) == [name, f"step-{steps + 2:06d}.parquet"]
    assert found[name].equals(frame)
    assert found[f"step-{steps + 2:06d}.parquet"]["step"].tolist() == [steps + 1] * 8 + [steps + 2] * 8


def test_two_ranks_make_one_table_of_all_rows(prefer, tmp_path):
    config = prefer(trainer={"max_steps": 2})
    done = subprocess.run([*LONGLINE, "train", str(config), "--nproc", "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (frame,) = files(tmp_path / "run").values()
    assert frame["step"].tolist() == [1] * 16 + [2] * 16
    assert frame["prompt"].nunique() > 16
