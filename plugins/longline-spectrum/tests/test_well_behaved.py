"""The checklist of all that a plugin has to be: resume, other plugins, and two ranks among it."""

from __future__ import annotations

from longline_spectrum.plugin import SpectrumPlugin


def test_the_plugin_is_well_behaved(assert_well_behaved):
    assert_well_behaved(SpectrumPlugin, {"top_fraction": 0.5, "always": ["norms"]})
