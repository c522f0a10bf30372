"""What a process can compute on, with torch and without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from longline.parallel.machine import machine, quick_machine

QUICK = """
import json, sys, time
from dataclasses import asdict
from longline.parallel.machine import quick_machine
begin = time.perf_counter()
found = quick_machine(use_cpu=sys.argv[1] == "cpu")
seconds = time.perf_counter() - begin
print(json.dumps({"machine": asdict(found), "seconds": seconds, "torch": "torch" in sys.modules}))
"""


def quick(use_cpu, **environ):
    command = [sys.executable, "-c", QUICK, "cpu" if use_cpu else "any"]
    done = subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("use_cpu", [True, False])
def test_what_is_found_without_torch_is_what_torch_finds(use_cpu):
    found, expected = quick(use_cpu)["machine"], machine(use_cpu=use_cpu)
    assert (found["device"], found["bfloat16"], found["world_size"]) == (
        expected.device,
        expected.bfloat16,
        expected.world_size,
    )
    assert replace(expected, threads=0, threads_why="") == quick_machine(use_cpu=use_cpu)


def test_it_imports_no_torch_and_takes_no_time():
    runs = [quick(use_cpu=False) for _ in range(3)]
    assert not any(run["torch"] for run in runs)
    if runs[0]["machine"]["device"] == "cpu":
        assert min(run["seconds"] for run in runs) < 0.005


def test_it_knows_ranks_and_hidden_gpus():
    found = quick(use_cpu=False, RANK="1", WORLD_SIZE="4", CUDA_VISIBLE_DEVICES="")["machine"]
    assert found["world_size"] == 4
    assert found["device"] != "cuda"
