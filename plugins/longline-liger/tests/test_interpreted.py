"""Runs each file of `interpreted` in a process of its own, where Triton's kernels are made for the interpreter."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parent / "interpreted").glob("test_*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_in_the_interpreter(file):
    environ = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", str(file)]
    done = subprocess.run(words, env=environ, capture_output=True, text=True, check=False, cwd=file.parents[4])
    report = done.stdout.partition("short test summary info")[2] or done.stdout[-3000:] + done.stderr[-2000:]
    print(report)
    assert done.returncode == 0, report
    assert re.search(r"\d+ passed", done.stdout)
    assert "skipped" not in done.stdout
