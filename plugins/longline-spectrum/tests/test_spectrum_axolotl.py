"""A config of axolotl with Spectrum, by `longline convert`."""

from __future__ import annotations

LISTED = "plugins: [axolotl.integrations.spectrum.SpectrumPlugin]\n"
BESIDE = {"threshold": "published", "always": ["embeddings", "head"]}


def test_the_fraction_and_another_model(convert_axolotl):
    plugins, told = convert_axolotl(LISTED + "spectrum_top_fraction: 0.25\nspectrum_model_name: owner/other\n")
    assert plugins == {"spectrum": {"top_fraction": 0.25, "model": "owner/other", **BESIDE}}
    assert "no equal" not in told
    assert "scanned here" in told


def test_its_default_is_a_half(convert_axolotl):
    assert convert_axolotl(LISTED)[0] == {"spectrum": {"top_fraction": 0.5, **BESIDE}}


def test_the_same_model_is_not_named_twice(convert_axolotl):
    plugins, told = convert_axolotl(LISTED + "spectrum_model_name: some/model\nspectrum_top_fraction: 0.5\n")
    assert plugins["spectrum"].get("model") in (None, "some/model")
    assert "no equal" not in told


def test_without_the_plugin_nothing_is_read(convert_axolotl):
    plugins, told = convert_axolotl("spectrum_top_fraction: 0.25\n")
    assert plugins is None
    assert "not read" in told
