"""A config of axolotl with cut cross entropy, by `longline convert`."""

from __future__ import annotations

import pytest

LISTED = "plugins: [axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin]\n"


@pytest.mark.parametrize("lines", [LISTED, LISTED + "cut_cross_entropy: true\n", LISTED + "cut_cross_entropy:\n"])
def test_listed_is_on(convert_axolotl, lines):
    plugins, told = convert_axolotl(lines)
    assert plugins == {"cce": {}}
    assert "no equal" not in told


def test_off_and_what_the_release_has_not(convert_axolotl):
    plugins, told = convert_axolotl(LISTED + "cut_cross_entropy: false\ncut_cross_entropy_accum_c_fp32: true\n")
    assert plugins is None
    assert "cut_cross_entropy_accum_c_fp32: true; nearest: the release" in told


def test_a_method_with_a_loss_of_its_own_keeps_it(convert_axolotl):
    plugins, told = convert_axolotl(LISTED + "rl: dpo\n")
    assert plugins is None
    assert "CutCrossEntropyPlugin; nearest: the trainer's own loss: this one is for sft" in told
