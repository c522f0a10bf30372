"""Importing costs nothing: neither the decorator nor the plugin nor its commands import torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from longline_profiling.plugin import ProfilingPlugin

HEAVY = ("torch", "transformers", "trl", "datasets", "numpy")


@pytest.mark.parametrize(
    "code",
    [
        "import longline_profiling; longline_profiling.profiled(print)",
        "from longline_profiling import recording, profile\nwith recording() as r:\n  with profile('x'): pass\nr.summary()",
        "import longline_profiling.plugin as p; p.ProfilingPlugin(p.ProfilingConfig())",
        "import longline_profiling.cli, longline_profiling.analysis, longline_profiling.trace, longline_profiling.findings",
        "import longline_profiling.window, longline_profiling.meter, longline_profiling.flops, longline_profiling.peak",
    ],
)
def test_no_heavy_library(code):
    check = f"{code}\nimport sys\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_it_is_well_behaved(assert_well_behaved):
    assert_well_behaved(ProfilingPlugin, {"steps": {"start": 2, "count": 1}, "mfu": False}, ignore=["profiling/"])
