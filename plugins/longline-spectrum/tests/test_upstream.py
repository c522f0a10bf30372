"""What is assumed of transformers and gguf holds for what is installed."""

from __future__ import annotations

import pytest

from longline_spectrum.upstream import ASSUMPTIONS


@pytest.mark.parametrize("assumption", ASSUMPTIONS, ids=lambda assumption: assumption.about)
def test_it_holds(assumption):
    assert assumption.broken() is None
