"""A scan streams: it takes less memory than the matrix that it measures. Of 2 GB: `tox -e spectrum_memory`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from planting import write

CODE = """
import sys
from longline.cli import run_cli
assert run_cli(["spectrum", "scan", sys.argv[1]]) == 0
(line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(int(line.split()[1]) * 1024)
"""


def peak(folder):
    """Bytes of memory that a scan took at most. What the parent had, which getrusage counts too, is not in it."""
    done = subprocess.run([sys.executable, "-c", CODE, str(folder)], capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="only Linux tells the peak of a process")
@pytest.mark.parametrize("shape", [(24576, 1024), (1024, 24576)])
def test_a_matrix_is_never_whole_in_memory(shape, tmp_path):
    name = "model.layers.0.mlp.up_proj.weight"
    small = peak(write(tmp_path / "small", {name: np.ones((64, 64), np.float32)}))
    matrix = np.ones(shape, np.float32)
    assert peak(write(tmp_path / "large", {name: matrix})) - small < 0.75 * matrix.nbytes
