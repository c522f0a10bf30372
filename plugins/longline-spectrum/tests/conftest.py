"""A cache of scans that is nobody else's, and a model with planted signal."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for planting.py


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A cache folder of its own for each test."""
    monkeypatch.setenv("LONGLINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path) -> Path:
    """A model of five layers with planted signal."""
    from planting import tensors, write

    return write(tmp_path / "planted", tensors())
