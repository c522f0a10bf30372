"""Threads: all cores shared by the ranks, what a user set is kept, and what a launcher made up is not."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from longline.process import threads

if TYPE_CHECKING:
    from pathlib import Path

WITHOUT = {name: value for name, value in os.environ.items() if name != threads.VARIABLE}

PLAN = """
import os, subprocess, sys
if len(sys.argv) > 1:
    os.environ["OMP_NUM_THREADS"] = sys.argv[1]
rank = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
code = "from longline.parallel import machine; made = machine.machine(use_cpu=True); print(made.threads, made.threads_why)"
print(subprocess.run([sys.executable, "-c", code], env={**os.environ, **rank}, capture_output=True, text=True, check=True).stdout)
"""


def told(environment: dict[str, str], *arguments: str) -> str:
    """What a rank says whose launcher was started with `environment` and sets the variable to the argument, as torchrun does."""
    command = [sys.executable, "-c", PLAN, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(threads.cores() == 1, reason="one core leaves no choice")
def test_what_a_launcher_made_up_is_not_what_the_user_wants():
    free = threads.cores()
    assert told(WITHOUT, "1") == f"{free} {free} cores"
    assert told({**WITHOUT, threads.VARIABLE: "1"}) == f"1 {threads.VARIABLE}"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
def test_a_process_that_is_bound_to_one_core_computes_with_one_thread():
    core = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, [{core}]); from longline.parallel import machine; "
        "made = machine.machine(use_cpu=True); print(made.threads, made.threads_why)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=WITHOUT, capture_output=True, text=True, check=True)
    assert done.stdout == "1 1 core\n"


@pytest.mark.skipif(threads.cores() == 1, reason="one core leaves no choice")
@pytest.mark.parametrize(("options", "number"), [([], threads.cores()), ([threads.ACCELERATE_OPTION, "1"], 1)])
def test_accelerates_own_choice_for_one_process_is_not_the_users(options, number, run_config):
    config = str(run_config(trainer={"use_cpu": True}))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", *options]
    done = subprocess.run(
        [*launch, "-m", "longline", "plan", config, "--json"], env=WITHOUT, capture_output=True, text=True, check=True
    )
    told = [fact for fact in json.loads(done.stdout)["facts"] if fact["name"] == "threads"]
    why = threads.VARIABLE if options else f"{number} cores"
    assert told == [{"name": "threads", "value": f"{number} per process", "why": why}]


def test_ranks_share_the_cores():
    assert threads.share(1) == threads.cores()
    assert threads.share(threads.cores()) == threads.share(1000) == 1


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, math.inf),
        ({"cpu.max": "max 100000\n"}, math.inf),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "400000 100000\n", "job/step/cpu.max": "200000 100000\n", "other/cpu.max": "10000 100000\n"}, 2),
        ({"job/cpu.max": "100000 100000\n", "job/step/cpu.max": "max 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
    ],
)
def test_the_limit_of_a_container_is_read(files, expected, tmp_path: Path):
    (tmp_path / "member").write_text("1:name=systemd:/x\n0::/job/step\n")
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert threads.quota(tmp_path / "groups", tmp_path / "member") == expected


def test_the_plan_says_how_many_threads_each_of_two_real_ranks_has(run_config):
    config = str(run_config(trainer={"use_cpu": True}))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "longline", "plan", config, "--json"], env=WITHOUT, capture_output=True, text=True, check=True
    )
    decoder, text, facts = json.JSONDecoder(), done.stdout.lstrip(), []
    while text:
        made, end = decoder.raw_decode(text)
        facts += [fact for fact in made["facts"] if fact["name"] == "threads"]
        text = text[end:].lstrip()
    free, part = threads.cores(), threads.share(2)
    assert facts == [{"name": "threads", "value": f"{part} per process", "why": f"{free} cores for 2 processes"}] * 2
