"""A student, a teacher of another shape, and rows, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from longline.testing import write_tiny_model


@pytest.fixture(scope="session")
def teacher_dir(tmp_path_factory) -> Path:
    """Another random model with the tiny model's tokenizer."""
    folder = tmp_path_factory.mktemp("teacher") / "teacher"
    write_tiny_model(folder, seed=7, hidden_size=48, initializer_range=0.3)
    return folder
