"""What the plugin relies on beyond the documentation of the harness still holds for what is installed."""

from __future__ import annotations

import pytest

from longline_lm_eval.upstream import ASSUMPTIONS


@pytest.mark.parametrize("assumption", ASSUMPTIONS, ids=lambda assumption: assumption.about)
def test_what_is_assumed_still_holds(assumption):
    assert assumption.broken() is None, assumption.broken()
