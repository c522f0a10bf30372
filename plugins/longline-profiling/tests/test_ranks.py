"""Two real ranks over gloo: each one's figures, and the slower one by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import yaml

from longline.testing import chat

TAKEN = "profiling/Time taken: "
SLOW = """
import os
import time

from longline import Plugin, hookimpl

class SlowPlugin(Plugin):
    @hookimpl
    def provide_collator(self, run, tokenizer):
        from longline.data.collate import Collator
        from longline.data.kinds import load

        collate = Collator(pad_token_id=int(tokenizer.pad_token_id), kind=load(run.method.kind), packing=run.plan.packing)

        def slowly(rows):
            time.sleep(0.03 * int(os.environ["RANK"]))
            return collate(rows)

        return slowly
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory, tiny_model_dir):
    """A run of two ranks, the second of which has a slow loader."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chat(32)))
    # A distribution that is found without being installed: its metadata lies on the path.
    (folder / "slow_loader.py").write_text(SLOW)
    info = folder / "slow_loader-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: slow-loader\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[longline]\nslow = slow_loader:SlowPlugin\n")
    config = {
        "model": {"path": str(tiny_model_dir)},
        "data": {"train": str(folder / "rows.jsonl"), "max_length": 128, "cache_dir": str(folder / "cache")},
        "trainer": {
            "max_steps": 6,
            "per_device_train_batch_size": 2,
            "logging_steps": 2,
            "save_strategy": "no",
            "use_cpu": True,
        },
        "plugins": {"slow": {}, "profiling": {"peak_tflops": 1, "steps": {"start": 2, "count": 2, "ranks": "all"}}},
        "output_dir": str(folder / "run"),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "longline", "train", str(folder / "config.yaml"), "--nproc", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stdout


def test_the_figures_of_each_rank_are_kept(two):
    folder, out = two
    (session,) = json.loads((folder / "profile" / "timings.json").read_text())["sessions"]
    first, second = session["ranks"]
    for rank in (first, second):
        assert rank["SFTTrainer.training_step"]["calls"] == 6
        assert rank["SFTTrainer.training_step"]["max"] >= rank["SFTTrainer.training_step"]["mean"] > 0
    assert second["SFTTrainer.data_wait"]["mean"] >= 0.03 > first["SFTTrainer.data_wait"]["mean"]
    assert out.count("mean / max ms of each rank") == 1
    own = next(row for row in session["spans"] if row["name"] == "SFTTrainer.training_step")
    assert own["mean"] == pytest.approx(first["SFTTrainer.training_step"]["mean"])


def test_metrics_are_of_all_ranks_and_name_the_slowest(two):
    folder, _ = two
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    logged = [event for event in events if "loss" in event]
    assert [event["step"] for event in logged] == [1, 2, 4, 6]
    for event in logged:
        mean, slowest = event[TAKEN + "SFTTrainer.data_wait"], event[TAKEN + "SFTTrainer.data_wait (slowest rank)"]
        assert slowest >= 0.03
        assert 0.015 <= mean < slowest


def test_tokens_and_mfu_are_of_all_ranks(two):
    folder, _ = two
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    tokens = [event for event in events if "num_tokens" in event][-1]["num_tokens"]
    (session,) = json.loads((folder / "profile" / "timings.json").read_text())["sessions"]
    found = session["throughput"]
    assert found["tokens_per_second"] * found["seconds"] == pytest.approx(tokens)
    assert found["mfu_percent"] == pytest.approx(100 * found["flops"] / found["seconds"] / 2e12)
    assert found["flops"] > found["flops_per_token_without_attention"] * tokens


def test_each_rank_writes_its_trace(two):
    folder, out = two
    names = sorted(path.name for path in (folder / "profile").iterdir())
    assert names == ["timings.json", "trace-rank0-steps-2-3.json.gz", "trace-rank1-steps-2-3.json.gz"]
    assert out.count("trace written") == 1
