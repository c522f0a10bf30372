"""The memory allocator: a step on a CPU finds the memory of the step before, and what a user has set is kept."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from longline import Plugin, hookimpl
from longline.plugins import PluginConfig
from longline.process import allocator

BLOCK, BLOCKS = 60 * allocator.MIB, 4
PAGES = BLOCK * BLOCKS // resource.getpagesize()


def page_faults() -> int:
    """Pages that the system hands out for what a step would claim and free again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [bytearray(BLOCK) for _ in range(BLOCKS)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    """Memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def blocks_outside_and_inside() -> list[object]:
    """Page faults before, in and after the block, each the second time, and whether the memory is back in the end."""
    page_faults()
    outside = page_faults()
    with allocator.keeping() as kept:
        page_faults()
        inside, held = page_faults(), resident()
    return [kept, outside > PAGES / 4, inside < PAGES / 100, held - resident() > BLOCK * BLOCKS / 2]


class Claims(Plugin):
    """Claims memory in every step, as another step would."""

    def __init__(self) -> None:
        super().__init__(PluginConfig())
        self.faults: list[int] = []

    @hookimpl
    def on_step_end(self):
        self.faults.append(page_faults())


def told_by_a_process(**environment: str) -> str:
    """What a fresh process finds, in which no run has told the C library anything yet."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    code = "import test_allocator; print(test_allocator.blocks_outside_and_inside())"
    command = [sys.executable, "-c", code]
    path = {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(command, env={**clean, **path, **environment}, capture_output=True, text=True, check=True)
    return done.stdout.strip()


pytestmark = pytest.mark.skipif(not allocator._is_glibc(), reason="only glibc can be told")


def test_freed_memory_stays_in_the_block_and_goes_back_after_it():
    assert told_by_a_process() == "[True, True, True, True]"


@pytest.mark.parametrize("environment", [{"MALLOC_TOP_PAD_": "0"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}])
def test_what_the_user_set_is_kept(environment):
    assert told_by_a_process(**environment) == "[False, True, False, False]"


def test_a_step_finds_the_memory_of_the_step_before(run_longline):
    claims = Claims()
    run_longline(trainer={"max_steps": 3}, plugins=[claims])
    assert claims.faults[-1] < PAGES / 100
