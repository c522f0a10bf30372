"""What the plugin relies on beyond the documentation of other libraries still holds for what is installed."""

from __future__ import annotations

import pytest

from longline_densemixer.upstream import ASSUMPTIONS


@pytest.mark.parametrize("assumption", ASSUMPTIONS, ids=lambda assumption: assumption.about)
def test_what_is_assumed_still_holds(assumption):
    assert assumption.broken() is None, assumption.broken()
