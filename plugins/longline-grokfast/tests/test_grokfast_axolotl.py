"""A config of axolotl with Grokfast, by `longline convert`."""

from __future__ import annotations

LISTED = "plugins: [axolotl.integrations.grokfast.GrokfastPlugin]\n"


def test_listed_is_on_with_its_numbers(convert_axolotl):
    assert convert_axolotl(LISTED)[0] == {"grokfast": {}}
    plugins, told = convert_axolotl(LISTED + "grokfast_alpha: 0.9\ngrokfast_lamb: 3\n")
    assert plugins == {"grokfast": {"alpha": 0.9, "lamb": 3}}
    assert "no equal" not in told


def test_numbers_that_stand_in_each_others_place_are_put_right_and_told(convert_axolotl):
    plugins, told = convert_axolotl(LISTED + "grokfast_alpha: 2.0\ngrokfast_lamb: 0.98\n")
    assert plugins == {"grokfast": {"alpha": 0.98, "lamb": 2.0}}
    assert "alpha and lamb stood in each other's place" in told


def test_without_the_plugin_axolotl_does_not_read_them(convert_axolotl):
    plugins, told = convert_axolotl("grokfast_alpha: 0.98\n")
    assert plugins is None
    assert "axolotl does not read it without its plugin" in told
