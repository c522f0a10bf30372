"""The checklist of all that a plugin has to be: resume, other plugins, and two ranks among it."""

from __future__ import annotations

from longline_grokfast.plugin import GrokfastPlugin


def test_it_is_well_behaved(assert_well_behaved):
    assert_well_behaved(GrokfastPlugin, {"alpha": 0.9})
