"""A folder with a small mixture of experts, that of the example."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "examples" / "densemixer"


@pytest.fixture(scope="session")
def mixture_dir(tmp_path_factory):
    """Qwen3-MoE of two layers with 16 experts, random, with a tokenizer."""
    folder = tmp_path_factory.mktemp("densemixer") / "model"
    runpy.run_path(str(EXAMPLE / "model.py"))["main"](str(folder))
    return folder
